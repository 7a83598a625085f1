"""Chooses a damping by how well its scores predict retrained models (LDS)."""

from collections.abc import Callable, Sequence

import numpy as np

from tda_jax.evaluation import lds


def best_damping(
  scores_of: Callable[[float], np.ndarray],
  dampings: Sequence[float],
  subsets: np.ndarray,
  outcomes: np.ndarray,
) -> tuple[float, dict[float, float]]:
  """(the damping with the best LDS, damping -> LDS of all that were tried).

  The LDS is that of the members' mean score. Choose on subsets (and, better,
  queries) that no reported figure uses.

  Args:
    scores_of: damping -> [E, N, Q], for example of `scoring.score`.
    dampings: which to try.
    subsets, outcomes: [M, n] and [M, R, Q], from `evaluation.retraining`.
  """
  curve = {}
  for damping in dampings:
    mean = scores_of(damping).mean(0)
    curve[damping] = float(lds.lds(mean, outcomes.mean(1), subsets).mean())
  return max(curve, key=curve.__getitem__), curve
