"""Means over bases, fine-tunings and queries, with intervals over all three."""

import functools
from collections.abc import Sequence

import numpy as np

from tda_jax.evaluation import bootstrap
from tda_jax.evaluation.bootstrap import Estimate

RESAMPLES = 500
Values = list[list[np.ndarray]]  # by base and fine-tuning: [Q] of its queries


def nested(values: Values, seed: int = 0) -> Estimate:
  """The mean over bases of the means over fine-tunings of the means over queries.

  Each resample draws bases, of each its fine-tunings, and of each of those its
  queries. Values of the same worlds and seed are resampled alike.
  """
  values = [kept for of in values if (kept := [v for v in of if len(v)])]
  sizes = tuple(tuple(len(v) for v in of) for of in values)
  flat = np.concatenate([v for of in values for v in of])
  even, drawn = _weights(sizes, seed)
  about = (1, len(flat), 'queries', RESAMPLES, seed, sizes)
  return bootstrap.estimate(even @ flat, drawn @ flat, about)


def average(each: Sequence[Values]) -> Estimate:
  """The mean over parts of their `nested` means."""
  found = [nested(values, seed) for seed, values in enumerate(each)]
  about = (1, sum(f.drawn[1] for f in found), 'queries', RESAMPLES, 0)
  return bootstrap.estimate(
    float(np.mean([f.value for f in found])),
    np.mean([f.resampled for f in found], 0),
    (*about, tuple(f.drawn[-1] for f in found)),
  )


@functools.lru_cache(256)
def _weights(sizes, seed):
  """(weights [Q] of the mean, [RESAMPLES, Q] of the resamples) of all queries."""
  starts = np.concatenate([[0], np.cumsum([sum(of) for of in sizes])[:-1]])
  total = sum(map(sum, sizes))
  rng = np.random.default_rng([seed, len(sizes)])

  def spread(out, pick):
    for b in pick(len(sizes)):
      of, at = sizes[b], starts[b] + np.concatenate([[0], np.cumsum(sizes[b])])
      for s in pick(len(of)):
        share = 1 / (len(sizes) * len(of) * of[s])
        np.add.at(out, at[s] + pick(of[s]), share)

  even, drawn = np.zeros(total), np.zeros((RESAMPLES, total))
  spread(even, np.arange)
  for out in drawn:
    spread(out, lambda n: rng.integers(n, size=n))
  return even, drawn
