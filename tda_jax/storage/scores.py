"""The score store: a zarr v3 array written in blocks, with resume.

A block is some rows of some columns (queries); most stores have all columns in one
block. NaN means not done yet. One block is one chunk, so a chunk has one writer; the
marker of a block, `done/<number>` or `done/<number>.<column>`, is written after its
chunk is durable and holds the checksum of its values and of the store's attributes.
A block that is absent, damaged or of another store is not done.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from tda_jax.storage import files, record


class Store(NamedTuple):
  """An open store.

  Attributes:
    path: its folder.
    array: the tensorstore array, float32, `shape`.
    shape: (rows, ...).
    rows_per_block: rows of a block; the last block may have fewer.
    columns_per_block: likewise, of the second axis.
    about: its attributes, as text.
  """

  path: pathlib.Path
  array: Any
  shape: tuple[int, ...]
  rows_per_block: int
  columns_per_block: int
  about: str


def create(
  path: str | os.PathLike,
  shape: tuple[int, ...],
  rows_per_block: int,
  attributes: dict,
  holder: str | os.PathLike | None = None,
  columns_per_block: int | None = None,
) -> Store:
  """Opens the store at `path`, or creates it.

  A store with a finished block keeps the sizes of its blocks.

  Args:
    columns_per_block: None: all columns.
    holder: the folder to delete where a store of something else is there; None:
      `path`.

  Raises:
    ValueError: a store of another shape or other attributes is there, or it
      cannot be read; the message names both sides.
  """
  import tensorstore as ts

  files.check_local(path)
  path, shape = _real(path), tuple(map(int, shape))
  if 0 in shape or rows_per_block < 1:
    raise ValueError(
      f'a score store of shape {shape} in blocks of {rows_per_block} rows'
      ' holds nothing: give at least one row and one query'
    )
  chunk = _chunk(shape, rows_per_block, columns_per_block)
  wanted = record.plain({**attributes, 'shape': shape})
  if (path / 'zarr.json').exists():
    store = open(path)
    recorded = {**_attributes(path), 'shape': list(store.shape)}
    record.check_same(recorded, wanted, f'the score store {holder or path}')
    same = _chunk(store.shape, store.rows_per_block, store.columns_per_block)
    if same == chunk or any(
      done(store, c).any() for c in range(columns(store))
    ):
      return store
    # No block is done: other blocks, perhaps smaller for memory, are possible.
    (path / 'zarr.json').unlink()
    shutil.rmtree(path / 'c', ignore_errors=True)
  metadata = {
    'shape': shape,
    'data_type': 'float32',
    'fill_value': 'NaN',
    'attributes': record.plain(attributes),
    'chunk_grid': {
      'name': 'regular',
      'configuration': {'chunk_shape': chunk},
    },
    'codecs': [
      {'name': 'bytes', 'configuration': {'endian': 'little'}},
      {'name': 'crc32c'},
    ],
  }
  path.mkdir(parents=True, exist_ok=True)
  with _writing(path):
    spec = _spec(path) | {'metadata': metadata}
    ts.open(spec, create=True, open=True).result()
  return open(path)


def _chunk(shape, rows, columns) -> tuple[int, ...]:
  """The shape of a whole block."""
  chunk = [min(rows, shape[0]), *shape[1:]]
  if columns is not None and len(shape) > 1:
    chunk[1] = min(columns, shape[1])
  return tuple(chunk)


def open(path: str | os.PathLike) -> Store:
  """Opens the store at `path`.

  Raises:
    ValueError: there is none, or its metadata cannot be read.
  """
  import tensorstore as ts

  path = _real(path)
  if not (path / 'zarr.json').exists():
    raise ValueError(f'there is no score store at {path}: run the stage first')
  try:
    array = ts.open(_spec(path), open=True).result()
    about = json.dumps(_attributes(path), sort_keys=True)
  except ValueError as error:
    raise ValueError(
      f'the score store {path} cannot be read: delete {path / "zarr.json"} and'
      ' run the same command again, which keeps the blocks that are whole'
    ) from error
  chunk = (*cast(Any, array).chunk_layout.write_chunk.shape, 1)
  return Store(path, array, tuple(array.shape), chunk[0], chunk[1], about)


def blocks(store: Store) -> int:
  """Number of blocks, of one block of columns."""
  return -(-store.shape[0] // store.rows_per_block)


def columns(store: Store) -> int:
  """Number of blocks of columns."""
  if len(store.shape) == 1:
    return 1
  return -(-store.shape[1] // store.columns_per_block)


def span(store: Store, column: int) -> slice:
  """The columns of a block of columns."""
  first = column * store.columns_per_block
  return slice(first, min(first + store.columns_per_block, store.shape[1]))


def write(store: Store, start: int, block: np.ndarray, column: int = 0) -> None:
  """Writes one block [rows, ...] at row `start`, then marks it done.

  Args:
    column: number of its block of columns.

  Raises:
    ValueError: `start` and the length are not one block's, the shape differs,
      a value is not finite, or the block is done already (a second writer).
  """
  block = np.asarray(block, np.float32)
  number, within = divmod(start, store.rows_per_block)
  where = _where(store, number, column)
  wanted = tuple(part.stop - part.start for part in where)
  if within or block.shape != wanted:
    raise ValueError(
      f'a block at row {start} of shape {block.shape} does not fit a store'
      f' of shape {store.shape} in blocks of {store.rows_per_block} rows, here'
      f' {wanted}: write whole blocks'
    )
  if not np.isfinite(block).all():
    raise ValueError(
      f'the block at row {start} has a value that is not finite, and NaN'
      ' means not done yet: find its cause before writing'
    )
  if _values(store, number, column) is not None:
    raise ValueError(
      f'the block at row {start} of {store.path} is written already, by another'
      ' process: wait until it ends and run the same command again'
    )
  # Writing a part of a chunk would read what is there, which may be damaged.
  place = [number, column, *[0] * len(store.shape)][: len(store.shape)]
  file = store.path.joinpath('c', *map(str, place))
  file.unlink(missing_ok=True)
  with _writing(store.path):
    store.array[where].write(block).result()
  marker = _marker(store, number, column)
  marker.parent.mkdir(exist_ok=True)
  files.write(marker, _checksum(store, marker.name, block), by_all=True)


def read(store: Store, first: int = 0, last: int | None = None) -> np.ndarray:
  """The rows from `first` to before `last`; NaN in blocks that are not done."""
  last = store.shape[0] if last is None else last
  values = np.full((last - first, *store.shape[1:]), np.nan, np.float32)
  size = store.rows_per_block
  for number in range(first // size, -(-last // size)):
    for column in range(columns(store)):
      block = _values(store, number, column)
      if block is not None:
        start = number * size
        part = block[max(first - start, 0) : max(last - start, 0)]
        at = max(start, first) - first
        rest = _where(store, number, column)[1:]
        values[(slice(at, at + len(part)), *rest)] = part
  return values


# What `Scores` have of an array beside operators: it reads and changes nothing.
READING = frozenset(
  'T all any argmax argmin argsort astype copy cumsum dot flatten max mean min'
  ' nbytes nonzero ravel reshape round size squeeze std sum swapaxes take tolist'
  ' trace transpose var'.split()
)


class Scores(np.lib.mixins.NDArrayOperatorsMixin):
  """Scores on disk, [E, N, Q], a store a member, as an array that is read.

  `scores[e]` reads those of member e, `scores[e, first:last]` some of their rows;
  what else an array can do (`scores.mean(0)`, `2 * scores`) reads them all.
  """

  ndim, dtype = 3, np.dtype(np.float32)

  def __init__(self, stores: Sequence[Store]):
    self.stores = tuple(stores)
    self.shape = (len(self.stores), *self.stores[0].shape)

  def __len__(self) -> int:
    return len(self.stores)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    del copy  # what is read is always new
    return np.stack([_whole(store) for store in self.stores]).astype(
      dtype or self.dtype, copy=False
    )

  def __getitem__(self, index: Any) -> np.ndarray:
    indices = index if isinstance(index, tuple) else (index,)
    number = lambda i: (
      isinstance(i, (int, np.integer)) and not isinstance(i, bool)
    )
    plain = all(number(i) or isinstance(i, slice) for i in indices)
    if not indices or not plain or not number(indices[0]):
      return np.asarray(self)[index]
    member, *rest = indices
    if not -len(self) <= member < len(self):
      raise IndexError(
        f'member {member} of {len(self)}: give 0 to {len(self) - 1}'
      )
    store = self.stores[member]
    if rest and isinstance(rest[0], slice) and rest[0].step in (None, 1):
      first, last, _ = rest[0].indices(store.shape[0])
      rows = _whole(store, first, max(first, last))
      return rows[(slice(None), *rest[1:])]
    return _whole(store)[tuple(rest)]

  def __contains__(self, value: Any) -> bool:
    return value in np.asarray(self)

  def __bool__(self) -> bool:
    # Of several a ValueError, as numpy's.
    return bool(np.asarray(self))

  def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
    if any(isinstance(x, Scores) for x in kwargs.get('out', ())):
      return NotImplemented  # scores on the disk are not changed in place
    arrays = [np.asarray(x) if isinstance(x, Scores) else x for x in inputs]
    return getattr(ufunc, method)(*arrays, **kwargs)

  def __getattr__(self, name: str) -> Any:
    if name not in READING:
      raise AttributeError(
        f'scores on the disk have no {name!r}: np.asarray(scores) is an array'
      )
    return getattr(np.asarray(self), name)

  def __repr__(self) -> str:
    return f'Scores of shape {self.shape} at {self.stores[0].path.parent}'


def _whole(store, first=0, last=None) -> np.ndarray:
  """`read`, of blocks that must be there.

  Raises:
    ValueError: one is not done, or was damaged since.
  """
  values = read(store, first, last)
  if np.isnan(values).any():
    raise ValueError(
      f'the scores at {store.path} are not whole any more: run the same command'
      ' again, which computes what is lost'
    )
  return values


def done(store: Store, column: int | None = None) -> np.ndarray:
  """Which blocks are done and whole, [n_blocks] bool; reads them all.

  Args:
    column: number of a block of columns; None: those done in all of them.
  """
  if column is None:
    return np.all([done(store, c) for c in range(columns(store))], 0)
  numbers = range(blocks(store))
  return np.array([_values(store, b, column) is not None for b in numbers])


def forget(store: Store) -> None:
  """Marks every block as not done."""
  for marker in (store.path / 'done').glob('*'):
    marker.unlink()


def attributes(store: Store) -> dict:
  """The store's attributes: method, damping, seeds, ..."""
  return _attributes(store.path)


def _attributes(path):
  return json.loads((path / 'zarr.json').read_text()).get('attributes', {})


def _where(store, number, column) -> tuple[slice, ...]:
  """Where the values of a block are in the array."""
  first = number * store.rows_per_block
  rows = slice(first, min(first + store.rows_per_block, store.shape[0]))
  rest = [slice(0, size) for size in store.shape[1:]]
  if rest:
    rest[0] = span(store, column)
  return (rows, *rest)


def _values(store, number, column=0) -> np.ndarray | None:
  """A block [rows, ...] that is done and whole, or None."""
  marker = _marker(store, number, column)
  if not marker.is_file():
    return None
  try:
    values = store.array[_where(store, number, column)].read().result()
  except ValueError:  # short, or of another checksum
    return None
  wanted = _checksum(store, marker.name, values)
  return values if marker.read_bytes() == wanted else None


@contextlib.contextmanager
def _writing(path):
  """Turns tensorstore's errors of a disk into an OSError with a sentence."""
  try:
    yield
  except ValueError as error:
    why = str(error).split(' [', 1)[0]
    raise OSError(f'the score store {path} cannot be written: {why}') from error


def _checksum(store, name, values) -> bytes:
  sha = hashlib.sha256(f'{store.about} {name} {values.shape}'.encode())
  sha.update(cast(Any, np.ascontiguousarray(values, '<f4')))
  return sha.hexdigest().encode()


def _marker(store, number, column):
  part = f'.{column}' if columns(store) > 1 else ''
  return store.path / 'done' / f'{number}{part}'


def _real(path):
  """The path without links and '..', which tensorstore does not take."""
  return pathlib.Path(os.path.realpath(path))


def _spec(path):
  return {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': f'{path}/'},
  }
