"""Sanity of scores: do they tell queries apart, and do they need the model?"""

import numpy as np

from tda_jax.evaluation import agreement, bootstrap, brittleness
from tda_jax.evaluation.bootstrap import Estimate


def top_k_cardinality(scores: np.ndarray, k: int = 1) -> float:
  """Different rows among the k strongest supporters of all queries, over Q·k.

  Barshan et al. 2020 (RelatIF) saw that influence names a few rows of large
  gradient for every query; the ratio is that of Bareeva et al. 2024, Quanda.
  From 1/Q (the same rows for all) to min(1, N/(Q·k)), larger is better, which
  says nothing of whether the rows are the right ones: scores drawn at random
  reach (1 − (1 − k/N)^Q) N/(Q·k), so that compare it only for the same N, Q, k.

  Of tied scores the first rows are taken, the same for all queries.

  Args:
    scores: [N, Q].

  Raises:
    ValueError: scores that are not finite, k not from 1 to N − 1.
  """
  top = _top(scores, k)
  return len(np.unique(top)) / top.size


def cardinality_interval(
  scores: np.ndarray, k: int = 1, *, resamples: int = 500, seed: int = 0
) -> Estimate:
  """`top_k_cardinality` with its 95% interval, for other queries of the kind.

  A resample holds queries twice, whose rows are never new: counted as it is, it
  would have about a third fewer. So the number of rows is resampled in its
  linear part: without query q it loses the rows that no other query names. By
  Efron & Stein 1981 the variance of such a jackknife is too large on average:
  the interval errs on the wide side (by √2 in width where few rows are shared).

  Raises:
    ValueError: as `top_k_cardinality`.
  """
  top = _top(scores, k)
  _, place, counts = np.unique(top, return_inverse=True, return_counts=True)
  alone = (counts[place.reshape(top.shape)] == 1).sum(axis=1) / k
  linear = bootstrap.of_queries(alone, resamples=resamples, seed=seed)
  value = len(counts) / top.size
  return bootstrap.estimate(value, linear.resampled, linear.drawn)


def randomisation(
  scores: np.ndarray, randomised: np.ndarray, kind: str = 'spearman'
) -> np.ndarray:
  """Rank correlation with the scores of a model of random parameters, [Q].

  The parameter randomisation test of Adebayo et al. 2018 and Hanawa et al.
  2021, as Quanda has it. From −1 to 1, LOWER is better: scores that stay as
  they are when all that was learnt is gone do not explain it. 0 is what
  unrelated scores have. Constant scores have 0 too and pass, so look at other
  metrics first.

  Args:
    scores: [N, Q] of the trained model.
    randomised: [N, Q] of the same method, with parameters drawn anew (and, for
      a method that is random itself, another key).
    kind: 'spearman' or 'kendall' (τ_b).

  Raises:
    ValueError: shapes that differ, scores that are not finite, another kind.
  """
  return agreement.rank_correlation(scores, randomised, kind)


def _top(scores, k):
  scores = agreement.matrix(scores, 'scores')
  if not 1 <= k < len(scores):
    raise ValueError(
      f'k={k} of {len(scores)} rows: give 1 to {len(scores) - 1}'
    )
  return brittleness.top(scores, k)
