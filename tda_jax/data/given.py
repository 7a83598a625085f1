"""Rows as they are given, made plain: arrays [N, ...] of types that JAX has.

What has one reading is converted; else one sentence names the column and the
cure.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any

FLOATS = ('bfloat16', 'float8_e4m3fn', 'float8_e5m2')  # kinds numpy calls 'V'


def columns(given, name: str, reads: tuple[str, ...] | None = None) -> PyTree:
  """Rows as arrays of JAX's types in native byte order, leaves [N, ...].

  A list of examples is stacked, a pair (x, y) named; text that the problem does
  not read is left out.

  Args:
    name: what to call them.
    reads: the columns that the problem reads, or None where that is not known.

  Raises:
    ValueError: no row axis, text, objects or complex numbers, a column that the
      problem reads and that is not there, a number that JAX's types cannot hold.
  """
  given = _tree(given, name, reads)
  missing = [
    c for c in reads or () if isinstance(given, dict) and c not in given
  ]
  if missing and given:
    raise ValueError(
      f'{name} has no column {missing[0]!r}, which the problem reads, but'
      f' {", ".join(map(repr, given))}: name the columns so'
    )
  if isinstance(given, dict):
    unread = set(given) - set(reads) if reads is not None else set()
    given = {
      column: value
      for column, value in given.items()
      if not (column in unread and _is_text(value))
    }
  # A list is a column, whose entries are its rows.
  is_column = lambda v: isinstance(v, list) or _is_plain_tuple(v)
  return jax.tree_util.tree_map_with_path(
    lambda path, v: _column(v, name, place_of(path)), given, is_leaf=is_column
  )


def _tree(given, name, reads):
  """Rows as a tree of columns, where there is one reading."""
  if hasattr(given, 'iloc'):
    raise ValueError(
      f'{name} is a pandas {type(given).__name__}: make rows of it by'
      " tables.from_frame(frame, target), or give {'x': frame[...].to_numpy(),"
      " 'y': ...}"
    )
  if isinstance(given, (list, tuple)) and given:
    if all(isinstance(example, dict) for example in given):
      if len({tuple(sorted(example)) for example in given}) > 1:
        raise ValueError(
          f'the examples of {name} have different columns: give all the same'
        )
      return {c: [example[c] for example in given] for c in given[0]}
    if reads == ('x', 'y') and len(given) == 2:
      return dict(zip(reads, given, strict=True))
  leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(given))
  if not (leaf or isinstance(given, list) or _is_plain_tuple(given)):
    return given
  raise ValueError(
    f"{name} is {kind_of(given)}: give a dict of columns, as {{'x': [N, ...], 'y':"
    ' [N]}'
  )


def _column(value, name, column):
  """One column as an array that JAX has, [N, ...]."""
  called = f'column {column!r} of {name}'
  if getattr(value, 'dtype', None) is not None and jnp.issubdtype(
    value.dtype, jax.dtypes.extended
  ):
    return value  # keys
  if isinstance(value, np.ma.MaskedArray):
    if value.mask.any():
      raise ValueError(f'{called} has masked values: fill or remove them')
    value = value.data
  if not isinstance(value, jax.Array):
    value = _plain(value, called)
  if not value.ndim:
    raise ValueError(
      f'{called} is one number, without an axis of rows: give x[None], [1, ...],'
      ' for a single row'
    )
  if value.dtype.kind == 'c':
    raise ValueError(
      f'{called} holds complex numbers: give real and imaginary parts as columns'
    )
  return _narrow(value, called)


def _plain(value, called):
  """A numpy array of numbers in native byte order."""
  try:
    array = np.asarray(value)
    if array.dtype == object:  # numbers that only say so
      array = np.array(array.tolist())
  except (ValueError, TypeError):
    raise ValueError(
      f'the rows of {called} have different shapes: pad or cut them to one shape'
    ) from None
  if array.dtype.kind not in 'biufc' and array.dtype.name not in FLOATS:
    what = (
      'text' if array.dtype.kind in 'SU' else f'values of type {array.dtype}'
    )
    raise ValueError(
      f'{called} holds {what}: give numbers (tables.read and from_frame number'
      ' the classes of a target), or leave the column out'
    )
  return np.ascontiguousarray(array, array.dtype.newbyteorder('='))


def _narrow(array, called):
  """The same numbers in the type that JAX gives them, which must hold them."""
  wanted = jax.dtypes.canonicalize_dtype(array.dtype)
  if wanted == array.dtype:
    return array
  if array.size == 0:
    return array.astype(wanted)
  if wanted.kind in 'iu':
    held = np.iinfo(wanted)
    if array.min() < held.min or array.max() > held.max:
      raise ValueError(
        f'{called} has whole numbers up to {np.abs(array).max()}, beyond {wanted}:'
        " number them anew, or say jax.config.update('jax_enable_x64', True)"
      )
  elif np.abs(
    array, where=np.isfinite(array), out=np.zeros_like(array)
  ).max() > (np.finfo(wanted).max):
    raise ValueError(
      f'{called} has numbers beyond {wanted}: rescale it, or say'
      " jax.config.update('jax_enable_x64', True)"
    )
  return array.astype(wanted)


def _is_text(value) -> bool:
  if getattr(value, 'dtype', None) is not None and not isinstance(
    value, np.ndarray
  ):
    return False
  try:
    kind = np.asarray(value).dtype.kind
  except ValueError:
    return False
  if kind == 'O':
    return any(isinstance(v, (str, bytes)) for v in np.ravel(np.asarray(value)))
  return kind in 'SU'


def _is_plain_tuple(value) -> bool:
  return isinstance(value, tuple) and not hasattr(value, '_fields')


def place_of(path) -> str:
  """The name of a leaf, as layers/0/w."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def name_of(function: Callable) -> str:
  """What a function is called."""
  return getattr(function, '__name__', type(function).__name__)


def kind_of(given) -> str:
  """What was given, in words."""
  if given is None or isinstance(given, (bool, int, float)):
    return repr(given)
  if hasattr(given, 'shape') and hasattr(given, 'dtype'):
    return f'an array {given.dtype}{list(given.shape)}'
  if callable(given):
    return f'the function {name_of(given)}'
  name = type(given).__name__
  return f'an {name}' if name[0] in 'AEIOU' else f'a {name}'
