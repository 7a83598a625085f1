"""Noise ceiling: the LDS that a perfect predictor would reach.

Outcomes averaged over R repeats are still noisy. Their reliability follows from
split halves: from the correlation r, over subsets, between the means of two
disjoint halves of k = R // 2 repeats, the Spearman-Brown formula gives the
reliability of the mean of all R,

  reliability = c·r / (1 + (c − 1)·r),   c = R / k   (R even: 2r / (1 + r)),

and the mean of R repeats correlates with its expectation as √reliability.
"""

from typing import NamedTuple

import numpy as np

from tda_jax.evaluation import agreement, bootstrap, ranks

RESAMPLED_SPLITS = 5


class Ceiling(NamedTuple):
  """The noise ceiling of an LDS.

  Attributes:
    estimate: mean over queries of the ceiling, with its interval;
      `bootstrap.ratio` of an LDS estimate and this one is LDS/ceiling.
    per_query: [Q], the ceiling of each query.
    reliability: [Q], of the mean of R repeats.
  """

  estimate: bootstrap.Estimate
  per_query: np.ndarray
  reliability: np.ndarray


def ceiling(
  outcomes: np.ndarray,
  *,
  over: str = 'both',
  splits: int = 20,
  resamples: int = 500,
  seed: int = 0,
) -> Ceiling:
  """The LDS that the expected outcome itself would reach.

  For each query, r is averaged over random splits before it enters the formula
  (which is not linear). The mean over queries is of √reliability, because LDS is
  a mean of correlations. A query with r ≤ 0, or with constant outcomes, has
  ceiling 0. The expectation is over repeats; the interval is over queries,
  subsets or both, as in `lds.interval`, whose defaults draw the same resamples.

  Args:
    outcomes: [M, R, Q] measures of retrained models.
    splits: random splits of the repeats.

  Raises:
    ValueError: fewer than two repeats, another shape, values not finite.
  """
  outcomes = np.asarray(outcomes, np.float64)
  if outcomes.ndim != 3:
    raise ValueError(
      f'outcomes have shape {outcomes.shape}: give [subsets, repeats,'
      ' queries], before averaging over repeats'
    )
  count, repeats, queries = outcomes.shape
  if repeats < 2:
    raise ValueError(
      f'a noise ceiling needs at least two repeats, and there is {repeats}:'
      ' retrain each subset with more seeds'
    )
  for repeat in range(repeats):
    name = f'the outcomes of repeat {repeat}'
    agreement.matrix(outcomes[:, repeat], name, 'subsets')
  factor = repeats / (repeats // 2)
  halves = _halves(outcomes, splits, seed)

  def per_query(splits, weights):
    first, second = (half[:splits] for half in halves)
    r = ranks.correlations(first, second, weights)
    return np.sqrt(spearman_brown(r, factor))

  ceilings = per_query(splits, np.ones((1, count)))[0]
  subset_counts, query_counts = bootstrap.draws(
    count, queries, over, resamples, seed
  )
  if over == 'queries':
    resampled_ceilings = ceilings[None]
  else:  # a few splits a resample are enough: there are many resamples
    resampled_ceilings = per_query(RESAMPLED_SPLITS, subset_counts)
  resampled = (resampled_ceilings * query_counts).mean(axis=1)
  drawn = (count, queries, over, resamples, seed)
  estimate = bootstrap.estimate(ceilings.mean(), resampled, drawn)
  return Ceiling(bootstrap.within(estimate, 0.0, 1.0), ceilings, ceilings**2)


def of_repeats(
  estimate: bootstrap.Estimate, ceiling: Ceiling, factor: float
) -> bootstrap.Estimate:
  """The LDS to expect where outcomes are means of `factor` times as many repeats.

  The noise of outcomes lowers every LDS by the same factor, the ceiling, so that
  figures of different numbers of repeats are compared by LDS · c(R′) / c(R). The
  interval is that of the LDS; c(R′) / c(R) has one too, which is not in it.

  Args:
    estimate: the LDS of R repeats.
    ceiling: of the same outcomes.
    factor: R′ / R.

  Raises:
    ValueError: the ceiling is 0, so that the outcomes hold no signal; a factor
      that is not above 0.
  """
  if not 0 < factor < np.inf:
    raise ValueError(f'factor={factor}: give R′ / R, a number above 0')
  now = ceiling.per_query.mean()
  if not now > 0:
    raise ValueError(
      'the ceiling of these outcomes is 0: they hold no signal, and what an LDS'
      ' would be with more repeats is not known'
    )
  then = np.sqrt(spearman_brown(ceiling.reliability, factor)).mean()
  scale = then / now
  value, low, high, resampled = (scale * of for of in estimate[:4])
  found = bootstrap.Estimate(value, low, high, resampled, estimate.drawn)
  return bootstrap.within(found, -1.0, 1.0)


def spearman_brown(r: np.ndarray, factor: float = 2.0) -> np.ndarray:
  """Reliability of a test `factor` times as long, from that of one, r.

  A negative r counts as 0.
  """
  r = np.clip(r, 0, 1)
  return factor * r / (1 + (factor - 1) * r)


def _halves(outcomes, splits, seed):
  """Means of disjoint halves of the repeats, two of [splits, M, Q]."""
  repeats = outcomes.shape[1]
  half, rng = repeats // 2, np.random.default_rng([seed, 2])
  orders = np.stack([rng.permutation(repeats) for _ in range(splits)])
  return [
    np.stack([outcomes[:, part].mean(axis=1) for part in parts])
    for parts in (orders[:, :half], orders[:, half : 2 * half])
  ]
