"""Sanity of scores: do they differ between queries, and depend on the model?"""

import numpy as np

from tda_jax.evaluation import agreement, bootstrap, brittleness
from tda_jax.evaluation.bootstrap import Estimate


def top_k_cardinality(scores: np.ndarray, k: int = 1) -> float:
  """Different rows among the k strongest supporters of all queries, over Q·k.

  From 1/Q (the same rows for all) to min(1, N/(Q·k)), larger is better. It does
  not say whether the rows are the right ones: random scores reach (1 − (1 −
  k/N)^Q) N/(Q·k), so compare it only for the same N, Q and k. Where scores are
  tied, the first rows are taken, the same for all queries.

  Sources: Barshan et al. 2020 (RelatIF), https://arxiv.org/abs/2003.11630, saw
  that influence names a few rows with large gradients for every query; the ratio
  is that of Bareeva et al. 2024, Quanda, https://arxiv.org/abs/2410.07158

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
  """`top_k_cardinality` with its 95% interval over other queries of the kind.

  A resample holds some queries twice, and their rows are not new: it would have
  about a third fewer rows. So only the linear part of the number of rows is
  resampled: without query q, the rows that no other query names are lost. The
  variance of such a jackknife is too large on average (Efron & Stein 1981,
  https://doi.org/10.1214/aos/1176345462), so that the interval is rather too
  wide (by √2 where few rows are shared).

  Raises:
    ValueError: as `top_k_cardinality`.
  """
  top = _top(scores, k)
  _, place, counts = np.unique(top, return_inverse=True, return_counts=True)
  alone = (counts[place.reshape(top.shape)] == 1).sum(axis=1) / k
  linear = bootstrap.of_queries(alone, resamples=resamples, seed=seed)
  value = len(counts) / top.size
  return bootstrap.estimate(value, linear.resampled, linear.drawn)


def random_cardinality(rows: int, queries: int, k: int = 1) -> float:
  """Expected `top_k_cardinality` of random scores, (1 − (1 − k/N)^Q) N/(Q·k)."""
  return (1 - (1 - k / rows) ** queries) * rows / (queries * k)


def randomisation(
  scores: np.ndarray, randomised: np.ndarray, kind: str = 'spearman'
) -> np.ndarray:
  """Rank correlation with the scores of a model of random parameters, [Q].

  From −1 to 1, LOWER is better: scores that do not change when all that was
  learnt is gone do not explain the model. Unrelated scores have 0. Constant
  scores have 0 too and pass the test, so look at other metrics first.

  Sources: the parameter randomisation test of Adebayo et al. 2018,
  https://arxiv.org/abs/1810.03292, and Hanawa et al. 2021,
  https://arxiv.org/abs/2006.04528, as in Quanda.

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
  return brittleness.top_rows(scores, k)
