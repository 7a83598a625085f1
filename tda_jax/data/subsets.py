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


def complement(
  subsets: np.ndarray, n: int, name: str = 'subsets'
) -> np.ndarray:
  """Those of n rows that each subset lacks, [M, n − k], from subsets [M, k].

  Returns:
    Row numbers, each line sorted, int32.

  Raises:
    ValueError: as `check`.
  """
  subsets = check(subsets, n, name)
  others = np.ones((len(subsets), n), bool)
  np.put_along_axis(others, subsets, False, 1)
  return np.nonzero(others)[1].reshape(len(subsets), -1).astype(np.int32)


def listed(subsets: np.ndarray, n: int) -> list[np.ndarray]:
  """Each of M sets of n rows as its row numbers.

  Args:
    subsets: row numbers [M, k], or whether each row is in the set, bool [M, n].

  Raises:
    ValueError: as `check`; a set without rows; bool of another shape.
  """
  subsets = np.asarray(subsets)
  if subsets.dtype == bool:
    if subsets.ndim != 2 or subsets.shape[1] != n:
      raise ValueError(
        f'subsets are bool of shape {list(subsets.shape)}: give [M, {n}], whether'
        ' each row is in the set'
      )
    sets = [np.flatnonzero(line) for line in subsets]
  else:
    sets = [*check(subsets, n)]
  if not sets or min(map(len, sets)) == 0:
    raise ValueError('a set has no rows: give sets of at least one row')
  return sets


def check(subsets: np.ndarray, n: int, name: str = 'subsets') -> np.ndarray:
  """Sets of k of the numbers 0..n−1 as integers, [M, k]; k may be 0.

  Raises:
    ValueError: another shape, numbers that are not from 0 to n − 1, or one that
      a line holds twice.
  """
  subsets = np.asarray(subsets)
  if subsets.ndim != 2:
    raise ValueError(
      f'{name} has shape {list(subsets.shape)}: give [M, k] rows'
    )
  if not subsets.size:
    return subsets.astype(np.int64)  # an empty list makes an array of floats
  whole = np.issubdtype(subsets.dtype, np.integer)
  ordered = np.sort(subsets, 1)
  inside = ordered[:, 0].min() >= 0 and ordered[:, -1].max() < n
  if not whole or not inside or (ordered[:, 1:] == ordered[:, :-1]).any():
    raise ValueError(
      f'{name} must hold different whole numbers from 0 to {n - 1} in each line'
    )
  return subsets
