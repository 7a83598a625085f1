"""Converts the scores of other libraries to [N, Q] with positive for support."""

import os
import pathlib
from pickle import UnpicklingError
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np

ORIENTATIONS = ('rows_by_queries', 'queries_by_rows')
SIGNS = ('supports', 'harms')
BROKEN = (
  OSError,
  EOFError,
  RuntimeError,
  ValueError,
  BadZipFile,
  UnpicklingError,
)


def read(path: str | os.PathLike, zeros: bool = False) -> np.ndarray:
  """The array of a .npy, .npz, .zarr (v2 or v3) or .pt file.

  Args:
    path: of a .npz with several arrays 'FILE.npz:NAME'. A .pt file must hold a
      tensor and needs torch.
    zeros: accepts lines of a matrix that are exactly zero; without it they are
      refused, because most were never written by their run.

  Raises:
    ValueError: no such file, another kind, damaged, not wholly written, or
      several arrays.
  """
  file, _, name = str(path).partition('.npz:')
  file = pathlib.Path(f'{file}.npz' if name else file)
  if not file.exists():
    raise ValueError(f'there is no {file}: give the path of the scores')
  if file.suffix not in READERS:
    raise ValueError(
      f'{file} is of no kind that is known: save the scores as one of'
      f' {", ".join(READERS)}'
    )
  try:
    array = READERS[file.suffix](file, name)
  except BROKEN as error:
    raise ValueError(f'{file} cannot be read: {error}') from None
  array = np.asarray(array)
  if array.dtype.kind not in 'biuf':
    raise ValueError(f'{file} holds {array.dtype}: give an array of numbers')
  if not np.isfinite(array).all():
    raise ValueError(
      f'{file} has {(~np.isfinite(array)).sum()} scores that are not finite:'
      ' its run is not complete, or diverged'
    )
  if array.ndim == 2 and array.size and not zeros:
    _refuse_zeros(file, array)
  return array


def _refuse_zeros(file, array):
  """Raises ValueError for a line of either axis that is exactly zero."""
  for axis, name in ((1, 'rows'), (0, 'columns')):
    empty = ~array.any(axis)
    if empty.any():
      raise ValueError(
        f'{file} has {int(empty.sum())} {name} of zeros, the first is number'
        f' {int(np.argmax(empty))}: complete the run that wrote it, or say that'
        ' they are meant (zeros)'
      )


def oriented(
  scores: np.ndarray, orientation: str, sign: str, rows: int, queries: int
) -> np.ndarray:
  """The same scores as [N, Q] with positive for support, float64.

  Args:
    orientation: 'rows_by_queries' (like ours and dattri's), or 'queries_by_rows'
      (like kronfluence's and quanda's).
    sign: 'supports' if a larger score means that the row helps the query
      (kronfluence's, if its measurement is the query's loss); 'harms' if it means
      the opposite (if the measurement is a log-probability).

  Raises:
    ValueError: unknown orientation or sign; another shape.
  """
  for value, known in ((orientation, ORIENTATIONS), (sign, SIGNS)):
    if value not in known:
      raise ValueError(f'{value!r} is unknown: say one of {", ".join(known)}')
  transposed = orientation == 'queries_by_rows'
  wanted = (queries, rows) if transposed else (rows, queries)
  if scores.shape != wanted:
    hint = 'score these rows and queries'
    if scores.shape == wanted[::-1]:
      hint = f'say {ORIENTATIONS[not transposed]}'
    raise ValueError(
      f'scores have shape {scores.shape}, and {orientation} of {rows} rows and'
      f' {queries} queries are {wanted}: {hint}'
    )
  matrix = np.asarray(scores, np.float64)
  matrix = matrix.T if transposed else matrix
  return matrix if sign == 'supports' else -matrix


def checked_self_influence(self_influence: np.ndarray, rows: int) -> np.ndarray:
  """Self-influence [N] as float64, checked for its sign.

  In the loss it is gᵀ(A + damping)⁻¹g / N, which is never negative for a positive
  semidefinite curvature A: a row supports itself.

  Raises:
    ValueError: another shape; most are negative.
  """
  if self_influence.shape != (rows,):
    raise ValueError(
      f'self-influence has shape {self_influence.shape} for {rows} rows: give one'
      ' a row'
    )
  below = (self_influence < 0).mean()
  if below > 0.5:
    raise ValueError(
      f'{below:.0%} of the self-influences are negative, which no row has on'
      ' its own loss: give minus them'
    )
  return np.asarray(self_influence, np.float64)


def suspicion(
  scores: np.ndarray, labels: np.ndarray, query_labels: np.ndarray
) -> str | None:
  """A warning if the sign of the scores looks wrong; None if it looks right.

  On average, rows of a query's class should support it more than others do.

  Args:
    scores: [N, Q] as `oriented` gives them.
    labels, query_labels: [N] and [Q] classes.
  """
  same = np.asarray(labels)[:, None] == np.asarray(query_labels)
  judged = same.any(0) & ~same.all(0)
  if not judged.any():
    return None
  mean = lambda which: np.ma.array(scores, mask=~which)[:, judged].mean(0)
  less = float((mean(same) < mean(~same)).mean())
  # Scores without information are below for half of the queries.
  if less <= 0.5 + 1.5 / judged.sum() ** 0.5:  # three standard errors
    return None
  return (
    f'for {less:.0%} of the queries, rows of their own class support less than'
    ' others do: if that surprises you, the sign is the other one'
  )


def _npz(file, name):
  with open(file, 'rb') as content, np.load(content) as arrays:
    names = arrays.files
    if not name and len(names) != 1:
      raise ValueError(f'it has the arrays {names}: write {file}:NAME')
    if name and name not in names:
      raise ValueError(f'it has no array {name!r}, but {names}')
    return arrays[name or names[0]]


def _zarr(file, name):
  import tensorstore as ts

  del name
  driver = 'zarr3' if (file / 'zarr.json').exists() else 'zarr'
  spec = {
    'driver': driver,
    'kvstore': {'driver': 'file', 'path': str(file.absolute())},
    'fill_missing_data_reads': False,  # what was never written is no number
  }
  store = ts.open(spec).result()
  try:
    return store.read().result()
  except ValueError as error:
    if 'missing' not in str(error):
      raise
    step = cast(Any, store).chunk_layout.read_chunk.shape[0]
    first = next(
      i for i in range(0, store.shape[0], step) if not _written(store[i])
    )
    raise ValueError(
      f'its chunks are not all written, the first that is missing is of row'
      f' {first}: complete the run that wrote it'
    ) from None


def _written(part) -> bool:
  try:
    part.read().result()
  except ValueError:
    return False
  return True


def _pt(file, name):
  del name
  try:
    import torch  # pyright: ignore[reportMissingImports]  # not our dependency
  except ImportError:
    raise ValueError(
      'a .pt file needs torch: install it, or save the tensor by'
      ' numpy.save(FILE, scores.numpy())'
    ) from None
  tensor = torch.load(file, map_location='cpu', weights_only=True)
  if not isinstance(tensor, torch.Tensor):
    raise ValueError(f'it holds a {type(tensor).__name__}: save one tensor')
  return tensor.float().numpy()


READERS = {
  '.npy': lambda file, name: np.load(file),
  '.npz': _npz,
  '.zarr': _zarr,
  '.pt': _pt,
}
