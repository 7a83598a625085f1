"""Converts rows, parameters and keys to the types that the library works with.

Input that can be read in one way only is converted; all else raises a
ValueError of one sentence that names the problem and the cure.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from tda_jax.trees import PyTree

UNKNOWN = jax.ShapeDtypeStruct  # a shape, whose values are not there yet
# Classes of flax that hold what a model has besides its parameters.
STATE = {'BatchStat', 'RngState', 'RngKey', 'RngCount', 'Cache', 'Intermediate'}
FROM_FLAX = (
  'take the parameters apart by tda.from_nnx(model) or'
  ' tda.from_linen(module, variables)'
)
FLOATS = ('bfloat16', 'float8_e4m3fn', 'float8_e5m2')  # kinds numpy calls 'V'


def columns(
  given: Any, name: str, reads: tuple[str, ...] | None = None
) -> PyTree:
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
      if not (column in unread and not _usable(value, name, column))
    }
  # A list is a column, whose entries are its rows; so is a sparse matrix.
  is_column = lambda v: (
    isinstance(v, list) or _is_plain_tuple(v) or hasattr(v, 'todense')
  )
  return jax.tree_util.tree_map_with_path(
    lambda path, v: _column(v, name, place_of(path)), given, is_leaf=is_column
  )


def _tree(given, name, reads):
  """Rows as a tree of columns, or ValueError where they cannot be read so."""
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
    if hasattr(given, '_fields'):
      return given if reads is None else cast(Any, given)._asdict()
    pairs = isinstance(given, list) and _is_plain_tuple(given[0])
    if reads == ('x', 'y') and len(given) == 2 and not pairs:
      return dict(zip(reads, given, strict=True))
  if isinstance(given, dict):
    return given
  leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(given))
  if not (leaf or isinstance(given, list) or _is_plain_tuple(given)):
    return given
  raise ValueError(
    f'{name} is {kind_of(given)}: give a dict of columns, for example'
    " {{'x': [N, ...], 'y': [N]}}"
  )


def _column(value, name, column):
  """One column as an array that JAX has, [N, ...]."""
  called = f'column {column!r} of {name}'
  if hasattr(value, 'todense'):
    raise ValueError(
      f'{called} is sparse: give {"x.toarray()" if hasattr(value, "toarray") else "x.todense()"}'
    )
  if hasattr(value, 'iloc'):
    value = _of_pandas(value, called)
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


def _usable(value, name, column) -> bool:
  """Whether a column that the problem does not read can go with the rows."""
  try:
    _column(value, name, column)
  except ValueError:
    return False
  return not _is_text(value)


def _of_pandas(series, called):
  """A Series as a numpy array; pandas' own types too."""
  if series.isna().any() and not isinstance(series.dtype, np.dtype):
    raise ValueError(f'{called} has missing values: fill or remove them')
  return series.to_numpy(getattr(series.dtype, 'numpy_dtype', None))


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
      ' the classes of a target, and code features that are text)'
    )
  return array.astype(array.dtype.newbyteorder('='), copy=False)


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


# --- parameters and keys ----------------------------------------------------


def parameters(params: PyTree, name: str = 'the parameters') -> None:
  """Raises ValueError unless every leaf is of real, finite floating numbers.

  Leaves that were not trained (running averages, counts, keys, functions) have no
  part in a score; the error names the leaf.
  """
  nodes = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_state)
  for path, node in nodes:
    if _is_state(node):
      raise ValueError(
        f'{place_of(path)!r} of {name} is {type(node).__name__}, which was not'
        f' trained: {FROM_FLAX}'
      )
  if isinstance(params, dict) and 'params' in params and len(params) > 1:
    others = ', '.join(repr(key) for key in params if key != 'params')
    raise ValueError(
      f'{name} hold {others} beside params: tda.from_linen(module, variables)'
      ' takes them apart'
    )
  leaves = jax.tree_util.tree_leaves_with_path(params)
  if not leaves:
    raise ValueError(
      f'{name} are empty: give the parameters of a trained model'
    )
  for path, leaf in leaves:
    _check_leaf(leaf, place_of(path), name)
  arrays = [leaf for _, leaf in leaves]
  if any(isinstance(leaf, jax.core.Tracer) for leaf in arrays):
    raise ValueError(
      f'{name} are traced: call this outside of jax.jit, grad and vmap; it'
      ' compiles its own steps'
    )
  if not any(isinstance(leaf, UNKNOWN) for leaf in arrays):
    finite = _finite([as_array(leaf) for leaf in arrays])
    if not finite.all():
      bad = place_of(leaves[int(np.argmin(finite))][0])
      raise ValueError(
        f'{bad!r} of {name} has NaN or infinity: training diverged; lower the'
        ' learning rate and train again'
      )


def _check_leaf(leaf, place, name):
  dtype = getattr(leaf, 'dtype', None)
  kinds = (np.ndarray, np.generic, jax.Array, UNKNOWN, float)
  if not isinstance(leaf, kinds) or isinstance(leaf, np.ma.MaskedArray):
    dtype = None
  if dtype is None and not isinstance(leaf, float):
    kind = f'the function {name_of(leaf)}' if callable(leaf) else kind_of(leaf)
    hint = 'leave it out of the parameters and close over it in apply'
    if callable(leaf):
      hint += ' (eqx.partition(model, eqx.is_inexact_array) does that)'
    raise ValueError(f'{place!r} of {name} is {kind}: {hint}')
  dtype = np.dtype(float) if dtype is None else dtype
  if jnp.issubdtype(dtype, jnp.complexfloating):
    raise ValueError(
      f'{place!r} of {name} is complex: give its real and imaginary parts as two'
      ' leaves, and join them in apply'
    )
  if dtype == np.longdouble and dtype.itemsize > 8:
    raise ValueError(
      f'{place!r} of {name} has type {dtype}, which JAX has not: give float32'
    )
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f'{place!r} of {name} has type {dtype}, which was not trained: close over'
      f' it in apply, or {FROM_FLAX}'
    )


def as_array(leaf: Any) -> Any:
  """A leaf of parameters; a Python float becomes an array of shape ()."""
  if isinstance(leaf, np.ndarray) and not leaf.dtype.isnative:
    return leaf.astype(leaf.dtype.newbyteorder('='))
  return jnp.asarray(leaf) if isinstance(leaf, float) else leaf


def as_key(given: Any) -> jax.Array:
  """A typed key from a key, its raw data or an integer; None: from 0.

  Raises:
    ValueError: it is none of these.
  """
  given = 0 if given is None else given
  keys = as_keys(given, 'key')
  if keys.ndim:
    raise ValueError(
      f'key has shape {list(keys.shape)}: give one key, for example'
      ' jax.random.key(0)'
    )
  return keys


def as_keys(given: Any, name: str = 'keys') -> jax.Array:
  """Typed keys from keys, raw key data or integers; a list becomes an axis.

  Raises:
    ValueError: it is none of these.
  """
  if isinstance(given, (list, tuple)) and given:
    return jnp.stack([as_key(one) for one in given])
  given = cast(Any, given)
  dtype = getattr(given, 'dtype', None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return given
  is_whole = isinstance(given, int) and not isinstance(given, bool)
  if is_whole or (dtype is not None and np.ndim(given) == 0):
    if is_whole or np.issubdtype(dtype, np.integer):
      return _of_integer(int(given), name)
  if dtype == np.uint32 and np.shape(given)[-1:] == (2,):
    return jax.random.wrap_key_data(jnp.asarray(given))
  if dtype is not None and np.issubdtype(dtype, np.integer):
    return jnp.stack([_of_integer(int(one), name) for one in np.ravel(given)])
  raise ValueError(
    f'{name} is {kind_of(given)}: give typed keys, for example'
    ' jax.random.key(0), or integers'
  )


def _of_integer(seed: int, name: str) -> jax.Array:
  """The key of a seed, which JAX must hold whole: 2**32 would be key 0."""
  wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]  # made at runtime
  bits = 63 if wide else 32
  if not -(2**31) <= seed < 2**bits:
    raise ValueError(
      f'{name}={seed}: give a whole number from 0 to 2^{bits} − 1'
    )
  return jax.random.key(seed)


# --- words ------------------------------------------------------------------


def _is_state(node) -> bool:
  return any(kind.__name__ in STATE for kind in type(node).__mro__[:-1])


def place_of(path: tuple) -> str:
  """The name of a leaf from its path in the tree, for example layers/0/w."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def name_of(function: Callable) -> str:
  """The name of a function."""
  return getattr(function, '__name__', type(function).__name__)


def kind_of(given: Any) -> str:
  """Describes a value in words, for errors."""
  if given is None or isinstance(given, (bool, int, float)):
    return repr(given)
  if hasattr(given, 'shape') and hasattr(given, 'dtype'):
    return f'an array {given.dtype}{list(given.shape)}'
  if callable(given):
    return f'the function {name_of(given)}'
  name = type(given).__name__
  return f'an {name}' if name[0] in 'AEIOU' else f'a {name}'


def _finite(leaves):
  """Whether all entries of each leaf are finite, as JAX has them, [leaves]."""
  if not all(map(_on_host, leaves)):
    return np.asarray(_finite_on_device(leaves))
  # Without a program to compile, which takes longer than the check.
  with np.errstate(over='ignore'):  # what float32 cannot hold is infinite
    return np.array([np.isfinite(_plain_leaf(x)).all() for x in leaves])


def _plain_leaf(leaf):
  dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
  return np.asarray(leaf).astype(dtype, copy=False)


def _on_host(leaf):
  """Whether the host reads an array without copying it from a device."""
  if not isinstance(leaf, jax.Array):
    return True
  devices = leaf.devices()
  return len(devices) == 1 and next(iter(devices)).platform == 'cpu'


@jax.jit
def _finite_on_device(leaves):
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])
