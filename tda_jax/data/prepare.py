"""Prepares rows for training: splits, scaling, label noise.

Random functions are pure functions of an integer seed and return the rows that
they chose, so that a run can record them.
"""

import numpy as np

from tda_jax.data import rows as rows_lib
from tda_jax.trees import PyTree


def split(
  rows: PyTree, seed: int, *sizes: int
) -> tuple[tuple[PyTree, ...], tuple[np.ndarray, ...]]:
  """Disjoint random parts of `rows`: (parts, indices of their rows).

  The parts are consecutive pieces of `default_rng(seed).permutation(N)`.

  Raises:
    ValueError: a size is not positive, or there are too few rows.
  """
  n = rows_lib.count(rows)
  if min(sizes) < 1 or sum(sizes) > n:
    raise ValueError(
      f'cannot split {n} rows into parts of {" + ".join(map(str, sizes))}: give'
      f' positive sizes that sum to at most {n}'
    )
  order = np.random.default_rng(seed).permutation(n)
  ends = np.cumsum(sizes)
  indices = tuple(
    order[end - size : end] for end, size in zip(ends, sizes, strict=True)
  )
  return tuple(rows_lib.take(rows, index) for index in indices), indices


def of_classes(rows: PyTree, classes: int) -> tuple[PyTree, np.ndarray]:
  """(the rows of classes 0 to `classes` − 1, their indices).

  Raises:
    ValueError: there is no such class.
  """
  present = np.unique(rows['y'])
  if not 0 < classes <= len(present):
    raise ValueError(
      f'{classes} classes of {len(present)}: give 1 to {len(present)}'
    )
  index = np.flatnonzero(rows['y'] < classes)
  return rows_lib.take(rows, index), index


def balanced(
  rows: PyTree, seed: int, per_class: int, others: int = 0
) -> tuple[tuple[PyTree, PyTree], tuple[np.ndarray, np.ndarray]]:
  """`per_class` random rows of each class, and `others` of the rest.

  With one seed, a smaller set is part of a larger one, and both have the same
  others as long as there are enough.

  Raises:
    ValueError: a class has too few rows, or there are too few others.
  """
  order = np.random.default_rng(seed).permutation(rows_lib.count(rows))
  labels = np.asarray(rows['y'])[order]
  kinds, counts = np.unique(labels, return_counts=True)
  few = kinds[counts < per_class]
  if per_class < 1 or len(few):
    raise ValueError(
      f'per_class={per_class}: give 1 to {counts.min()}, of which class'
      f' {kinds[counts.argmin()]} has no more'
    )
  chosen = [np.flatnonzero(labels == kind)[:per_class] for kind in kinds]
  chosen = np.sort(np.concatenate(chosen))
  rest = np.delete(order, chosen)
  if not 0 <= others <= len(rest):
    raise ValueError(f'{others} other rows of {len(rest)}: give fewer')
  indices = order[chosen], rest[len(rest) - others :]
  return tuple(rows_lib.take(rows, index) for index in indices), indices


def standardise(
  train: PyTree,
  *others: PyTree,
  axes: tuple[int, ...] = (0,),
  target: bool = False,
) -> tuple[PyTree, ...]:
  """(x − mean) / standard deviation, both of `train`, for all the rows.

  A feature that is constant in `train` is only centred.

  Args:
    train, others: rows {'x', 'y'}; all are returned, in that order.
    axes: of 'x' that statistics are taken over: (0,) gives every feature its
      own, (0, 1, 2) every channel of an image.
    target: standardise 'y' too, for regression.
  """
  moments = {'x': _moments(train['x'], axes)}
  if target:
    moments['y'] = _moments(train['y'], (0,))

  def scaled(part):
    new = {
      name: ((part[name] - mean) / deviation).astype(np.float32)
      for name, (mean, deviation) in moments.items()
    }
    return {**part, **new}

  return tuple(scaled(part) for part in (train, *others))


def relabel(
  rows: PyTree, fraction: float, seed: int, classes: int, wrong: bool = False
) -> tuple[PyTree, np.ndarray]:
  """Label noise: (rows, sorted indices of those relabelled).

  round(fraction·N) random rows get a label drawn uniformly from all classes, so
  that one in `classes` of them keeps its label by chance.

  Args:
    wrong: draw from the other classes only.

  Raises:
    ValueError: `fraction` is not between 0 and 1.
  """
  if not 0 <= fraction <= 1:
    raise ValueError(f'label noise {fraction}: give a fraction from 0 to 1')
  n = rows_lib.count(rows)
  rng = np.random.default_rng(seed)
  chosen = np.sort(rng.choice(n, round(fraction * n), replace=False))
  labels = np.array(rows['y'])
  if wrong:
    away = rng.integers(1, classes, size=len(chosen))
    labels[chosen] = (labels[chosen] + away) % classes
  else:
    labels[chosen] = rng.integers(classes, size=len(chosen))
  return {**rows, 'y': labels}, chosen


def _moments(column, axes):
  # float64: the mean of 6,000 pixels in float32 is off in the fifth digit.
  column = np.asarray(column, np.float64)
  mean = column.mean(axes, keepdims=True)
  deviation = column.std(axes, keepdims=True)
  constant = deviation <= 1e-8 * np.maximum(np.abs(mean), 1)
  deviation = np.where(constant, 1.0, deviation)
  return mean.astype(np.float32), deviation.astype(np.float32)
