"""Networks, LoRA, and functions of flax models."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
