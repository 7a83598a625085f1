"""The curvature: products with it, EKFAC's blocks, inner products of gradients."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
