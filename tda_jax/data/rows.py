"""Rows of data: a tree of arrays with one leading axis, or a source of rows.

The global index of a row is its place. A batch carries the global `index` of its
rows and a `mask`; padding has mask 0, never counts and is never written. This is
the only place that runs over rows: of a `sources.Source`, the rows of a batch are
read where the batch is run, so that memory holds one batch of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import parallel, sources
from tda_jax.sources import Source
from tda_jax.trees import Array, PyTree


class Batch(NamedTuple):
  """B rows; in a stack of C batches every field has a leading axis C."""

  examples: PyTree  # [B, ...]; in a stack, a source whose rows are not read yet
  index: Array  # [B] global row numbers
  mask: Array  # [B] 1 for a row, 0 for padding


def count(rows: PyTree) -> int:
  """Number of rows N."""
  if isinstance(rows, Source):
    return rows.count
  lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(rows)}
  if len(lengths) != 1:
    raise ValueError(
      f'columns have different numbers of rows: {sorted(lengths)}'
    )
  return lengths.pop()


def take(rows: PyTree, index: int | slice | np.ndarray | jax.Array) -> PyTree:
  """The rows at `index`, in that order."""
  if isinstance(rows, Source):
    return sources.take(rows, index)
  if isinstance(index, jax.Array):  # a traced index cannot index numpy arrays
    rows = jax.tree.map(jnp.asarray, rows)
  return jax.tree.map(lambda leaf: leaf[index], rows)


def stacked(rows: PyTree, size: int) -> Batch:
  """All rows as C batches of `size` (fields [C, size, ...]), for `lax.scan`.

  The last batch is padded with copies of the last row, whose mask is 0. Of
  several devices, each gets as many batches; the last may be padding alone.
  """
  n, devices = count(rows), parallel.devices()
  size = min(size, -(-n // devices))
  c = -(-n // (size * devices)) * devices
  index = np.arange(c * size).reshape(c, size)
  mask = (index < n).astype(np.float32)
  index = np.minimum(index, n - 1)
  if isinstance(rows, Source):
    return Batch(rows, index, mask)

  def folded(leaf):  # no gather: rows that are divided stay where they are
    xp = np if isinstance(leaf, np.ndarray) else jnp
    more = [xp.repeat(leaf[-1:], c * size - n, 0)] if c * size > n else []
    whole = xp.concatenate([leaf, *more]) if more else leaf
    return whole.reshape(c, size, *leaf.shape[1:])

  return Batch(jax.tree.map(folded, rows), index, mask)


def of_set(rows: PyTree, index: Array, mask: Array, size: int) -> Batch:
  """Some rows, by their numbers and mask [L] (`numbers_of_sets`), like `stacked`."""
  shape = stacked(np.arange(len(index)), size).mask.shape
  padded = lambda x: jnp.pad(x, (0, shape[0] * shape[1] - len(x)))
  index, mask = (padded(x).reshape(shape) for x in (index, mask))
  return Batch(
    rows if isinstance(rows, Source) else take(rows, index), index, mask
  )


def numbers_of_sets(
  sets: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """(row numbers, mask) of M sets, [M, L], padded to the largest of L rows."""
  most = max(map(len, sets))
  index = np.zeros((len(sets), most), np.int32)
  mask = np.zeros(index.shape, np.float32)
  for m, numbers in enumerate(sets):
    index[m, : len(numbers)] = numbers
    mask[m, : len(numbers)] = 1
  return index, mask


def loaded(stack: PyTree) -> PyTree:
  """A tree whose batches have the rows that a source has of them.

  Within a loop over a stack, whose step gets a part of it.
  """

  def read(node):
    if isinstance(node, Batch) and isinstance(node.examples, Source):
      return node._replace(examples=take(node.examples, node.index))
    return node

  is_batch = lambda node: isinstance(node, Batch)
  return jax.tree.map(read, stack, is_leaf=is_batch)


def first(stack: Batch) -> PyTree:
  """The first row of a stack of batches."""
  if isinstance(stack.examples, Source):
    return take(stack.examples, 0)
  return jax.tree.map(lambda x: x[0, 0], stack.examples)


def whole(rows: PyTree) -> Batch:
  """All rows as one batch."""
  n = count(rows)
  if isinstance(rows, Source):
    rows = take(rows, slice(None))
  return Batch(rows, np.arange(n), np.ones(n, np.float32))


def batches(
  rows: PyTree,
  size: int,
  first: int = 0,
  last: int | None = None,
  *,
  chosen: np.ndarray | None = None,
) -> Iterator[Batch]:
  """Yields batches of `size` of the rows from `first` to before `last`.

  Args:
    chosen: numbers of the only rows to go through, of which `first` and `last`
      are places; None: all.
  """
  if last is None:
    last = count(rows) if chosen is None else len(chosen)
  for start in range(first, last, size):
    index = np.arange(start, start + size)
    mask = (index < last).astype(np.float32)
    index = np.minimum(index, last - 1)
    index = index if chosen is None else chosen[index]
    yield Batch(take(rows, index), index, mask)


def total(of_batch: Callable, stack: PyTree) -> PyTree:
  """Sum of `of_batch(batch)`, a tree, over a stack of batches, one at a time.

  Args:
    stack: a stack of `Batch`, or another tree of leaves [C, ...].
  """
  of_part = lambda part: of_batch(loaded(part))

  def step(so_far, part):
    return jax.tree.map(jnp.add, so_far, of_part(part)), None

  def of_share(stack):
    one = jax.tree.map(lambda leaf: leaf[0], stack)
    zero = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of_part, one)
    )
    return jax.lax.scan(step, zero, stack)[0]

  return parallel.summed(of_share, stack)


def mapped(of_batch: Callable, stack: PyTree) -> PyTree:
  """Values [C, ...] of a stack's batches by `of_batch(batch)`, one at a time.

  Args:
    stack: see `total`.
  """
  of_part = lambda part: of_batch(loaded(part))
  return parallel.apart(lambda share: jax.lax.map(of_part, share), stack)


def each(of_batch: Callable, rows: PyTree, size: int) -> PyTree:
  """Values [N, ...] of all rows by `of_batch(batch)` -> [B, ...], in batches."""
  values = mapped(of_batch, stacked(rows, size))
  joined = lambda x: x.reshape(-1, *x.shape[2:])[: count(rows)]
  return jax.tree.map(joined, values)


def divided(batch: Batch) -> Batch:
  """A batch as a stack of parts, one for each device, padded like `stacked`."""
  devices, size = parallel.devices(), len(batch.mask)
  padding = -size % devices
  mask = jnp.pad(batch.mask, (0, padding))
  whole = parallel.padded(batch, padding)._replace(mask=mask)
  return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), whole)


def with_dropout(augment: Callable | None = None) -> Callable:
  """An augmentation that also draws a dropout mask for the example.

  It returns `augment` of the example with a fresh key in its leaf 'dropout',
  which `problem.classification` and `problem.regression` pass to the model.
  """

  def augmented(key, example):
    key, mask = jax.random.split(key)
    example = example if augment is None else augment(key, example)
    return {**example, 'dropout': mask}

  return augmented


def blocks(rows: PyTree) -> Iterator[tuple[int, PyTree]]:
  """(number of the first, rows) of blocks that can be looked at in memory."""
  if isinstance(rows, Source):
    yield from sources.blocks(rows)
  else:
    yield 0, rows


def check(rows: PyTree, name: str) -> None:
  """Raises ValueError if there are no rows or a value is not finite."""
  for start, block in blocks(rows):
    _check_block(block, name, start)


def _check_block(rows, name, start):
  if not jax.tree.leaves(rows) or count(rows) == 0:
    raise ValueError(f'{name} is empty: give at least one row')
  for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
    leaf = np.asarray(leaf)
    if np.issubdtype(leaf.dtype, np.floating):
      bad = ~np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
      if bad.any():
        column = jax.tree_util.keystr(path, simple=True, separator='/')
        raise ValueError(
          f'{name} has {int(bad.sum())} rows with NaN or infinity in column'
          f' {column!r}, the first is row {start + int(np.argmax(bad))}: remove or'
          ' fill them'
        )
