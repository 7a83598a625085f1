"""Chooses a damping by how well its scores predict retrained models (LDS)."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from tda_jax.evaluation import lds

_log = logging.getLogger(__name__)


def best_damping(
  scores_of: Callable[[float], np.ndarray],
  dampings: Sequence[float],
  subsets: np.ndarray,
  outcomes: np.ndarray,
  *,
  beyond: int = 0,
) -> tuple[float, dict[float, float]]:
  """(the damping with the best LDS, damping -> LDS of all that were tried).

  The LDS is that of the members' mean score. Choose on subsets (and, better,
  queries) that no reported figure uses.

  Args:
    scores_of: damping -> [E, N, Q], for example of `scoring.score`.
    dampings, beyond: see `best`.
    subsets, outcomes: [M, n] and [M, R, Q], from `evaluation.retraining`.
  """

  def value(damping):
    mean = scores_of(damping).mean(0)
    return float(lds.lds(mean, outcomes.mean(1), subsets).mean())

  return best(value, dampings, beyond=beyond)


def best(
  value_of: Callable[[float], float],
  dampings: Sequence[float],
  *,
  beyond: int = 0,
) -> tuple[float, dict[float, float]]:
  """(the damping of the largest value, damping -> value of all that were tried).

  Args:
    dampings: which to try.
    beyond: how many more to try where the best is the smallest or the largest of
      them: as far from it as it is from its neighbour, in logarithms. One at which
      the solver fails ends that, with a warning.

  Raises:
    ValueError: none has a value, or what `value_of` raises of `dampings`.
  """
  curve = {damping: value_of(damping) for damping in dampings}
  for _ in range(beyond):
    highest, order = _highest(curve), sorted(curve)
    if not at_edge(highest, curve) or order[0] <= 0:
      break
    end, neighbour = order[:2] if highest == order[0] else order[:-3:-1]
    further = end * end / neighbour
    try:
      curve[further] = value_of(further)
    except ValueError as error:
      _log.warning('no damping beyond %s is tried: %s', end, error)
      break
  return _highest(curve), curve


def _highest(curve):
  """The damping of the largest value."""
  known = {damping: v for damping, v in curve.items() if not np.isnan(v)}
  if not known:
    raise ValueError(
      f'no damping of {[*curve]} has a value: give others, or outcomes that vary'
    )
  return max(known, key=known.__getitem__)


def at_edge(damping: float, curve: dict[float, float]) -> bool:
  """Whether the damping is the smallest or largest of several that were tried."""
  return len(curve) > 1 and damping in (min(curve), max(curve))
