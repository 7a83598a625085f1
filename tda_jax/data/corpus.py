"""A corpus of token sequences on the disk, for language models.

Documents are read in order and written in shards: the tokens of some documents,
where each begins, which pieces make which row (`sequences`), and the documents'
digests, by which a later copy of a document is found. A shard is complete or
absent: its marker `done/<number>.json`, written last, has the checksums of its
files. A build that was killed goes on with the first shard that is not whole, so
that its bytes are those of one that was not. Rows are read from memory maps.

    corpus.json            totals; written when all shards are
    done/0.json            counts and checksums of shard 0
    shards/0/tokens.npy    uint16 or int32
    shards/0/documents.npy DOCUMENT, of the documents kept
    shards/0/pieces.npy    sequences.PIECE, by row
    shards/0/digests.npy   uint8 [., 16], of the documents kept
"""

import collections
import contextlib
import functools
import hashlib
import io
import itertools
import os
import pathlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tda_jax import parallel, sources
from tda_jax.data import documents as documents_lib
from tda_jax.data import sequences, tokenizer
from tda_jax.storage import files, record
from tda_jax.trees import PyTree

SHARD = 2**24  # characters; a shard is in memory while it is written
# `number` as given; its tokens are `size` from `start` on; see `Tokenized`.
DOCUMENT = np.dtype(
  [(name, '<i8') for name in ('number', 'start', 'size', 'counted')]
)
FILES = ('tokens', 'documents', 'pieces', 'digests')
COUNTS = ('documents', 'duplicates', 'short', 'tokens', 'rows')
CONTEXT = 8  # tokens; a letter has at most 4 bytes, a token at least one


class Corpus(NamedTuple):
  """Token sequences on the disk.

  Attributes:
    folder: where they are.
    length: positions T of a row.
    packed: whether a row may hold several documents.
    documents: number of documents as given.
    duplicates: those left out, equal to an earlier one.
    short: those kept that have nothing to predict, and no row.
    tokens: number of tokens kept.
    count: number of rows N.
    ends: [shards] number of rows up to the end of each shard.
    known_by: digest of all shards.
    edges: whether documents have a token before and one behind them.
    decode: token ids -> text, or None.
  """

  folder: pathlib.Path
  length: int
  packed: bool
  documents: int
  duplicates: int
  short: int
  tokens: int
  count: int
  ends: np.ndarray
  known_by: str
  edges: tuple[bool, bool]
  decode: Callable[[Sequence[int]], str] | None


class Span(NamedTuple):
  """Tokens `first` to before `last` of the document `document`, as given."""

  document: int
  first: int
  last: int


def build(
  given: Any,
  tokenize: Any,
  length: int,
  folder: str | os.PathLike,
  *,
  field: str = 'text',
  prompt: str | None = None,
  split: str = 'file',
  packed: bool = False,
  begin: int | None = None,
  end: int | None = None,
  vocabulary: int | None = None,
  name: str | None = None,
  decode: Callable[[Sequence[int]], str] | None = None,
  shard: int = SHARD,
) -> Corpus:
  """Tokenizes documents into `folder`, or goes on, or finds them there.

  Equal documents are kept once. Memory does not grow with their number.

  Args:
    given, field, prompt, split: see `documents.documents`. With `prompt`, only
      the tokens of `field` count, and a document is one row.
    tokenize, name, decode: see `tokenizer.tokens`.
    length: positions T of a row; longer documents are several rows.
    folder: of this corpus alone.
    packed: several documents in a row, where they fit; see `sequences`.
    begin, end: ids of tokens before and behind each document; None: none.
    vocabulary: token ids are below it; None: whatever the tokenizer gives.
    shard: characters of a shard; a longer document is one of its own.

  Raises:
    ValueError: the folder has a corpus of other arguments, is in use or is no
      folder of a file system; the documents cannot be read, or have nothing to predict; a pair is too long or
      its target empty; a token is outside the vocabulary.
  """
  files.check_local(folder, 'the folder')
  folder = pathlib.Path(folder)
  documents = documents_lib.documents(
    given, field=field, prompt=prompt, split=split
  )
  tokens = tokenizer.tokens(tokenize, name, decode)
  encode = sequences.encoder(tokenize, length, vocabulary, begin, end)
  inputs = {
    'documents': documents.digest(),
    'tokenizer': tokens.known_by,
    **{'length': length, 'packed': packed, 'begin': begin, 'end': end},
    **{'field': field, 'prompt': prompt, 'split': split, 'shard': shard},
  }

  def work():
    with files.lock(folder):
      record.begin(folder, inputs)
      return _finished(folder) or _written(folder, documents, encode, inputs)

  return _corpus(folder, inputs, parallel.in_turn(work), tokens.decode)


def load(
  folder: str | os.PathLike,
  decode: Callable[[Sequence[int]], str] | None = None,
) -> Corpus:
  """The finished corpus in `folder`, without its documents and tokenizer.

  Raises:
    ValueError: there is none, it is not finished, or it was damaged since.
  """
  folder = pathlib.Path(folder)
  inputs = record.read_json(folder / 'run.json', f'the folder {folder}')
  shards = _finished(folder)
  if shards is None:
    raise ValueError(
      f'the corpus {folder} is not whole: call build with its documents again,'
      ' which makes what is absent'
    )
  return _corpus(folder, inputs['inputs'], shards, decode)


def rows(corpus: Corpus) -> PyTree:
  """Its rows, columns [N, T]; see `sequences`.

  Returns:
    A `sources.Source`, or the arrays where these are few.
  """
  read = functools.partial(_read, corpus)
  source = sources.of_batches(
    read, corpus.count, ('corpus', corpus.known_by, corpus.length)
  )
  if sources.size(source) > sources.IN_MEMORY:
    return source
  return sources.take(source, slice(None))


def spans(corpus: Corpus, row: int) -> list[Span]:
  """Which tokens of which documents a row predicts, by part of the row.

  A document's first token, which nothing predicts, belongs to its first row, so
  that every token is in one row.
  """
  return [
    Span(int(document['number']), *_tokens(piece))
    for _, document, piece in _parts(corpus, row)
  ]


def passage(corpus: Corpus, row: int) -> str:
  """The text of `spans`; of several documents, with a blank line between.

  The passages of a document's rows, one after the other, are its text. A letter
  whose bytes are in two rows is in the second one.

  Raises:
    ValueError: there is no such row, or the corpus has no decoder.
  """
  if corpus.decode is None:
    raise ValueError(
      f'the corpus {corpus.folder} has no decoder: give build or load decode=, a'
      ' function of token ids'
    )
  return '\n\n'.join(
    _text(corpus, tokens, document, *_tokens(piece))
    for tokens, document, piece in _parts(corpus, row)
  )


def _tokens(piece) -> tuple[int, int]:
  """The tokens of a document that a piece has: (first, behind the last)."""
  first, count = int(piece['first']), int(piece['count'])
  return first + (first > 0), first + count + 1


def _text(corpus, tokens, document, first, last) -> str:
  """The text of some tokens of a document, without the tokens at its edges."""
  start, size = int(document['start']), int(document['size'])
  low, high = corpus.edges[0], size - corpus.edges[1]
  first, last = max(first, low), min(last, high)
  before = max(low, first - CONTEXT)

  def decoded(upto):
    ids = tokens[start + before : start + max(upto, before)].tolist()
    text = corpus.decode(ids)
    return text if upto == high else text.rstrip('\ufffd')

  head, whole = decoded(first), decoded(last)
  if whole.startswith(head):
    return whole[len(head) :]
  return corpus.decode(tokens[start + first : start + last].tolist())


def _corpus(folder, inputs, shards, decode) -> Corpus:
  """A finished corpus as it is given to users."""
  total = {name: sum(shard[name] for shard in shards) for name in COUNTS}
  sums = [shard['sha256'][name] for shard in shards for name in FILES]
  return Corpus(
    folder=folder,
    length=inputs['length'],
    packed=inputs['packed'],
    documents=total['documents'],
    duplicates=total['duplicates'],
    short=total['short'],
    tokens=total['tokens'],
    count=total['rows'],
    ends=np.cumsum([shard['rows'] for shard in shards]),
    known_by=hashlib.sha256(' '.join(sums).encode()).hexdigest(),
    edges=(inputs['begin'] is not None, inputs['end'] is not None),
    decode=decode,
  )


def _finished(folder) -> list[dict] | None:
  """What is known of each shard, if all are there and whole."""
  file = folder / 'corpus.json'
  if not file.exists():
    return None
  count = record.read_json(file, f'{file}')['shards']
  shards = [_whole(folder, number) for number in range(count)]
  return None if None in shards else [s for s in shards if s is not None]


def _written(folder, documents, encode, inputs) -> list[dict]:
  """Writes the shards that are not whole; what is known of all of them."""
  shards, total = [], 0
  read = documents.read()
  # A database without a name is on the disk for as long as it is open: memory
  # does not grow with what was seen.
  with contextlib.closing(sqlite3.connect('')) as earlier:
    earlier.execute(
      'create table earlier (digest blob primary key) without rowid'
    )
    for number in itertools.count():
      known = _whole(folder, number)
      if known is not None:
        _skip(read, known['documents'])
        old = np.load(_path(folder, number, 'digests'))
        rows = ((digest.tobytes(),) for digest in old)
        earlier.executemany('insert into earlier values (?)', rows)
      else:
        some = _next(read, inputs['shard'])
        if not some:
          break
        arrays, known = _shard(some, total, earlier, encode, inputs)
        known = _write(folder, number, arrays, known)
      shards.append(known)
      total += known['documents']
  if not sum(shard['rows'] for shard in shards):
    raise ValueError(
      f'none of the {total} documents has two tokens or more, so that there is'
      ' nothing to predict: give other documents'
    )
  record.write_json(folder / 'corpus.json', {'shards': len(shards)})
  return shards


def _skip(read, count):
  collections.deque(itertools.islice(read, count), maxlen=0)


def _next(read, size) -> list[documents_lib.Document]:
  """The documents of the next shard; none: all were read."""
  some = []
  for document in read:
    some.append(document)
    # Empty texts are documents too: they take memory.
    size -= len(document.text) + len(document.prompt or '') + 1
    if size <= 0:
      break
  return some


def _shard(some, first, earlier, encode, inputs) -> tuple[dict, dict]:
  """(arrays, counts) of a shard of documents, of which `first` is the first."""
  kept, about, digests, start = [], [], [], 0
  for number, document in enumerate(some, first):
    digest = documents_lib.digest(document)
    new = earlier.execute('insert or ignore into earlier values (?)', (digest,))
    if not new.rowcount:
      continue
    one = encode(document.prompt, document.text, f'document {number}')
    kept.append(one.ids)
    about.append((number, start, len(one.ids), one.counted))
    digests.append(np.frombuffer(digest, np.uint8))
    start += len(one.ids)
  about = np.array(about, DOCUMENT)
  pieces = sequences.cut(
    about['size'].tolist(), inputs['length'], inputs['packed']
  )
  tokens = np.concatenate([np.zeros(0, np.int32), *kept])
  small = tokens.max(initial=0) < 2**16
  counts = {
    'documents': len(some),
    'duplicates': len(some) - len(kept),
    'short': int((about['size'] < 2).sum()),
    'tokens': len(tokens),
    'rows': int(pieces['row'].max(initial=-1)) + 1,
  }
  arrays = {
    'tokens': tokens.astype('<u2' if small else '<i4'),
    'documents': about,
    'pieces': pieces,
    'digests': np.array(digests, np.uint8).reshape(-1, 16),
  }
  return arrays, counts


def _write(folder, number, arrays, counts) -> dict:
  """Writes a shard, then its marker; what the marker says."""
  sums = {}
  for name in FILES:
    data = io.BytesIO()
    np.save(data, arrays[name])
    path = _path(folder, number, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, data.getvalue())
    sums[name] = hashlib.sha256(data.getvalue()).hexdigest()
  marker = folder / 'done' / f'{number}.json'
  marker.parent.mkdir(exist_ok=True)
  known = {**counts, 'sha256': sums}
  record.write_json(marker, known)
  return known


def _whole(folder, number) -> dict | None:
  """What is known of a shard that is done and whole, or None."""
  try:
    known = record.read_json(folder / 'done' / f'{number}.json')
    for name in FILES:
      with open(_path(folder, number, name), 'rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
      if found != known['sha256'][name]:
        return None
  except (ValueError, KeyError, FileNotFoundError):  # absent, or damaged
    return None
  return known


def _path(folder, number, name):
  return folder / 'shards' / str(number) / f'{name}.npy'


class _Shard(NamedTuple):
  """A shard that is open; `starts` [rows + 1] are the first pieces of its rows."""

  tokens: np.ndarray
  documents: np.ndarray
  pieces: np.ndarray
  starts: np.ndarray


@functools.lru_cache(8)
def _opened(folder, number, known_by) -> _Shard:
  """A shard; `known_by`: another corpus in the same folder is another one."""
  del known_by
  load = lambda name, mode: np.load(_path(folder, number, name), mmap_mode=mode)
  pieces = load('pieces', None)
  starts = np.searchsorted(
    pieces['row'], np.arange(pieces['row'].max(initial=-1) + 2)
  )
  return _Shard(load('tokens', 'r'), load('documents', None), pieces, starts)


def _parts(corpus, row):
  """(tokens of its shard, document, piece) of each part of a row."""
  if not 0 <= row < corpus.count:
    raise ValueError(
      f'row {row} of {corpus.count}: give 0 to {corpus.count - 1}'
    )
  number = int(np.searchsorted(corpus.ends, row, 'right'))
  shard = _opened(corpus.folder, number, corpus.known_by)
  local = row - (int(corpus.ends[number - 1]) if number else 0)
  for piece in shard.pieces[shard.starts[local] : shard.starts[local + 1]]:
    yield shard.tokens, shard.documents[piece['document']], piece


def _read(corpus, index: np.ndarray) -> PyTree:
  """The rows at index [B]."""
  columns = sequences.empty(len(index), corpus.length, corpus.packed)
  for i, row in enumerate(index):
    parts = _parts(corpus, int(row))
    for segment, (tokens, document, piece) in enumerate(parts, 1):
      start = int(document['start'])
      ids = tokens[start : start + int(document['size'])]
      one = sequences.Tokenized(ids, int(document['counted']))
      sequences.place(columns, i, segment, piece, one)
  return columns
