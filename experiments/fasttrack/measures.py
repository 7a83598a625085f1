"""What was measured of FASTTRACK and of scores, as result rows and by query."""

import numpy as np

from experiments.shared import results
from tda_jax.evaluation import bootstrap, retrieval

MOST = 25  # sentences up to which the best k is looked for
RANK = 10  # of recall


def of_scores(
  scores: np.ndarray, supports: np.ndarray
) -> dict[str, np.ndarray]:
  """Metric -> its value for every claim, [Q], of scores [N, Q].

  The best k is that of these very claims, which favours the scores.
  """
  ks = range(1, min(MOST, len(scores)) + 1)
  sets = {
    k: retrieval.of_sets(retrieval.strongest(scores, k), supports) for k in ks
  }
  best = max(ks, key=lambda k: sets[k].f1.mean())
  count = supports.sum(0)
  known = retrieval.of_sets(retrieval.strongest(scores, count), supports)
  return {
    'precision': sets[best].precision,
    'recall': sets[best].recall,
    'f1': sets[best].f1,
    'f1, k = positives': known.f1,
    'mrr': retrieval.reciprocal_rank(scores, supports),
    f'recall@{RANK}': retrieval.recall(
      scores, supports, min(RANK, len(scores))
    ),
    'average precision': retrieval.average_precision(scores, supports),
  }


def of_evidence(
  probabilities: np.ndarray, supports: np.ndarray, threshold: float
) -> dict[str, np.ndarray]:
  """As `of_scores`, of the sets that a judge chose.

  Args:
    probabilities: [N, Q], NaN where a sentence was not judged.
  """
  likely = np.nan_to_num(probabilities, nan=-1.0)
  sets = retrieval.of_sets(likely >= threshold, supports)
  judged = np.isfinite(probabilities)
  return {
    'precision': sets.precision,
    'recall': sets.recall,
    'f1': sets.f1,
    'mrr': retrieval.reciprocal_rank(likely, supports),
    f'recall@{RANK}': retrieval.recall(
      likely, supports, min(RANK, len(likely))
    ),
    'candidate recall': (judged & supports).sum(0) / supports.sum(0),
    'judged': judged.sum(0),
  }


def errors(
  probabilities: np.ndarray, supports: np.ndarray, threshold: float
) -> tuple[float, float]:
  """(false positives, false negatives) of a judge on what it judged."""
  judged = np.isfinite(probabilities)
  says = np.nan_to_num(probabilities, nan=-1.0) >= threshold
  against, for_ = judged & ~supports, judged & supports
  share = lambda wrong, of: float((wrong & of).sum() / max(of.sum(), 1))
  return share(says, against), share(~says, for_)


def rows(method: str, values: dict[str, np.ndarray]) -> list[dict]:
  """Result rows: means over claims with their intervals."""
  return [
    results.row(method, metric, bootstrap.of_queries(each), len(each))
    for metric, each in values.items()
  ]


def below(scores: np.ndarray) -> np.ndarray:
  """The share of sentences below each of a claim's, 0 to 1, of scores [N, ...]."""
  place = np.argsort(np.argsort(scores, axis=0), axis=0)
  return place / max(len(scores) - 1, 1)


def row(method: str, metric: str, value: float, n: int | None = None) -> dict:
  """A result row of one number without an interval."""
  return {'method': method, 'metric': metric, 'value': float(value), 'n': n}
