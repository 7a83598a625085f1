"""The looks of rows on a page: as the task says, or by their shape."""

import numpy as np

from experiments.shared.tasks import Task
from tda_jax.data import rows as rows_lib
from tda_jax.report.cards import Looks


def of(task: Task) -> Looks:
  """Images where `Task.shown` or a column is such, else a table.

  Of a task that does not say, the first column of shape [N, H, W] or [N, H, W, C]
  is an image, and numbers [N] and [N, D] are a table's columns; labels are not
  among them. Nothing that could be shown: a table without columns. Targets that
  were standardised have their own unit again.

  Raises:
    ValueError: `Task.shown` is not of its rows.
  """
  parts = {'train': task.train, 'queries': task.queries}
  labels = [_labels(task, rows) for rows in parts.values()]
  if task.shown is None:
    columns, shown = _by_shape(parts)
    return Looks(
      shown['train'], labels[0], shown['queries'], labels[1], columns=columns
    )
  for name, rows in parts.items():
    if np.shape(task.shown.get(name))[:1] != (rows_lib.count(rows),):
      raise ValueError(
        f'Task.shown has no {name!r} of {rows_lib.count(rows)} rows: give'
        " {'train', 'queries'} as people look at them, or shown=None"
      )
  looks = Looks(
    np.asarray(task.shown['train']),
    labels[0],
    np.asarray(task.shown['queries']),
    labels[1],
    task.shown.get('classes'),
    task.shown.get('columns'),
  )
  return looks


def targets(task: Task, values: np.ndarray) -> np.ndarray:
  """Numbers in the unit that targets had before they were standardised."""
  mean, deviation = (task.shown or {}).get('target', (0, 1))
  return values * deviation + mean


def _labels(task, rows):
  """[N] or [N, K]; of rows without labels they are empty texts."""
  if not hasattr(rows, 'get') or 'y' not in rows:
    return np.full(rows_lib.count(rows), '')
  labels = np.asarray(rows['y'])
  if 'target' in (task.shown or {}):
    return targets(task, labels)
  whole = labels.dtype == bool or np.array_equal(labels, np.floor(labels))
  return labels.astype(int) if whole else labels


def _by_shape(parts):
  """(names of columns or None, {'train', 'queries'} as images or tables)."""
  leaves = {part: _columns(rows) for part, rows in parts.items()}
  for name, values in leaves['train'].items():
    if values.ndim in (3, 4):
      shown = {part: _pictures(leaves[part][name]) for part in parts}
      return None, shown
  flat = [n for n, v in leaves['train'].items() if v.ndim in (1, 2)]
  names, tables = [], {part: [] for part in parts}
  for name in flat:
    for part in parts:
      values = leaves[part][name]
      tables[part].append(values.reshape(len(values), -1))
    width = tables['train'][-1].shape[1]
    alone = leaves['train'][name].ndim == 1
    names += [name] if alone else [f'{name}{i}' for i in range(width)]
  empty = {part: np.zeros((rows_lib.count(r), 0)) for part, r in parts.items()}
  joined = {
    part: np.concatenate([empty[part], *tables[part]], 1) for part in parts
  }
  return names, joined


def _columns(rows):
  """name -> numbers [N, ...] of all columns but the labels."""
  named = rows if hasattr(rows, 'items') else {'x': rows}
  arrays = {
    name: np.asarray(values)
    for name, values in named.items()
    if name != 'y' and hasattr(values, 'dtype')
  }
  return {n: v for n, v in arrays.items() if v.dtype.kind in 'fiub'}


def _pictures(values):
  """[N, H, W], [N, H, W, 1] or [N, H, W, 3]; of other channels the mean."""
  if values.ndim == 4 and values.shape[-1] not in (1, 3):
    return values.mean(-1)
  return values
