"""Methods, one a file: what scores training rows for queries."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
