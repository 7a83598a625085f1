"""Inverses, one solver a file: (A + damping)⁻¹ v."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
