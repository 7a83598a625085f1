"""Random subsets of the training rows, as pure functions of a seed."""

import numpy as np


def half_subsets(
  seed: int, n: int, count: int, fraction: float = 0.5
) -> np.ndarray:
  """`count` random subsets of n rows, without replacement.

  Subset m depends on (seed, n, fraction, m) only, so that a larger `count` only
  adds subsets.

  Returns:
    [M, round(fraction·n)] row numbers, each row sorted, int32.

  Raises:
    ValueError: the subsets would be empty or larger than n.
  """
  size = round(fraction * n)
  if not 0 < size <= n:
    raise ValueError(
      f'fraction {fraction} of {n} rows is {size} rows: give a fraction'
      ' above 0 and at most 1'
    )
  subsets = np.empty((count, size), np.int32)
  for m in range(count):
    rng = np.random.default_rng([seed, m])
    subsets[m] = np.sort(rng.choice(n, size, replace=False))
  return subsets
