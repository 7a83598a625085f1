"""The score store: a zarr v3 array written in blocks of rows, with resume.

NaN means not done yet. One block is one chunk, so a chunk has one writer; the
marker of a block in `done/` is made after its chunk is durable.
"""

import json
import os
import pathlib
from typing import NamedTuple

import numpy as np
import tensorstore as ts

from tda_jax.storage import record


class Store(NamedTuple):
  """An open store.

  Attributes:
    path: its folder.
    array: the tensorstore array, float32, `shape`.
    shape: (rows, ...).
    rows_per_block: rows of a block; the last block may have fewer.
  """

  path: pathlib.Path
  array: ts.TensorStore
  shape: tuple[int, ...]
  rows_per_block: int


def create(
  path: str | os.PathLike,
  shape: tuple[int, ...],
  rows_per_block: int,
  attributes: dict,
) -> Store:
  """The store at `path`, made unless it is there with the same contents.

  A store that is there keeps its own `rows_per_block`.

  Raises:
    ValueError: a store of another shape or other attributes is there, or it
      cannot be read; the message names both sides.
  """
  path, shape = pathlib.Path(path).absolute(), tuple(map(int, shape))
  if 0 in shape or rows_per_block < 1:
    raise ValueError(
      f'a score store of shape {shape} in blocks of {rows_per_block} rows'
      ' holds nothing: give at least one row and one query'
    )
  wanted = record.plain({**attributes, 'shape': shape})
  if (path / 'zarr.json').exists():
    store = open(path)
    found = {**_attributes(path), 'shape': list(store.shape)}
    record.same(found, wanted, f'the score store {path}')
    return store
  chunk = (min(rows_per_block, shape[0]), *shape[1:])
  metadata = {
    'shape': shape,
    'data_type': 'float32',
    'fill_value': 'NaN',
    'attributes': record.plain(attributes),
    'chunk_grid': {
      'name': 'regular',
      'configuration': {'chunk_shape': chunk},
    },
    'codecs': [{'name': 'bytes', 'configuration': {'endian': 'little'}}],
  }
  (path / 'done').mkdir(parents=True, exist_ok=True)
  ts.open(_spec(path) | {'metadata': metadata}, create=True, open=True).result()
  return open(path)


def open(path: str | os.PathLike) -> Store:
  """The store at `path`.

  Raises:
    ValueError: there is none, or its metadata cannot be read.
  """
  path = pathlib.Path(path).absolute()
  if not (path / 'zarr.json').exists():
    raise ValueError(f'there is no score store at {path}: run the stage first')
  try:
    array = ts.open(_spec(path), open=True).result()
  except ValueError as error:
    raise ValueError(
      f'the score store {path} cannot be read: delete that folder and run'
      ' the same command again'
    ) from error
  rows = array.chunk_layout.write_chunk.shape[0]
  return Store(path, array, tuple(array.shape), rows)


def blocks(store: Store) -> int:
  """Number of blocks."""
  return -(-store.shape[0] // store.rows_per_block)


def write(store: Store, start: int, block: np.ndarray) -> None:
  """Writes one block [rows, ...] at row `start`, then marks it done.

  Raises:
    ValueError: `start` and the length are not one block's, the shape differs,
      a value is not finite, or the block is done already (a second writer).
  """
  block = np.asarray(block, np.float32)
  number, within = divmod(start, store.rows_per_block)
  rows = min(store.rows_per_block, store.shape[0] - start)
  if within or block.shape != (rows, *store.shape[1:]):
    raise ValueError(
      f'a block at row {start} of shape {block.shape} does not fit a store'
      f' of shape {store.shape} in blocks of {store.rows_per_block} rows:'
      ' write whole blocks'
    )
  if not np.isfinite(block).all():
    raise ValueError(
      f'the block at row {start} has a value that is not finite, and NaN'
      ' means not done yet: find its cause before writing'
    )
  marker = _marker(store, number)
  if marker.exists():
    raise ValueError(
      f'the block at row {start} of {store.path} is written already: give'
      ' each block one writer'
    )
  store.array[start : start + rows].write(block).result()
  marker.touch()


def read(store: Store) -> np.ndarray:
  """The whole array; NaN in blocks that are not done."""
  values = np.array(store.array.read().result())
  for number in np.flatnonzero(~done(store)):
    first = number * store.rows_per_block
    values[first : first + store.rows_per_block] = np.nan
  return values


def done(store: Store) -> np.ndarray:
  """Which blocks are done, [n_blocks] bool."""
  folder = store.path / 'done'
  names = set(os.listdir(folder)) if folder.exists() else set()
  return np.array([str(b) in names for b in range(blocks(store))])


def attributes(store: Store) -> dict:
  """What the store says of itself: method, damping, seeds, ..."""
  return _attributes(store.path)


def _attributes(path):
  return json.loads((path / 'zarr.json').read_text()).get('attributes', {})


def _marker(store, number):
  return store.path / 'done' / str(number)


def _spec(path):
  return {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': f'{path}/'},
  }
