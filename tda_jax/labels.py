"""Checks that the labels of rows fit a model's outputs, for the ready problems.

Each check is (shape of ONE example's outputs, rows) -> None and raises a
ValueError of one sentence that names what is wrong and the cure. Labels of 0
and 1, and class numbers, may be kept as integers, whole floats or bools.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from tda_jax.trees import PyTree

Shape = tuple[int, ...]


def column(rows: PyTree, name: str) -> Any:
  """A column of rows, or a leaf of an example, by its name.

  Raises:
    ValueError: there is none.
  """
  if name not in rows:
    raise ValueError(
      f'the rows have no column {name!r}, which the problem reads: they have'
      f' {sorted(rows)}'
    )
  return rows[name]


def check_classes(shape: Shape, rows: PyTree) -> None:
  """Checks for class numbers [N] from 0 to K − 1 with K ≥ 2 logits [K]."""
  if len(shape) == 0:
    raise ValueError(
      'the model gives one number a row, outputs of shape [B], and'
      ' classification takes a logit for each class, [B, K]: use tda.binary for'
      ' two classes or tda.regression for numbers'
    )
  if len(shape) > 1:
    raise ValueError(
      f'the outputs of one example have shape {list(shape)}, and classification'
      ' takes a logit for each class, [B, K]: reduce the other axes in apply, or'
      ' give tda.Problem your own loss'
    )
  if shape == (1,):
    raise ValueError(
      'the model has one output, whose softmax is 1 whatever its parameters, so'
      ' that every score would be 0: use tda.binary, or give the model an output'
      ' for each class'
    )
  _check_numbers_of_classes(
    rows, shape[0], 'relabel the rows or widen the model'
  )


def check_two(shape: Shape, rows: PyTree) -> None:
  """Checks for labels [N] of 0 or 1 with one logit, () or [1]."""
  if shape not in ((), (1,)):
    raise ValueError(
      f'the outputs of one example have shape {list(shape)}, and binary takes'
      ' one logit, [B] or [B, 1]: use tda.classification for a logit for each'
      ' class or tda.multilabel for one for each label'
    )
  _check_numbers_of_classes(
    rows, 2, 'give 0 and 1 (labels y of -1 and 1 are (y + 1) // 2)'
  )


def check_many(shape: Shape, rows: PyTree) -> None:
  """Checks for labels [N, K] of 0 or 1 with K logits [K]."""
  if len(shape) != 1:
    raise ValueError(
      f'the outputs of one example have shape {list(shape)}, and multilabel'
      ' takes a logit for each label, [B, K]: use tda.binary for one label'
    )
  labels = np.asarray(column(rows, 'y'))
  if labels.shape[1:] != shape:
    raise ValueError(
      f'labels have shape {list(labels.shape)} for {shape[0]} logits: give'
      f' multilabel 0 or 1 for each label, [N, {shape[0]}], or use'
      ' tda.classification for one class a row'
    )
  _check_numeric(labels, 'labels', 'give 0 and 1')
  good = (labels == 0) | (labels == 1)
  if not good.all():
    row = int(np.argmax(~good.all(1)))
    raise ValueError(
      f'row {row} has label {labels[row][~good[row]][0]}: give multilabel 0 or 1'
      ' for each label'
    )


def check_numbers(shape: Shape, rows: PyTree) -> None:
  """Checks for targets [N] or [N, ...] with as many numbers as the outputs."""
  targets = np.asarray(column(rows, 'y'))
  _check_numeric(targets, 'targets', 'give numbers, or use tda.classification')
  _check_rows(targets, 'targets')
  count, size = int(np.prod(targets.shape[1:])), int(np.prod(shape))
  if count != size:
    raise ValueError(
      f'each row has {count} targets, but the model gives {size} numbers: make'
      ' the two agree'
    )


def _check_numbers_of_classes(rows, classes, hint):
  labels = np.asarray(column(rows, 'y'))
  most = classes - 1
  _check_rows(labels, 'class labels')
  _check_numeric(
    labels,
    'class labels',
    f'give integers from 0 to {most}, for example'
    ' np.unique(labels, return_inverse=True)[1]',
  )
  if labels.ndim > 1:
    if labels.shape[1:] == (1,):
      instead = ': give [N], for example y[:, 0]'
    elif labels.ndim == 2 and (np.count_nonzero(labels, 1) == 1).all():
      instead = ', like one-hot rows: give class numbers [N], y.argmax(1)'
    else:
      instead = ': give one class number a row, [N]'
    raise ValueError(f'class labels have shape {list(labels.shape)}{instead}')
  if labels.dtype == bool and classes != 2:
    raise ValueError(
      f'class labels have type bool, but the model has {classes} classes: give'
      f' integers from 0 to {most}'
    )
  whole = labels == np.floor(labels.astype(np.float64))
  if not whole.all():
    row = int(np.argmin(whole))
    raise ValueError(
      f'class labels have type {labels.dtype}, and row {row} has'
      f' {labels[row]}: give integers from 0 to {most}, or use tda.regression'
    )
  bad = (labels < 0) | (labels > most)
  if bad.any():
    row = int(np.argmax(bad))
    raise ValueError(
      f'row {row} has label {labels[row]}, but the model has {classes} classes'
      f' (0 to {most}): {hint}'
    )


def _check_rows(labels, name):
  if labels.ndim == 0:
    raise ValueError(f'{name} are the one value {labels}: give one a row, [N]')


def _check_numeric(labels, name, hint):
  kinds = (np.integer, np.floating, np.bool_)
  if not any(jnp.issubdtype(labels.dtype, kind) for kind in kinds):
    first = labels.ravel()[:1].tolist()
    shown = f' (the first is {first[0]!r})' if first else ''
    raise ValueError(f'{name} have type {labels.dtype}{shown}: {hint}')
