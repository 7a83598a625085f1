"""Leaves: clusters of near sentences, split until each is small."""

import warnings
from typing import Any

import numpy as np

WHOLE = 10_000  # rows up to which k-means sees all of them at every step


def leaves(
  rows: np.ndarray, most: int = 100, branches: int = 10, seed: int = 0
) -> np.ndarray:
  """The leaf of each row, int32 [N]: k-means, again within what is too large.

  Numbers follow the first row of a leaf, so that the same rows give the same
  leaves. Rows that k-means cannot tell apart are cut in their order.

  Source: the recursive clustering of Chen et al. 2024,
  https://arxiv.org/abs/2404.15157

  Args:
    rows: [N, D] embeddings.
    most: rows of a leaf.
    branches: the most parts of one split.

  Raises:
    ValueError: no rows, or they are not finite; `most` below 1, `branches` below 2.
  """
  rows = np.asarray(rows, np.float32)
  if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
    raise ValueError(
      f'embeddings of shape {rows.shape} that are absent or not finite: give [N, D]'
      ' finite numbers'
    )
  if most < 1 or branches < 2:
    raise ValueError(
      f'most={most} rows a leaf and branches={branches}: give at least 1 and 2'
    )
  out, open_, number = np.zeros(len(rows), np.int32), [np.arange(len(rows))], 0
  while open_:
    part = open_.pop()
    if len(part) <= most:
      out[part], number = number, number + 1
    else:
      open_ += _split(rows, part, most, branches, seed)
  _, first = np.unique(out, return_index=True)
  order = np.argsort(np.argsort(first))
  return order[out].astype(np.int32)


def _split(rows, part, most, branches, seed):
  """The row numbers `part`, in at least two parts."""
  count = min(branches, -(-len(part) // most) + 1, len(part))
  named = _clustered(rows[part], count, seed)
  parts = [part[named == name] for name in np.unique(named)]
  if len(parts) > 1:
    return parts
  return np.array_split(part, -(-len(part) // most))


def _clustered(rows, count, seed):
  import threadpoolctl
  from sklearn import cluster, exceptions

  # One thread: the same sums whatever the machine, and steps are too short for more.
  with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
    # Of rows that are the same.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    options: Any = {'n_init': 3, 'random_state': seed}
    if len(rows) <= WHOLE:
      means = cluster.KMeans(count, **options)
    else:
      means = cluster.MiniBatchKMeans(count, batch_size=4096, **options)
    return means.fit_predict(rows)
