"""Controlled worlds: rows changed so that the right attribution is known.

Like in `prepare` (which has label noise, `relabel`), random functions are pure
functions of an integer seed. They do not modify the given rows, and return the
new rows with a mask or list of what was changed.

Source: Bareeva et al. 2024, Quanda, https://arxiv.org/abs/2410.07158
"""

import numpy as np

from tda_jax.data import rows as rows_lib
from tda_jax.trees import PyTree


def grouped(
  rows: PyTree, classes: int, groups: int, seed: int
) -> tuple[PyTree, tuple[np.ndarray, np.ndarray]]:
  """Classes merged at random: (rows of groups, (classes [N], group of each)).

  A model is trained on groups 0 to `groups` − 1 and never sees the classes. Do
  its scores still find a query's class (`detection.class_detection`)? The numbers
  of classes in groups differ by one at most. The map, [classes], depends on
  (classes, groups, seed) only, so that the same call groups the queries.

  Raises:
    ValueError: not 1 to `classes` groups; a label is not one of the classes.
  """
  if not 1 <= groups <= classes:
    raise ValueError(
      f'{groups} groups of {classes} classes: give 1 to {classes}'
    )
  labels = np.array(rows['y'])
  if labels.min() < 0 or labels.max() >= classes:
    raise ValueError(
      f'labels are from {labels.min()} to {labels.max()}, and classes from 0 to'
      f' {classes - 1}: give the number of classes'
    )
  group = np.random.default_rng(seed).permutation(classes) % groups
  group = group.astype(labels.dtype)
  return {**rows, 'y': group[labels]}, (labels, group)


def shortcut(
  rows: PyTree,
  label: int,
  share: float,
  seed: int,
  *,
  size: int,
  value: float | np.ndarray,
  corner: tuple[int, int] = (0, 0),
) -> tuple[PyTree, np.ndarray]:
  """A patch on images of one class: (rows, which have it [N] bool).

  round(share · n) random rows of the n of class `label` get a square patch, which
  a model learns in place of the class. Its predictions for queries that all have
  the patch (`patched`) are then caused by these rows.

  Args:
    rows: 'x' is [N, H, W] or [N, H, W, C].
    size, value, corner: as in `patched`.

  Raises:
    ValueError: no row of the class, a share that chooses none or is above 1; as
      `patched`.
  """
  of_class = np.flatnonzero(np.asarray(rows['y']) == label)
  count = round(share * len(of_class))
  if not 0 < count <= len(of_class):
    raise ValueError(
      f'a shortcut on a share {share} of the {len(of_class)} rows of class'
      f' {label}: give a class of the rows, and a share up to 1 that is not'
      ' rounded to none'
    )
  mask = np.zeros(len(rows['y']), bool)
  mask[np.random.default_rng(seed).choice(of_class, count, False)] = True
  with_patch = patched(rows, size=size, value=value, corner=corner)
  wide = mask.reshape(-1, *(1,) * (with_patch['x'].ndim - 1))
  return {**rows, 'x': np.where(wide, with_patch['x'], rows['x'])}, mask


def patched(
  rows: PyTree,
  *,
  size: int,
  value: float | np.ndarray,
  corner: tuple[int, int] = (0, 0),
) -> PyTree:
  """The rows with a square patch on every image, for queries of a shortcut.

  Args:
    rows: 'x' is [N, H, W] or [N, H, W, C].
    size: of its sides, in pixels.
    value: of its pixels in the scale of 'x', one or [C].
    corner: row and column of its first pixel.

  Raises:
    ValueError: 'x' holds no images; the patch is not within them; value is
      neither one nor one a channel.
  """
  images = np.array(rows['x'])
  if images.ndim not in (3, 4):
    raise ValueError(
      f"'x' is {list(images.shape)}: a patch is for images [N, H, W] or"
      ' [N, H, W, C]'
    )
  (top, left), (height, width) = corner, images.shape[1:3]
  inside = min(top, left) >= 0 and top + size <= height and left + size <= width
  if size < 1 or not inside:
    raise ValueError(
      f'a patch of {size} pixels at {tuple(corner)} is not within images of'
      f' {height} × {width}: give a smaller one or another corner'
    )
  if np.shape(value) not in ((), images.shape[3:]):
    raise ValueError(
      f'a patch of value {value} for pixels of shape {list(images.shape[3:])}:'
      ' give one number, or one for each channel'
    )
  images[:, top : top + size, left : left + size] = value
  return {**rows, 'x': images}


def mixed(
  rows: PyTree, foreign: PyTree, label: int, seed: int
) -> tuple[PyTree, np.ndarray]:
  """Rows of another data set mixed in as class `label`: (rows, which are [N']).

  The foreign rows are put at random places. Both kinds keep their order, so that
  the mask, bool, says where each row went.

  Args:
    rows, foreign: 'x' of one shape but for the number of rows.

  Raises:
    ValueError: foreign rows have other columns, or are of another shape.
  """
  shapes = [
    {name: np.shape(leaf)[1:] for name, leaf in part.items()}
    for part in (rows, foreign)
  ]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f'foreign rows are {shapes[1]} and the rows {shapes[0]}: bring them to'
      ' the same size, channels and columns first'
    )
  row_count, foreign_count = rows_lib.count(rows), rows_lib.count(foreign)
  order = np.random.default_rng(seed).permutation(row_count + foreign_count)
  mask = np.zeros(row_count + foreign_count, bool)
  mask[order[:foreign_count]] = True
  foreign = {**foreign, 'y': np.full(foreign_count, label)}

  def merged(name):
    leaf = np.asarray(rows[name])
    new = np.empty((row_count + foreign_count, *leaf.shape[1:]), leaf.dtype)
    new[mask], new[~mask] = foreign[name], leaf
    return new

  return {name: merged(name) for name in rows}, mask
