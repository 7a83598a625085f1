"""Training of one model, and of many at once."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
