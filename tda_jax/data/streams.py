"""Rows of a stream of token ids: what others tokenized, in one array or memory map.

Row i of T positions predicts the tokens i·T + 1 to (i + 1)·T of the stream; the last
row is padded. See `sequences` for the columns of rows.
"""

import hashlib

import numpy as np

from tda_jax import sources
from tda_jax.data import sequences, tokenizer
from tda_jax.trees import PyTree

CHUNK = 2**24  # tokens that are looked through at once


def rows(
  ids: np.ndarray,
  length: int,
  *,
  end: int | None = None,
  vocabulary: int | None = None,
) -> PyTree:
  """Rows {'ids', 'targets', 'mask'} [N, length] of a stream.

  Args:
    ids: [n] whole numbers; `np.load(file, mmap_mode='r')`, or
      `np.memmap(file, np.uint16, 'r')` of a file without a header.
    length: T.
    end: the id behind each document; then the token after it is not predicted, and
      'segments' and 'positions' keep documents apart, as in packed rows. None: a
      token sees all that is before it in its row.
    vocabulary: ids are below it; None: below 2^31.

  Returns:
    A `sources.Source`, or the arrays where these are few.

  Raises:
    ValueError: the stream is no row of whole numbers or has nothing to predict; an
      id is outside the vocabulary.
  """
  if length < 1:
    raise ValueError(f'length={length}: give at least 1')
  if getattr(ids, 'ndim', None) != 1 or ids.dtype.kind not in 'iu':
    raise ValueError(
      f'the stream is {_described(ids)}: give token ids, an array or a memory map [n] of'
      ' whole numbers'
    )
  if len(ids) < 2:
    raise ValueError(
      f'the stream has {len(ids)} tokens, of which none can be predicted: give'
      ' at least 2'
    )
  if end is not None:
    tokenizer.checked([end], vocabulary, 'end')

  def read(index):
    return _rows(ids, index, length, end)

  about = ('stream', _digest(ids, vocabulary), length, end)
  count = -(-(len(ids) - 1) // length)
  source = sources.of_batches(read, count, about)
  if sources.size(source) > sources.IN_MEMORY:
    return source
  return sources.take(source, slice(None))


def _described(ids) -> str:
  if not hasattr(ids, 'dtype'):
    return f'of type {type(ids).__name__}'
  return f'{ids.dtype} of shape {ids.shape}'


def _digest(ids, vocabulary) -> str:
  """A hash of the stream, whose ids are looked at by the way."""
  sha = hashlib.sha256()
  for first in range(0, len(ids), CHUNK):
    some = np.asarray(ids[first : first + CHUNK])
    sha.update(tokenizer.checked(some, vocabulary, 'the stream').tobytes())
  return sha.hexdigest()[:16]


def _rows(ids, index, length, end) -> PyTree:
  """The rows of these numbers, columns [B, T]."""
  at = np.asarray(index)[:, None] * length + np.arange(length + 1)
  inside = at < len(ids)
  tokens = np.asarray(ids[np.minimum(at, len(ids) - 1)], np.int32)
  real, first = inside[:, 1:], tokens[:, :-1]
  found = sequences.empty(len(at), length, packed=end is not None)
  found['ids'][real], found['targets'][real] = first[real], tokens[:, 1:][real]
  found['mask'][real] = 1
  if end is not None:
    ends = first == end
    found['mask'][ends] = 0
    begins = np.roll(ends, 1, 1)
    begins[:, 0] = False
    order = np.arange(length)
    begun = np.maximum.accumulate(np.where(begins, order, 0), 1)
    found['positions'][real] = (order - begun)[real]
    found['segments'][real] = (1 + np.cumsum(begins, 1))[real]
  return found
