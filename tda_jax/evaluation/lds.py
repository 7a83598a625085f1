"""Linear datamodeling score: do summed scores rank retrained models?

LDS(q) = Spearman over subsets S_m of Σ_{i∈S_m} score[i, q] against the measure
of query q, averaged over models trained on S_m (Park et al. 2023, TRAK, §2;
averaged over seeds as in Wang et al. 2025, ASTRA). Scores are positive where a
row supports the query, so that a larger sum predicts a larger measure.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tda_jax.evaluation import agreement

OVER = ('queries', 'subsets', 'both')
TAILS = (0.025, 0.975)  # of a 95% interval
QUERIES_AT_ONCE = 16  # the memory of `correlations` grows with it


class Estimate(NamedTuple):
  """A number and its bootstrap interval.

  Attributes:
    value: the estimate from all queries and subsets.
    low, high: ends of its 95% interval.
    resampled: [B], the estimate of each resample, with mean `value`.
    drawn: which resamples these are; two estimates with the same ones can be
      compared in pairs.
  """

  value: float
  low: float
  high: float
  resampled: np.ndarray
  drawn: tuple


def lds(
  scores: np.ndarray, outcomes: np.ndarray, subsets: np.ndarray
) -> np.ndarray:
  """LDS of each query, [Q].

  A query whose summed scores are the same for all subsets, or whose outcomes
  are, has LDS 0: such scores predict nothing, and may not gain by being left
  out of the mean.

  Args:
    scores: [N, Q]; of an ensemble: its members' mean.
    outcomes: [M, Q] measures, averaged over repeats.
    subsets: [M, n] rows that the models were trained on.

  Raises:
    ValueError: shapes that do not belong together, scores or outcomes that are
      not finite, rows that do not exist.
  """
  outcomes, subsets = _truth(outcomes, subsets)
  return agreement.spearman(_predicted(scores, outcomes, subsets), outcomes)


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
) -> Estimate:
  """Mean LDS over queries with its 95% bootstrap interval.

  'queries' asks about other queries for the same retrained models, 'subsets'
  about other retrained models for the same queries, 'both' (each resampled
  independently; errs on the wide side) about other queries and models.

  Args:
    scores: [N, Q]; or [E, N, Q] for the mean LDS of E single models, which are
      not resampled (`spread` tells how much they differ).
    outcomes, subsets: as in `lds`.

  Raises:
    ValueError: as in `lds`; `over` is not one of the three.
  """
  outcomes, subsets = _truth(outcomes, subsets)
  scores = np.asarray(scores)
  stack = scores[None] if scores.ndim == 2 else scores
  predicted = np.stack([_predicted(one, outcomes, subsets) for one in stack])
  return _interval(predicted, outcomes, over, resamples, seed)


def spread(
  scores: np.ndarray, outcomes: np.ndarray, subsets: np.ndarray
) -> tuple[float, float]:
  """Mean LDS of single models and its standard error over models.

  Args:
    scores: [E, N, Q].

  Returns:
    (mean, standard error); the latter is NaN for E = 1.
  """
  values = np.array([lds(one, outcomes, subsets).mean() for one in scores])
  if len(values) == 1:
    return float(values[0]), float('nan')
  error = values.std(ddof=1) / np.sqrt(len(values))
  return float(values.mean()), float(error)


def by_size(
  scores: np.ndarray,
  outcomes: np.ndarray,
  subsets: np.ndarray,
  sizes: Sequence[int],
  *,
  draws: int = 10,
  over: str = 'both',
  resamples: int = 200,
  seed: int = 0,
) -> list[Estimate]:
  """LDS of ensembles of each size: averaged over random draws of k members.

  Args:
    scores: [E, N, Q].
    sizes: numbers of members, at most E.
    draws: ensembles drawn for each size (one where k = E).

  Raises:
    ValueError: as in `interval`; a size below 1 or above E.
  """
  outcomes, subsets = _truth(outcomes, subsets)
  predicted = np.stack([_predicted(one, outcomes, subsets) for one in scores])
  members, found = len(predicted), []
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
    ensembles = np.stack([predicted[list(c)].mean(axis=0) for c in chosen])
    found.append(_interval(ensembles, outcomes, over, resamples, seed))
  return found


def difference(a: Estimate, b: Estimate) -> Estimate:
  """a − b, resample by resample: 'a > b' holds where `low` is above 0.

  Raises:
    ValueError: the two were not resampled alike.
  """
  _paired(a, b)
  return estimate(a.value - b.value, a.resampled - b.resampled, a.drawn)


def ratio(a: Estimate, b: Estimate) -> Estimate:
  """a / b, resample by resample: LDS / ceiling.

  Its interval is of the ratios as they are: they are not centred, since one
  whose b is near 0 has no mean to speak of.

  Raises:
    ValueError: the two were not resampled alike; b is 0.
  """
  _paired(a, b)
  if b.value <= 0:
    raise ValueError(
      'a ratio to 0 says nothing: the outcomes hold no signal, retrain with'
      ' more repeats'
    )
  with np.errstate(divide='ignore', invalid='ignore'):
    resampled = a.resampled / b.resampled
  low, high = np.nanquantile(resampled, TAILS)
  return Estimate(
    a.value / b.value, float(low), float(high), resampled, a.drawn
  )


def average(estimates: Sequence[Estimate]) -> Estimate:
  """The mean of several, resample by resample.

  Raises:
    ValueError: they were not resampled alike.
  """
  first = estimates[0]
  for other in estimates[1:]:
    _paired(first, other)
  value = np.mean([one.value for one in estimates])
  resampled = np.mean([one.resampled for one in estimates], axis=0)
  return estimate(value, resampled, first.drawn)


def estimate(value: float, resampled: np.ndarray, drawn: tuple) -> Estimate:
  """The estimate with its interval, from what the resamples [B] gave.

  The resamples are shifted to have the estimate as their mean: a resample
  holds some subsets twice, which by itself lowers rank correlations by O(1/M).
  """
  resampled = resampled - resampled.mean() + value
  low, high = np.quantile(resampled, TAILS)
  return Estimate(float(value), float(low), float(high), resampled, drawn)


def draws(
  subsets: int, queries: int, over: str, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """How often each subset and each query occurs in each resample.

  Returns:
    ([B, M], [B, Q]) float64; rows of `subsets` and `queries` in sum.

  Raises:
    ValueError: `over` is not one of OVER; no resamples.
  """
  if over not in OVER:
    raise ValueError(f'over={over!r}: use one of {", ".join(OVER)}')
  if resamples < 1:
    raise ValueError(f'resamples={resamples}: an interval needs at least one')

  def counts(size, fixed, stream):
    if fixed:
      return np.ones((resamples, size))
    rng = np.random.default_rng([seed, stream])
    return rng.multinomial(size, np.full(size, 1 / size), resamples) * 1.0

  return (
    counts(subsets, over == 'queries', 0),
    counts(queries, over == 'subsets', 1),
  )


def correlations(
  a: np.ndarray, b: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Spearman of a and b with each row repeated as resamples say, [B, Q].

  The rank of a_i among rows repeated w_j times is ½ Σ_j w_j sign(a_i − a_j),
  from the middle: one matrix product ranks all resamples, ties and all.

  Args:
    a: [A, M, Q]; the mean over A is returned.
    b: [A, M, Q], or [1, M, Q] for one that all of a are compared with.
    weights: [B, M], from `draws`.
  """
  weights = weights.astype(np.float32)
  blocks = range(0, a.shape[-1], QUERIES_AT_ONCE)
  return np.concatenate(
      [_correlations(*(x[..., i : i + QUERIES_AT_ONCE] for x in (a, b)), weights)
       for i in blocks], axis=1,
  )  # fmt: skip


def _correlations(a, b, weights):
  def ranked(values):
    ranks = _weighted_ranks(values, weights)
    scaled = weights[:, :, None] * ranks
    return ranks, scaled, np.einsum('bmq,bmq->bq', scaled, ranks)

  total = 0.0
  for i, values in enumerate(a):
    if i < len(b):
      other, _, spread_b = ranked(b[i])
    _, scaled, spread_a = ranked(values)
    across = np.einsum('bmq,bmq->bq', scaled, other)
    spreads = np.sqrt(spread_a * spread_b)
    total = total + np.divide(
      across, spreads, out=np.zeros_like(across), where=spreads > 0
    )
  return np.asarray(total / len(a), np.float64)


def _weighted_ranks(values, weights):
  """½ Σ_j w_j sign(v_i − v_j) of values [M, Q], for each resample: [B, M, Q]."""
  rows = len(values)
  signs = np.sign(values[None] - values[:, None]).astype(np.float32) / 2
  return (weights @ signs.reshape(rows, -1)).reshape(-1, *values.shape)


def _interval(predicted, outcomes, over, resamples, seed):
  """Estimate of the mean LDS of predictions [E, M, Q]."""
  value = np.mean([agreement.spearman(p, outcomes) for p in predicted])
  of_subsets, of_queries = draws(*outcomes.shape, over, resamples, seed)
  if over == 'queries':
    of_subsets = of_subsets[:1]  # all the same
  every = correlations(predicted, outcomes[None], of_subsets)
  resampled = (every * of_queries).mean(axis=1)
  return estimate(value, resampled, (*outcomes.shape, over, resamples, seed))


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
  # All subsets are of one size, so a shift changes no rank; this one makes
  # constant scores exactly 0, which rounding could else put in some order.
  return predictions(scores - scores[:1], subsets)


def _paired(a, b):
  if a.drawn != b.drawn:
    raise ValueError(
      'the two estimates were not resampled alike, (subsets, queries, over,'
      f' resamples, seed) = {a.drawn} and {b.drawn}: give both the same'
    )
