"""Rows: how they are batched, split, changed on purpose, and read from files."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
