"""Rows of a stream of token ids: what others tokenized, in one array or memory map.

Rows follow the stream: the first has T positions that predict the tokens 1 to T, the
next one predicts T + 1 to 2T, and so on; the last is padded. See `sequences` for the
columns of rows.
"""

import hashlib

import numpy as np

from tda_jax import sources
from tda_jax.data import sequences
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
    end: the id behind each document; then the token after it is not predicted, a row
      of which no token is predicted is left out, and 'segments' and 'positions' keep
      documents apart, as in packed rows. None: a token sees all that is before it in
      its row.
    vocabulary: ids are below it; None: below 2^31.

  Returns:
    A `sources.Source`, or the arrays where these are few.

  Raises:
    ValueError: the stream is no row of whole numbers or has nothing to predict; an
      id is outside the vocabulary, or `end` nowhere in the stream.
  """
  for name, given in (('length', length), ('end', end)):
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not whole and (name, given) != ('end', None):
      raise ValueError(f'{name}={given!r}: give a whole number')
  if length < 1:
    raise ValueError(f'length={length}: give at least 1')
  if getattr(ids, 'ndim', None) != 1 or ids.dtype.kind not in 'iu':
    raise ValueError(
      f'the stream is {_described(ids)}: give token ids, an array or a memory map [n]'
      ' of whole numbers'
    )
  digest, kept = _looked_through(ids, length, end, vocabulary)
  if not kept.any():
    raise ValueError(
      f'the stream has {len(ids)} tokens, of which none can be predicted: give'
      ' at least 2 of one document'
    )
  numbers, read = np.flatnonzero(kept), [0]

  def of_numbers(index):
    found = _rows(ids, numbers[index], length, end)
    read[0] += len(index) * length * ids.dtype.itemsize
    if read[0] > sources.LET_GO:
      read[0] = 0
      sources.let_go(ids)
    return found

  about = ('stream', digest, int(length), end)
  source = sources.of_batches(of_numbers, len(numbers), about)
  if sources.size(source) > sources.IN_MEMORY:
    return source
  return sources.take(source, slice(None))


def _described(ids) -> str:
  if not hasattr(ids, 'dtype'):
    return f'of type {type(ids).__name__}'
  return f'{ids.dtype} of shape {ids.shape}'


def _looked_through(ids, length, end, vocabulary) -> tuple[str, np.ndarray]:
  """A hash of the stream, and which rows have a token to predict."""
  sha, last = hashlib.sha256(), len(ids) - 1  # the last predicts nothing
  kept, ended = np.zeros(-(-max(last, 0) // length), bool), end is None
  most = 2**31 if vocabulary is None else vocabulary
  for first in range(0, len(ids), CHUNK):
    some = np.asarray(ids[first : first + CHUNK])
    wrong = (some < 0) | (some >= most)
    if wrong.any():
      raise ValueError(
        f'the stream has the token id {some[wrong][0]}, outside of 0 to {most - 1}:'
        ' give the vocabulary of the tokenizer that made it'
      )
    sha.update(some.astype(np.int32).tobytes())
    goes_on = some[: max(last - first, 0)] != (-1 if end is None else end)
    at = first + np.flatnonzero(goes_on)
    kept[np.unique(at // length)] = True
    ended |= end is not None and bool((some == end).any())
    sources.let_go(ids)
  if not ended:
    raise ValueError(
      f'end={end} is nowhere in the stream: give the id behind its documents, or'
      ' None if it is one'
    )
  return sha.hexdigest()[:16], kept


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
