"""Rows that are read when they are needed, for data beyond memory.

A `Source` has a number of rows and a function that reads the rows at given
numbers. A compiled program asks the host for each batch while it runs (a
callback), so that methods and solvers are written once, for arrays and sources
alike; the batch that follows is read meanwhile. It is known to JAX as a constant
without arrays in it, and a program compiled for one is kept for equal ones.
"""

import concurrent.futures
import dataclasses
import functools
import math
import mmap
import operator
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.core
import numpy as np

from tda_jax import parallel
from tda_jax.trees import PyTree

# Bytes of rows that are loaded, whatever they are given as.
IN_MEMORY = 2**26
# Bytes of rows that are read at one time where all are looked at in order.
AT_A_TIME = 2**24
# Bytes of a memory map that are read before its memory is given back.
LET_GO = 2**25


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Source:
  """Rows that are read when they are needed.

  Attributes:
    read: row numbers [B] -> rows [B, ...], a tree of numpy arrays.
    count: number of rows N.
    row: shape and type of each column of one row, as (shapes, tree).
    known_by: equal for sources that read the same; None: by `read` itself.
    plain: whether `read` gives columns of JAX's types, as the door makes them.
    lock: held while rows are read.
  """

  read: Callable[[np.ndarray], PyTree] = dataclasses.field(compare=False)
  count: int
  row: tuple
  known_by: Hashable
  plain: bool = False
  lock: Any = dataclasses.field(default_factory=threading.Lock, compare=False)


def of_batches(
  read: Callable[[np.ndarray], PyTree],
  count: int,
  known_by: Hashable = None,
) -> Source:
  """A source of the user's own.

  Args:
    read: row numbers [B] -> rows [B, ...], a tree of arrays; called from other
      threads, one at a time.
    count: number of rows.
    known_by: see `Source`.

  Raises:
    ValueError: there are no rows, or two of them are no tree of arrays [2, ...].
  """
  count = operator.index(count)
  if count < 1:
    raise ValueError('a source has no rows: give at least one')
  with jax.ensure_compile_time_eval():
    block = jax.tree.map(np.asarray, read(np.array([0, count - 1])))
  leaves, tree = jax.tree.flatten(block)
  if not leaves or any(leaf.shape[:1] != (2,) for leaf in leaves):
    raise ValueError(
      f'a source gives columns of shapes {[leaf.shape for leaf in leaves]} for two'
      ' row numbers: give columns with one entry for each number, [2, ...]'
    )
  row = tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves), tree
  return Source(read, count, row, read if known_by is None else known_by)


def of(given: Any, convert: Callable[[PyTree], PyTree]) -> PyTree | None:
  """The source that was given, or its rows where these are few; None: neither.

  Read as sources are: a `Source`; a tree of columns one of which is a memory
  map; a Hugging Face dataset; any other object with a length whose items are
  rows, by number (as of grain or torch) or by an array of numbers.

  Args:
    convert: a block of rows as it was read -> columns of JAX's types.
  """
  if isinstance(given, Source):
    if given.plain:
      return given
    reader = given.read, given.count, given.known_by
  else:
    reader = _reader(given)
  if reader is None:
    return None
  read, count, known_by = reader

  def read_plain(index):
    try:
      rows = read(index)
    except Exception as error:  # whatever the user's object raises
      raise ValueError(
        f'rows {index.min()} to {index.max()} of the {type(given).__name__} cannot'
        f' be read ({error!r}): its items must be rows, all alike, for example'
        " {'x': ..., 'y': ...}"
      ) from error
    return convert(rows)

  source = of_batches(read_plain, count, (known_by, str(convert)))
  source = dataclasses.replace(source, plain=True)
  if size(source) <= IN_MEMORY and not isinstance(given, Source):
    return _read(source, np.arange(count))
  return source


_failures: list[ValueError] = []  # of reads within a program that has not ended


def failure() -> ValueError | None:
  """The error of a read within a compiled program, which JAX rewords; once."""
  return _failures.pop() if _failures else None


def size(source: Source) -> int:
  """Bytes of all its rows."""
  return source.count * max(1, _row_bytes(source))


def example(rows: PyTree) -> PyTree:
  """Shape and type of one row of a source, or of arrays [N, ...].

  Returns:
    A tree of `ShapeDtypeStruct`.
  """
  if not isinstance(rows, Source):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows
    )
  shapes, tree = rows.row
  structs = [jax.ShapeDtypeStruct(*one) for one in shapes]
  return jax.tree.unflatten(tree, structs)


def take(source: Source, index: Any) -> PyTree:
  """The rows at `index`, an integer, a slice or an array; traced or not."""
  if isinstance(index, jax.core.Tracer):
    like = jax.tree.map(
      lambda s: jax.ShapeDtypeStruct((*index.shape, *s.shape), s.dtype),
      example(source),
    )
    return parallel.from_host(_Ahead(source), like, index)
  if isinstance(index, slice):
    index = np.arange(*index.indices(source.count))
  return _read(source, np.asarray(index))


def blocks(source: Source) -> Iterator[tuple[int, PyTree]]:
  """(number of the first, rows) of one block after the other."""
  rows = max(1, AT_A_TIME // max(1, _row_bytes(source)))
  for first in range(0, source.count, rows):
    last = min(first + rows, source.count)
    yield first, _read(source, np.arange(first, last))


@functools.cache
def _threads() -> concurrent.futures.Executor:
  """The threads that read ahead, of all sources."""
  return concurrent.futures.ThreadPoolExecutor(4, 'tda_jax reads ahead')


class _Ahead:
  """Reads the rows at `index`, and, of rows in order, those that follow.

  Several devices may ask, each for its own rows.
  """

  def __init__(self, source: Source):
    self.source = source
    self.ahead: dict[bytes, concurrent.futures.Future] = {}  # by the index

  def __call__(self, index: np.ndarray) -> PyTree:
    index = np.asarray(index)
    future = self.ahead.pop(index.tobytes(), None)
    try:
      rows = _read(self.source, index) if future is None else future.result()
    except ValueError as error:
      _failures[:] = [error]
      raise
    size = index.shape[-1] if index.ndim else 1
    following = index + size
    in_order = (
      index.ndim
      and (index == index[..., :1] + np.arange(size, dtype=index.dtype)).all()
    )
    if in_order and following.min() < self.source.count:
      following = np.minimum(following, self.source.count - 1)
      future = _threads().submit(_read, self.source, following)
      self.ahead[following.tobytes()] = future
    # What was read behind the end of a device's part, and is not asked for.
    while len(self.ahead) > 2 * jax.local_device_count():
      self.ahead.pop(next(iter(self.ahead)), None)
    return rows


def _read(source: Source, index: np.ndarray) -> PyTree:
  """The rows at index [...], leaves [..., ...].

  Raises:
    ValueError: a row has another shape or type than the first one.
  """
  index = np.asarray(index)
  # Copies: the next read may be made into the same buffers. What a read asks of
  # JAX is computed, also where a program that needs a row is being traced.
  with source.lock, jax.ensure_compile_time_eval():
    rows = jax.tree.map(np.array, source.read(index.reshape(-1)))
  shapes, tree = source.row
  leaves, found = jax.tree.flatten(rows)
  kinds = tuple((np.shape(leaf)[1:], leaf.dtype) for leaf in leaves)
  lengths = {np.shape(leaf)[:1] for leaf in leaves}
  if lengths != {(index.size,)} and found == tree:
    raise ValueError(
      f'the source gives {sorted(lengths)} rows for {index.size} row numbers from'
      f' {int(index.flat[0])} on: give one for each'
    )
  if found != tree or kinds != shapes:
    raise ValueError(
      f'the rows from {int(index.flat[0])} on have columns {kinds}, and row 0 has'
      f' {shapes}: give all rows the same shapes and types'
    )
  return jax.tree.unflatten(
    tree, [leaf.reshape((*index.shape, *leaf.shape[1:])) for leaf in leaves]
  )


def _row_bytes(source) -> int:
  shapes, _ = source.row
  return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes)


def _reader(given) -> tuple | None:
  """(row numbers -> rows, number of rows, what it is known by), or None."""
  leaves = jax.tree.leaves(given)
  if any(isinstance(leaf, np.memmap) for leaf in leaves):
    return _of_columns(given, leaves)
  plain = (dict, list, tuple, str, bytes, np.ndarray, jax.Array, np.generic)
  sized = hasattr(given, '__len__') and hasattr(given, '__getitem__')
  tables = hasattr(given, 'iloc') or isinstance(given, Mapping)
  if isinstance(given, plain) or not sized or tables or hasattr(given, 'dtype'):
    return None
  if len(leaves) != 1 or leaves[0] is not given:  # a tree of another kind
    return None
  if hasattr(given, 'with_format'):
    columns = cast(Any, given).with_format('numpy')
    return lambda index: dict(columns[index.tolist()]), len(given), id(given)
  return _by_number(given), len(given), id(given)


def _of_columns(given, leaves):
  """The reader of a tree of columns, some of which lie on the disk."""
  counts = {len(leaf) for leaf in leaves if np.ndim(leaf)}
  if len(counts) != 1 or not all(np.ndim(leaf) for leaf in leaves):
    return None  # the door's sentence says what is wrong
  # A mapping that is kept has its address to itself.
  known_by = tuple(
    (
      leaf.__array_interface__['data'][0],
      leaf.shape,
      leaf.strides,
      str(leaf.dtype),
    )
    if isinstance(leaf, np.ndarray)
    else id(leaf)
    for leaf in leaves
  )
  maps = [leaf for leaf in leaves if isinstance(leaf, np.memmap)]
  resident = [0]  # bytes of the maps that were read since they were let go

  def read(index):
    first, last = int(index[0]), int(index[-1]) + 1
    in_order = last - first == len(index) and (np.diff(index) == 1).all()
    where = slice(first, last) if in_order else index
    rows = jax.tree.map(lambda leaf: np.array(leaf[where]), given)
    resident[0] += sum(leaf.nbytes for leaf in jax.tree.leaves(rows))
    if resident[0] > LET_GO:
      resident[0] = 0
      for one in maps:
        let_go(one)
    return rows

  return read, counts.pop(), known_by


def let_go(mapped: np.ndarray) -> None:
  """Lets the system take back the memory of a map's pages, which it reads again.

  An array that is no map is left alone, and a map in mode 'c': its changes are
  nowhere else.
  """
  whole: Any = getattr(mapped, '_mmap', None)
  if hasattr(whole, 'madvise') and cast(Any, mapped).mode != 'c':
    whole.madvise(mmap.MADV_DONTNEED)


def _by_number(given):
  """The reader of an object whose items are rows."""

  def rows_of(size):
    leaves = jax.tree.leaves(given[np.zeros(size, int)])
    return bool(leaves) and all(np.shape(x)[:1] == (size,) for x in leaves)

  try:
    together = rows_of(2) and rows_of(3)
  except Exception:  # whatever it raises for an index that it does not take
    together = False
  if together:
    return lambda index: given[index]

  def read(index):
    rows = [given[int(i)] for i in index]
    return jax.tree.map(lambda *column: np.stack(column), *rows)

  return read
