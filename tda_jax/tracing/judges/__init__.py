"""Judges: does a sentence support a claim? All are a `judge.Judge`."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
