"""Tracing: are the rows that a query is known to come from ranked first?

Where scores are tied, rows that are not relevant come first: a method gains
nothing from scores that it does not distinguish.
"""

from typing import NamedTuple, cast

import numpy as np

from tda_jax.evaluation import agreement, detection


def recall(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
  """Share of each query's r relevant rows among its k strongest supporters, [Q].

  From 0 to min(1, k/r), larger is better, k/N is chance.

  Source: recall@k of Akyürek et al. 2022, "Towards Tracing Knowledge in Language
  Models Back to the Training Data", https://arxiv.org/abs/2205.11482

  Args:
    scores: [N, Q].
    relevant: [N, Q] bool.

  Raises:
    ValueError: shapes that differ, scores that are not finite, a query of no
      relevant row, k not from 1 to N.
  """
  ranked = _ranked(scores, relevant)
  return ranked[: _checked(k, ranked)].sum(0) / ranked.sum(0)


def hits(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
  """1 for each query with a relevant row among its k strongest, else 0, [Q].

  Larger is better, 1 − C(N − r, k)/C(N, k) is chance for r relevant rows.
  Arguments and errors as in `recall`.

  Source: called recall@k by Chang et al. 2024, "Scalable Influence and Fact
  Tracing for Large Language Model Pretraining", https://arxiv.org/abs/2410.17413,
  and by Quanda.
  """
  ranked = _ranked(scores, relevant)
  found = cast(np.ndarray, ranked[: _checked(k, ranked)].any(0))
  return found.astype(np.float64)


def auc(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
  """Area under each query's ROC curve, [Q].

  The probability that a relevant row has a larger score than one that is not, ties
  counted half; 0.5 is chance, 1 the most. Arguments and errors as in `recall`.
  """
  from scipy import stats

  scores = agreement.matrix(scores, 'scores')
  positives = _ranked(scores, relevant).sum(0)
  negatives = len(scores) - positives
  if not negatives.all():
    raise ValueError(
      f'all rows are relevant to query {negatives.argmin()}: leave it out'
    )
  ranks = stats.rankdata(scores, axis=0)
  sums = (ranks * np.asarray(relevant, bool)).sum(0)
  return (sums - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
  """`detection.average_precision` of each query's relevant rows, [Q]."""
  of = lambda q: detection.average_precision(scores[:, [q]], relevant[:, q])[0]
  return np.array([of(q) for q in range(scores.shape[1])])


def reciprocal_rank(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
  """1 / (rank of the first relevant row, from 1) of each query, [Q].

  Its mean is MRR. Larger is better, 1 the most; chance is Σ_n C(N − n, r − 1) /
  (n C(N, r)) for r relevant rows, H_N/N for one. Arguments and errors as in
  `recall`.
  """
  return 1 / (1.0 + _ranked(scores, relevant).argmax(0))


class Sets(NamedTuple):
  """How well a set of rows fits the relevant ones, of each query, [Q].

  All from 0 to 1, larger is better; an empty set has 0 in all three.
  """

  precision: np.ndarray
  recall: np.ndarray
  f1: np.ndarray


def of_sets(chosen: np.ndarray, relevant: np.ndarray) -> Sets:
  """Precision, recall and F1 = 2 |both| / (|chosen| + |relevant|).

  Args:
    chosen, relevant: bool [N, Q].

  Raises:
    ValueError: shapes that differ, a query of no relevant row.
  """
  _ranked(chosen, relevant)
  both = (chosen & relevant).sum(0)
  count, wanted = chosen.sum(0), relevant.sum(0)
  return Sets(
    both / np.maximum(count, 1), both / wanted, 2 * both / (count + wanted)
  )


def strongest(scores: np.ndarray, k: int | np.ndarray) -> np.ndarray:
  """The k rows of the largest scores of each query, bool [N, Q]; ties by number.

  Args:
    scores: [N, Q].
    k: a number, or one of each query, [Q].
  """
  scores = agreement.matrix(scores, 'scores')
  order = np.argsort(-scores, axis=0, kind='stable')
  place = np.argsort(order, axis=0)
  return place < np.broadcast_to(k, scores.shape[1])


def expected_f1(
  candidates: np.ndarray,
  relevant: np.ndarray,
  false_positives: float,
  false_negatives: float,
) -> np.ndarray:
  """F1 of a judge whose errors come at random, by expected counts, [Q].

  2 t / (t + f + |relevant|), with t = (1 − FN) |candidates and relevant| and f = FP
  |candidates and not relevant|.

  Args:
    candidates, relevant: bool [N, Q]: what is judged, and what should be found.
    false_positives: share of sentences that do not support and are said to, FP.
    false_negatives: share of those that do and are not, FN.
  """
  hits = (1 - false_negatives) * (candidates & relevant).sum(0)
  wrong = false_positives * (candidates & ~relevant).sum(0)
  return 2 * hits / (hits + wrong + relevant.sum(0))


def _ranked(scores, relevant):
  """`relevant` from each query's strongest supporter down, [N, Q]."""
  scores = agreement.matrix(scores, 'scores')
  relevant = np.asarray(relevant, bool)
  if relevant.shape != scores.shape:
    raise ValueError(
      f'scores {scores.shape} and relevant rows {relevant.shape}: give both'
      ' [N, Q]'
    )
  none = ~relevant.any(0)
  if none.any():
    raise ValueError(
      f'{none.sum()} of {none.size} queries have no relevant row, the first is'
      f' query {none.argmax()}: leave them out'
    )
  order = np.lexsort((relevant, -scores), axis=0)
  return np.take_along_axis(relevant, order, 0)


def _checked(k, ranked):
  if not 1 <= k <= len(ranked):
    raise ValueError(f'k={k} of {len(ranked)} rows: give 1 to {len(ranked)}')
  return k
