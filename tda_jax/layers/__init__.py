"""What a model does with its parameters, read from its jaxpr."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
