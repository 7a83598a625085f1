"""Token sequences as rows of T positions that predict the next token.

A row has `ids` int32 [T], what a model reads; `targets` int32 [T], the token that
follows at each position, a column of its own, so that drawn labels change no
input; `mask` float32 [T], 1 where the target counts. Padding is on the right: id
0, target 0, mask 0. A document of n tokens has n − 1 predictions; it is cut into
pieces of at most T of them, each of which is a row, or shares one with others
(packed). Then `segments` int32 [T] number the pieces of a row from 1 on, 0 at
padding, and `positions` int32 [T] count from 0 in each.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tda_jax.data import tokenizer
from tda_jax.trees import PyTree

# `count` predictions of a document from token `first` on, in row `row` from
# position `column` on.
PIECE = np.dtype(
  [(name, '<i8') for name in ('document', 'first', 'count', 'row', 'column')]
)


class Tokenized(NamedTuple):
  """The tokens of one document.

  Attributes:
    ids: int32 [n].
    counted: targets count from this token on.
  """

  ids: np.ndarray
  counted: int


def from_pairs(
  prompts: Sequence[str],
  targets: Sequence[str],
  tokenize: Any,
  length: int,
  *,
  vocabulary: int | None = None,
  begin: int | None = None,
  end: int | None = None,
  places: bool = False,
) -> PyTree:
  """Rows {'ids', 'targets', 'mask'} [N, length], one a pair, in memory.

  Only the targets' tokens count (and `end` behind them). Prompt and target are
  tokenized apart: a space between them is part of one of them.

  Args:
    prompts, targets: N texts each.
    tokenize: see `tokenizer.tokens`.
    length: T; a pair of n tokens takes n − 1 positions.
    vocabulary: token ids are below it; None: whatever the tokenizer gives.
    begin, end: ids of tokens before and behind each pair; None: none.
    places: adds 'segments' and 'positions', for a problem of packed rows.

  Raises:
    ValueError: there are no pairs, or as many prompts as targets are not given, or
      one text for many; a target or, without `begin`, a prompt is empty; a pair is too long; a token
      is outside the vocabulary.
  """
  _check_lists(prompts=prompts, targets=targets)
  if len(prompts) != len(targets) or not len(prompts):
    raise ValueError(
      f'{len(prompts)} prompts and {len(targets)} targets: give at least one pair,'
      ' as many of the one as of the other'
    )
  encode = encoder(tokenize, length, vocabulary, begin, end)
  found = [
    encode(prompt, target, f'pair {i}')
    for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True))
  ]
  rows = filled(found, length)
  if not places:
    return rows
  used = [np.arange(length) < len(one.ids) - 1 for one in found]
  segments = np.array(used).astype(np.int32)
  return rows | {
    'segments': segments,
    'positions': segments * np.arange(length, dtype=np.int32),
  }


def contrasts(
  prompts: Sequence[str],
  targets: Sequence[str],
  others: Sequence[str],
  tokenize: Any,
  length: int,
  **options: Any,
) -> PyTree:
  """Queries of which of two answers a model prefers: columns [N, 2, length].

  Their measure is log p(target) − log p(other), each after the same prompt.

  Args:
    prompts, targets, others: N texts each.
    tokenize, length, options: see `from_pairs`, and what it raises.

  Raises:
    ValueError: besides, two answers are the same, of which none is preferred.
  """
  _check_lists(targets=targets, others=others)
  for i, (target, other) in enumerate(zip(targets, others, strict=False)):
    if target == other:
      raise ValueError(
        f'pair {i} contrasts {target!r} with itself, which is 0 for every model:'
        ' give another answer, or leave it out'
      )
  one, other = (
    from_pairs(prompts, answers, tokenize, length, **options)
    for answers in (targets, others)
  )
  return {name: np.stack([one[name], other[name]], 1) for name in one}


def _check_lists(**texts):
  """Raises ValueError for one text where a list of them is meant."""
  for name, given in texts.items():
    if isinstance(given, str):
      raise ValueError(f'{name} is one text: give a list, {name}=[{given!r}]')


def from_texts(
  texts: Sequence[str],
  tokenize: Any,
  length: int,
  *,
  packed: bool = False,
  vocabulary: int | None = None,
  begin: int | None = None,
  end: int | None = None,
) -> PyTree:
  """Rows {'ids', 'targets', 'mask'} [N, length] of all texts, in memory.

  Args:
    packed: several pieces in a row; adds 'segments' and 'positions'.
    others: see `from_pairs`.

  Raises:
    ValueError: there are no texts; a text has nothing to predict; a token is
      outside the vocabulary.
  """
  if isinstance(texts, str) or not len(texts):
    raise ValueError('texts has no document: give a list of at least one text')
  for i, text in enumerate(texts):
    if not isinstance(text, str):
      raise ValueError(
        f'text {i} is of type {type(text).__name__}: give texts, and leave out'
        ' those that are missing'
      )
  encode = encoder(tokenize, length, vocabulary, begin, end)
  found = [encode(None, text, f'text {i}') for i, text in enumerate(texts)]
  for i, one in enumerate(found):
    if len(one.ids) < 2:
      raise ValueError(
        f'text {i} has {len(one.ids)} tokens, of which none can be predicted:'
        ' leave it out'
      )
  return filled(found, length, packed)


def encoder(
  tokenize: Any,
  length: int,
  vocabulary: int | None = None,
  begin: int | None = None,
  end: int | None = None,
) -> Callable[[str | None, str, str], Tokenized]:
  """(prompt or None, text, what to call it in errors) -> its tokens.

  A text without tokens has none, whatever `begin` and `end`.
  """
  if length < 1:
    raise ValueError(f'length={length}: give at least 1')
  encode = tokenizer.tokens(tokenize, name='unused').encode
  edge = lambda id: [] if id is None else [id]
  edges = tokenizer.checked(
    [*edge(begin), *edge(end)], vocabulary, 'begin, end'
  )
  head, tail = edges[: len(edge(begin))], edges[len(edge(begin)) :]
  ids_of = lambda text, called: tokenizer.checked(
    encode(text), vocabulary, called
  )

  def encoded(prompt, text, called):
    ids = ids_of(text, called)
    if prompt is None:
      whole = np.concatenate([head, ids, tail]) if len(ids) else ids
      return Tokenized(whole, 0)
    if not len(ids):
      raise ValueError(
        f'{called} has an empty target ({text!r}): leave the pair out'
      )
    before = np.concatenate([head, ids_of(prompt, called)])
    if not len(before):
      raise ValueError(
        f'{called} has an empty prompt, so that nothing predicts its first token:'
        ' give begin=, the id of a token to start with, or leave it out'
      )
    whole = np.concatenate([before, ids, tail])
    if len(whole) - 1 > length:
      raise ValueError(
        f'{called} has {len(whole)} tokens, which take {len(whole) - 1} positions'
        f' of {length}: give length={len(whole) - 1}, or shorten its prompt'
      )
    return Tokenized(whole, len(before))

  return encoded


def cut(sizes: Sequence[int], length: int, packed: bool = False) -> np.ndarray:
  """The pieces [P] of documents of `sizes` tokens, of type `PIECE`, by row.

  Packed: a piece joins the row of the one before if it fits.
  """
  pieces, row, column = [], -1, length
  for document, size in enumerate(sizes):
    for first in range(0, size - 1, length):
      count = min(length, size - 1 - first)
      if not packed or column + count > length:
        row, column = row + 1, 0
      pieces.append((document, first, count, row, column))
      column += count
  return np.array(pieces, PIECE)


def empty(count: int, length: int, packed: bool = False) -> PyTree:
  """Rows of padding."""
  kinds = {'ids': np.int32, 'targets': np.int32, 'mask': np.float32}
  if packed:
    kinds |= {'segments': np.int32, 'positions': np.int32}
  return {name: np.zeros((count, length), kind) for name, kind in kinds.items()}


def place(
  rows: PyTree, row: int, segment: int, piece: Any, one: Tokenized
) -> None:
  """Writes a piece of the document `one` into row `row`, as its part `segment`.

  Args:
    rows: columns [B, T], which change.
    piece: of type `PIECE`.
  """
  first, count, column = (
    int(piece[name]) for name in ('first', 'count', 'column')
  )
  where = row, slice(column, column + count)
  rows['ids'][where] = one.ids[first : first + count]
  rows['targets'][where] = one.ids[first + 1 : first + 1 + count]
  rows['mask'][where] = np.arange(first + 1, first + 1 + count) >= one.counted
  if 'segments' in rows:
    rows['segments'][where] = segment
    rows['positions'][where] = np.arange(count)


def filled(
  documents: Sequence[Tokenized], length: int, packed: bool = False
) -> PyTree:
  """All rows of documents in memory."""
  pieces = cut([len(one.ids) for one in documents], length, packed)
  rows = empty(int(pieces['row'][-1]) + 1, length, packed)
  starts = np.searchsorted(pieces['row'], pieces['row'])
  for i, piece in enumerate(pieces):
    segment = i - int(starts[i]) + 1
    place(rows, piece['row'], segment, piece, documents[piece['document']])
  return rows
