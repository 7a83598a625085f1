"""Reads a column of a table strictly: numbers or text, features or a target.

A column that could be read in two ways raises a ValueError with column and row.
"""

import types

import numpy as np

# Names under which libraries write the number of a row.
INDEX = ('index', 'id', 'row', 'rownames', 'row_names', 'unnamed: 0', 'level_0')


def features(
  called: str, name: str, column: np.ndarray, one_hot: bool
) -> dict[str, np.ndarray]:
  """The features of a column: itself, or one for each of its texts.

  Args:
    called: what to call the table in errors.
    name: of the column.
    column: [N] numbers, or objects of text.
    one_hot: whether a column of text is accepted.
  """
  column = numbers_or_text(called, name, column)
  if column.dtype != object:
    running = np.arange(len(column))
    counts = any((column == running + first).all() for first in (0, 1))
    if name.lower() in INDEX and counts:
      raise ValueError(
        f'column {name!r} of {called} only numbers the rows: leave it out (drop)'
      )
    check_numbers(called, name, column)
    return {name: column}
  if not one_hot:
    raise ValueError(
      f'column {name!r} of {called} is text (its first value is {str(column[0])!r}):'
      ' give numbers, leave it out (drop), or ask for one_hot'
    )
  values = np.unique(column.astype(str))
  if len(values) > max(2, len(column) / 2):
    raise ValueError(
      f'column {name!r} of {called} has {len(values)} different texts in'
      f' {len(column)} rows, like names or identifiers: leave it out (drop)'
    )
  return {f'{name}_{value}': column == value for value in values}


def numbers_or_text(called: str, name: str, column: np.ndarray) -> np.ndarray:
  """A column of text as numbers if most of it is numbers, else as it is.

  Raises:
    ValueError: a value is missing, or no number among numbers.
  """
  if column.dtype != object:
    _refuse(called, name, np.isnan(column.astype(float)), 'no value')
    return column
  lower = column.astype(str)
  lower = np.char.lower(lower)
  if np.isin(lower, ('true', 'false')).all():
    return lower == 'true'
  numbers = pandas().to_numeric(column, errors='coerce')
  numbers = np.asarray(numbers)
  filled = np.asarray(column != '', bool)
  wrong = filled & np.isnan(numbers.astype(float))
  if not wrong.any() and filled.any():
    _refuse(called, name, ~filled, 'no value')
    digits = np.array([len(cell.lstrip('+-')) for cell in column])
    wide = (digits > 15) & (np.abs(numbers.astype(float)) >= 2**53)
    wide &= numbers.dtype.kind not in 'iu'
    _refuse(called, name, wide & ~_written_small(column), 'too many digits')
    return _whole(column, numbers)
  _refuse(called, name, ~filled, 'no value')
  if wrong.sum() <= filled.sum() / 2:
    row = int(np.argmax(wrong))
    _refuse(called, name, wrong, f'{column[row]!r} among numbers')
  return column


def _written_small(column):
  """Which cells are written with a point or an exponent."""
  return np.array([not cell.lstrip('+-').isdigit() for cell in column])


def _whole(column, numbers):
  """Whole numbers as integers if they were written as integers."""
  if numbers.dtype.kind in 'iu':
    return numbers
  whole = np.isfinite(numbers).all() and (numbers == np.round(numbers)).all()
  small = whole and np.abs(numbers).max() < 2**53
  return numbers.astype(np.int64) if small else numbers


def _refuse(called, name, wrong, what):
  if wrong.any():
    raise ValueError(
      f'{called} has {what} in column {name!r} of {int(wrong.sum())} rows, the'
      f' first is row {int(np.argmax(wrong))}: remove or fill them'
    )


def check_numbers(called: str, name: str, column: np.ndarray) -> None:
  """Raises ValueError for numbers that float32 cannot represent."""
  if column.dtype.kind == 'b':
    return
  _refuse(called, name, ~np.isfinite(column), 'NaN or infinity')
  with np.errstate(over='ignore'):
    narrow = column.astype(np.float32)
  _refuse(called, name, ~np.isfinite(narrow), 'a number beyond float32')
  whole = np.abs(narrow).max(initial=0) >= 2**24 and (
    column.dtype.kind in 'iu' or (column == np.round(column)).all()
  )
  with np.errstate(over='ignore'):
    lost = np.abs(column.astype(float) - narrow).max(initial=0)
    spread = np.std(column.astype(float)) if len(column) else 0
  if not whole and lost > 0.01 * spread > 0:
    raise ValueError(
      f'column {name!r} of {called} has numbers that float32 cannot tell apart'
      f' (they differ by about {spread:.2g} around {np.mean(column):.6g}): subtract'
      ' their mean or change their unit, or leave the column out (drop)'
    )
  if whole and len(np.unique(narrow)) < len(np.unique(column)):
    raise ValueError(
      f'column {name!r} of {called} has whole numbers above 2^24 that float32'
      ' cannot tell apart: leave it out (drop) if it is an identifier, else'
      ' subtract its smallest value'
    )


def targets(called: str, target: str, y: np.ndarray) -> np.ndarray:
  """Numbers to predict, float32."""
  if y.dtype == object or y.dtype.kind in 'US':
    raise ValueError(
      f'target {target!r} of {called} is text (its first value is {str(y[0])!r}):'
      ' give numbers, or ask for classification'
    )
  for column in y.reshape(len(y), -1).T:
    check_numbers(called, target, column)
  return np.asarray(y, np.float32)


def classes(
  called: str, target: str, y: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
  """(labels 0, 1, ..., names of the classes in sorted order)."""
  if y.dtype == object or y.dtype.kind in 'US':
    y = y.astype(str)
    _refuse(called, target, y == '', 'no value')
  elif y.dtype.kind == 'f':
    _refuse(called, target, np.isnan(y), 'no value')
    if not (y == np.round(y)).all():
      raise ValueError(
        f'target {target!r} of {called} has fractions (as {y[y != np.round(y)][0]}'
        '), which are no classes: ask for regression, or make classes of them'
      )
    _refuse(called, target, ~np.isfinite(y), 'infinity')
    wide = np.abs(y) >= 2**53
    _refuse(called, target, wide, 'a label beyond 2^53 (give it as text)')
    y = y.astype(np.int64)
  names, labels = np.unique(y, return_inverse=True)
  return labels.reshape(-1).astype(np.int32), tuple(map(str, names))


def check_spelling(called: str, target: str, cells: np.ndarray) -> None:
  """Raises ValueError where one class of numbers is written in two ways.

  Args:
    cells: [N], of a file as text; others pass.
  """
  if cells.dtype != object:
    return
  spelled = np.unique(cells.astype(str))
  numbers = np.asarray(pandas().to_numeric(spelled, errors='coerce'))
  whole, place = np.unique(numbers, return_inverse=True)
  if np.isnan(numbers.astype(float)).any() or len(whole) == len(spelled):
    return
  twice = np.flatnonzero(place == np.argmax(np.bincount(place)))[:2]
  raise ValueError(
    f'target {target!r} of {called} writes one number in several ways'
    f' ({str(spelled[twice[0]])!r} and {str(spelled[twice[1]])!r}): write each'
    ' class in one way, and codes as text that is no number'
  )


def pandas() -> types.ModuleType:
  """The package pandas; raises ValueError if it is not installed."""
  try:
    import pandas as library
  except ImportError:
    raise ValueError(
      'reading a CSV file takes the package pandas: pip install "tda_jax[data]"'
    ) from None
  return library
