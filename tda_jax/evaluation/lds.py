"""Linear datamodeling score: do summed scores rank retrained models?

LDS(q) = Spearman over subsets S_m of Σ_{i∈S_m} score[i, q] against the measure
of query q, averaged over models trained on S_m. Scores are positive where a row
supports the query, so that a larger sum predicts a larger measure.

From −1 to 1, larger is better, 0 is chance. With `kind` 'kendall' Kendall's τ_b
replaces Spearman's ρ, as in Quanda's benchmarks.

Sources: Park et al. 2023, TRAK, §2, https://arxiv.org/abs/2303.14186; averaged
over seeds as in Wang et al. 2025, ASTRA; Bareeva et al. 2024, Quanda,
https://arxiv.org/abs/2410.07158
"""

from collections.abc import Sequence

import numpy as np

from tda_jax.evaluation import agreement, bootstrap, ranks
from tda_jax.evaluation import factors as factors_lib


def lds(
  scores: np.ndarray,
  outcomes: np.ndarray,
  subsets: np.ndarray,
  kind: str = 'spearman',
) -> np.ndarray:
  """LDS of each query, [Q].

  A query whose summed scores, or whose outcomes, are the same for all subsets
  has LDS 0: such scores predict nothing, and may not gain by being left out of
  the mean.

  Args:
    scores: [N, Q]; of an ensemble: `factors.together` of its members'.
    outcomes: [M, Q] measures, averaged over repeats.
    subsets: [M, n] rows that the models were trained on.
    kind: 'spearman' or 'kendall'.

  Raises:
    ValueError: shapes that do not belong together, scores or outcomes that are
      not finite, rows that do not exist, another kind.
  """
  outcomes, subsets = _truth(outcomes, subsets)
  predicted = _predicted(scores, outcomes, subsets)
  return agreement.rank_correlation(predicted, outcomes, kind)


def of_predictions(
  predicted: np.ndarray, outcomes: np.ndarray, kind: str = 'spearman'
) -> np.ndarray:
  """LDS of each query by predictions [M, Q] that need not add up over rows, [Q].

  Args:
    predicted: for example of `tda_jax.predict_sets`.
    outcomes, kind: as in `lds`.
  """
  return agreement.rank_correlation(
    agreement.matrix(predicted, 'predictions'),
    agreement.matrix(outcomes, 'outcomes', 'subsets'),
    kind,
  )


def predictions(scores: np.ndarray, subsets: np.ndarray) -> np.ndarray:
  """Σ_{i∈S_m} score[i, q], [M, Q] in float64, in the measure's own unit."""
  scores, subsets = agreement.matrix(scores, 'scores'), np.asarray(subsets)
  rows = len(scores)
  if subsets.ndim != 2 or not subsets.size:
    raise ValueError(f'subsets have shape {subsets.shape}: give [M, n] rows')
  if subsets.min() < 0 or subsets.max() >= rows:
    raise ValueError(
      f'subsets name rows {subsets.min()} to {subsets.max()}, but there are'
      f' scores of rows 0 to {rows - 1}: score the rows that the subsets were'
      ' drawn from'
    )
  counts = np.stack([np.bincount(rows_, minlength=rows) for rows_ in subsets])
  return counts.astype(np.float64) @ scores


def interval(
  scores: np.ndarray,
  outcomes: np.ndarray,
  subsets: np.ndarray,
  *,
  over: str = 'both',
  resamples: int = 500,
  seed: int = 0,
  kind: str = 'spearman',
) -> bootstrap.Estimate:
  """Mean LDS over queries with its 95% bootstrap interval.

  With `over` 'queries' the interval is over other queries for the same retrained
  models, with 'subsets' over other retrained models for the same queries, with
  'both' over other queries and models (each resampled independently, which makes
  it rather too wide).

  Args:
    scores: [N, Q]; or [E, N, Q] for the mean LDS of E single models, which are
      not resampled (`spread` measures how much they differ).
    outcomes, subsets, kind: as in `lds`.

  Raises:
    ValueError: as in `lds`; `over` is not one of 'queries', 'subsets', 'both'.
  """
  outcomes, subsets = _truth(outcomes, subsets)
  scores = np.asarray(scores)
  stack = scores[None] if scores.ndim == 2 else scores
  predicted = np.stack([_predicted(one, outcomes, subsets) for one in stack])
  return _interval(predicted, outcomes, over, resamples, seed, kind)


def interval_of_predictions(
  predicted: np.ndarray,
  outcomes: np.ndarray,
  *,
  over: str = 'both',
  resamples: int = 500,
  seed: int = 0,
  kind: str = 'spearman',
) -> bootstrap.Estimate:
  """`interval` of predictions that need not add up over rows.

  Args:
    predicted: [M, Q], for example of `tda_jax.predict_sets`; or [E, M, Q] for the
      mean LDS of E models, which are not resampled.
    outcomes, over, kind: as in `interval`.

  Raises:
    ValueError: as in `interval`.
  """
  stack = predicted[None] if np.ndim(predicted) == 2 else predicted
  stack = np.stack([agreement.matrix(p, 'predictions') for p in stack])
  rows = np.zeros((len(outcomes), 1), int)  # of which nothing is asked
  outcomes, _ = _truth(outcomes, rows)
  if stack.shape[1:] != outcomes.shape:
    raise ValueError(
      f'predictions have shape {stack.shape[1:]} and outcomes {outcomes.shape}:'
      ' give both of the same subsets and queries'
    )
  return _interval(stack, outcomes, over, resamples, seed, kind)


def spread(
  scores: np.ndarray,
  outcomes: np.ndarray,
  subsets: np.ndarray,
  kind: str = 'spearman',
) -> tuple[float, float]:
  """Mean LDS of single models and its standard error over models.

  Args:
    scores: [E, N, Q].

  Returns:
    (mean, standard error); the latter is NaN for E = 1.
  """
  values = np.array(
    [lds(one, outcomes, subsets, kind).mean() for one in scores]
  )
  if len(values) == 1:
    return float(values[0]), float('nan')
  error = values.std(ddof=1) / np.sqrt(len(values))
  return float(values.mean()), float(error)


def by_size(
  factors: factors_lib.Factors,
  outcomes: np.ndarray,
  subsets: np.ndarray,
  sizes: Sequence[int],
  *,
  draws: int = 10,
  over: str = 'both',
  resamples: int = 200,
  seed: int = 0,
  kind: str = 'spearman',
) -> list[bootstrap.Estimate]:
  """LDS of ensembles of each size: averaged over random draws of k members.

  Args:
    factors: `evaluation.factors` of E members: `(scores,)` for most methods.
    sizes: numbers of members, at most E.
    draws: ensembles drawn for each size (one where k = E).

  Raises:
    ValueError: as in `interval`; a size below 1 or above E.
  """
  outcomes, subsets = _truth(outcomes, subsets)
  members, estimates = len(factors[0]), []
  for size in sizes:
    if not 0 < size <= members:
      raise ValueError(
        f'an ensemble of {size} cannot be drawn from {members} members: give'
        f' sizes from 1 to {members}'
      )
    rng = np.random.default_rng([seed, size])
    chosen = [
      rng.choice(members, size, replace=False)
      for _ in range(1 if size == members else draws)
    ]
    if size == 1:
      chosen = np.arange(members)[:, None]
    ensembles = [factors_lib.together([f[c] for f in factors]) for c in chosen]
    predicted = [_predicted(one, outcomes, subsets) for one in ensembles]
    predicted = np.stack(predicted)
    estimates.append(
      _interval(predicted, outcomes, over, resamples, seed, kind)
    )
  return estimates


def _interval(predicted, outcomes, over, resamples, seed, kind):
  """Estimate of the mean LDS of predictions [E, M, Q]."""
  each = [agreement.rank_correlation(p, outcomes, kind) for p in predicted]
  subsets, queries = outcomes.shape
  subset_counts, query_counts = bootstrap.draws(
    subsets, queries, over, resamples, seed
  )
  if over == 'queries':
    subset_counts = subset_counts[:1]  # all the same
  correlations = ranks.correlations(
    predicted, outcomes[None], subset_counts, kind
  )
  resampled = (correlations * query_counts).mean(axis=1)
  drawn = (subsets, queries, over, resamples, seed)
  found = bootstrap.estimate(np.mean(each), resampled, drawn)
  return bootstrap.within(found, -1.0, 1.0)


def _truth(outcomes, subsets):
  outcomes, subsets = np.asarray(outcomes), np.asarray(subsets)
  if outcomes.ndim == 3:
    raise ValueError(
      f'outcomes have shape {outcomes.shape}: average the repeats first,'
      ' outcomes.mean(axis=1)'
    )
  outcomes = agreement.matrix(outcomes, 'outcomes', 'subsets')
  if subsets.ndim != 2 or len(subsets) != len(outcomes):
    raise ValueError(
      f'outcomes of {len(outcomes)} subsets do not fit subsets of shape'
      f' {subsets.shape}: give the [M, n] subsets that they were trained on'
    )
  return outcomes, subsets


def _predicted(scores, outcomes, subsets):
  """Summed scores [M, Q], up to a constant for each query."""
  scores = agreement.matrix(scores, 'scores')
  if scores.shape[1] != outcomes.shape[1]:
    raise ValueError(
      f'scores of {scores.shape[1]} queries do not fit outcomes of'
      f' {outcomes.shape[1]}: give both the same queries'
    )
  # All subsets have one size, so a shift changes no rank. This one makes constant
  # scores exactly 0; otherwise rounding could put them in some order.
  return predictions(scores - scores[:1], subsets)
