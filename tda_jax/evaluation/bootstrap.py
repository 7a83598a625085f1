"""Bootstrap intervals over queries, subsets or both.

Resamples are drawn with a seed, so that numbers of the same queries can be
compared resample by resample: the interval of a difference is far narrower
than those of its two sides.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

OVER = ('queries', 'subsets', 'both')
TAILS = (0.025, 0.975)  # of a 95% interval


class Estimate(NamedTuple):
  """A number and its bootstrap interval.

  Attributes:
    value: the estimate from all queries and subsets.
    low, high: ends of its 95% interval; NaN if there was only one query or
      subset to draw from, so that the spread is not known.
    resampled: [B], the estimate of each resample, with mean `value`.
    drawn: (subsets, queries, over, resamples, seed), which identifies the
      resamples; two estimates with the same can be compared in pairs.
  """

  value: float
  low: float
  high: float
  resampled: np.ndarray
  drawn: tuple


def of_queries(
  values: np.ndarray, *, resamples: int = 500, seed: int = 0
) -> Estimate:
  """Mean over queries with its 95% percentile interval.

  The interval says what the mean would be for other queries of the same kind;
  model, training rows and scores stay the same. Two metrics, or methods, of the
  same Q queries with the same seed are resampled alike, for `difference`.

  Args:
    values: [Q], such as class detection, average precision or LDS of each.

  Raises:
    ValueError: not [Q] with a query, or a value is not finite.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size:
    raise ValueError(
      f'values have shape {values.shape}: give one for each of some queries'
    )
  if not np.isfinite(values).all():
    raise ValueError(
      f'{(~np.isfinite(values)).sum()} of {values.size} values are not finite:'
      ' give a finite value for each query'
    )
  counts = draws(1, len(values), 'queries', resamples, seed)[1]
  drawn = (1, len(values), 'queries', resamples, seed)
  return estimate(values.mean(), counts @ values / len(values), drawn)


def wilson(hits: np.ndarray) -> tuple[float, float, float]:
  """Mean of ones and zeros with Wilson's 95% interval, (mean, low, high).

  Unlike a bootstrap interval it has a width where all values are equal.

  Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
  """
  from scipy import stats

  test = stats.binomtest(round(float(np.sum(hits))), len(hits))
  ends = test.proportion_ci(method='wilson')
  return float(np.mean(hits)), ends.low, ends.high


def difference(a: Estimate, b: Estimate) -> Estimate:
  """a − b, resample by resample: 'a > b' holds where `low` is above 0.

  Raises:
    ValueError: the two were not resampled alike.
  """
  _paired(a, b)
  return estimate(a.value - b.value, a.resampled - b.resampled, a.drawn)


def ratio(a: Estimate, b: Estimate) -> Estimate:
  """a / b, resample by resample, for example LDS / ceiling.

  The ratios are not centred, because they have no useful mean where b can be
  near 0.

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
  return Estimate(
    a.value / b.value, *_ends(resampled, a.drawn), resampled, a.drawn
  )


def average(estimates: Sequence[Estimate]) -> Estimate:
  """The mean of several estimates, resample by resample.

  Raises:
    ValueError: they were not resampled alike.
  """
  first = estimates[0]
  for other in estimates[1:]:
    _paired(first, other)
  value = np.mean([each.value for each in estimates])
  resampled = np.mean([each.resampled for each in estimates], axis=0)
  return estimate(value, resampled, first.drawn)


def estimate(
  value: float | np.floating, resampled: np.ndarray, drawn: tuple
) -> Estimate:
  """The estimate with its interval, from the values of the resamples, [B].

  The values are shifted to have the estimate as their mean: a resample holds
  some subsets twice, which by itself lowers rank correlations by O(1/M).
  """
  resampled = resampled - resampled.mean() + value
  return Estimate(float(value), *_ends(resampled, drawn), resampled, drawn)


def within(estimate: Estimate, least: float, most: float) -> Estimate:
  """The same with an interval that ends where the quantity does."""
  low, high = np.clip((estimate.low, estimate.high), least, most)
  return estimate._replace(low=float(low), high=float(high))


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

  def drawn(size, fixed, stream):
    if fixed:
      return np.ones((resamples, size))
    return counts(size, resamples, seed, stream)

  return (
    drawn(subsets, over == 'queries', 0),
    drawn(queries, over == 'subsets', 1),
  )


def counts(size: int, resamples: int, seed: int, stream: int) -> np.ndarray:
  """How often each of `size` things occurs in each resample, [B, size] float64.

  Args:
    stream: things of different streams are drawn independently; `draws` takes 0
      for subsets and 1 for queries.
  """
  rng = np.random.default_rng([seed, stream])
  return rng.multinomial(size, np.full(size, 1 / size), resamples) * 1.0


def _ends(resampled, drawn):
  """(low, high) of the resamples; NaN if there was only one thing to draw."""
  subsets, queries, over, *_ = drawn
  sizes = {'subsets': (subsets,), 'queries': (queries,)}
  if max(sizes.get(over, (subsets, queries))) == 1:
    return float('nan'), float('nan')
  low, high = np.nanquantile(resampled, TAILS)
  return float(low), float(high)


def _paired(a, b):
  if a.drawn != b.drawn:
    raise ValueError(
      'the two estimates were not resampled alike, (subsets, queries, over,'
      f' resamples, seed) = {a.drawn} and {b.drawn}: give both the same'
    )
