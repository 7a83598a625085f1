"""How good are scores? Arrays and retraining; no method is known here."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
