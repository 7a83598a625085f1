"""What is on disk: checkpoints, scores, records, fingerprints."""

from tda_jax import lazily

__getattr__ = lazily.modules(__name__, __path__)
