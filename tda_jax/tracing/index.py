"""The index of a corpus: embeddings, leaves and their labels, on disk.

Made once, whatever the number of claims. Embeddings are written block by block, so
that a killed command goes on; leaves and labels are made of them, each complete or
absent.
"""

import logging
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from tda_jax.storage import files, fingerprint, record
from tda_jax.storage import scores as store_lib
from tda_jax.tracing import clusters
from tda_jax.tracing import words as words_lib

Encode = Callable[
  [Sequence[str]], np.ndarray
]  # texts -> [N, D], rows of length 1
Label = Callable[[Sequence[Sequence[str]]], list[list[str]]]
_log = logging.getLogger(__name__)


class Index(NamedTuple):
  """A corpus that can be searched.

  Attributes:
    sentences: N texts.
    embeddings: float32 [N, D], rows of length 1.
    leaf: int32 [N], of each sentence.
    labels: words of each of the L leaves.
    known_by: a digest of what it was made from.
    seconds: what its parts took, of all commands: encoding, clusters, labels.
  """

  sentences: tuple[str, ...]
  embeddings: np.ndarray
  leaf: np.ndarray
  labels: tuple[tuple[str, ...], ...]
  known_by: str
  seconds: dict[str, float]


def index(
  folder: str | os.PathLike,
  sentences: Sequence[str],
  encode: Encode,
  *,
  encoder: str,
  most: int = 100,
  branches: int = 10,
  label: Label = words_lib.by_content,
  labels: str = 'content',
  seed: int = 0,
  block: int = 1024,
  progress: bool = True,
) -> Index:
  """Indexes a corpus, or goes on with what is in the folder, or reads it.

  Args:
    folder: where it is kept.
    sentences: N texts, none empty.
    encode: see `tda_jax.models.encoder.embedder`, or any function.
    encoder: the name that `encode` is known by.
    most, branches, seed: see `clusters.leaves`.
    label: sentences of each leaf -> its words: `words.by_content`, `most_telling`,
      or a language model's (`judges.endpoint.keywords`).
    labels: the name that `label` is known by.
    block: sentences that are embedded between two writes.
    progress: shows a bar.

  Raises:
    ValueError: an empty sentence; the encoder's rows are of another number, not
      finite or zero; the folder is of another corpus, encoder or other settings.
  """
  sentences = tuple(checked(sentences))
  folder = pathlib.Path(folder)
  inputs = {
    'sentences': len(sentences),
    'documents': digest(sentences),
    'encoder': encoder,
    'most': most,
    'branches': branches,
    'labels': labels,
    'seed': seed,
    'versions': fingerprint.versions(),
  }
  with files.lock(folder):
    record.begin(folder, inputs)
    rows = _embedded(folder, sentences, encode, block, progress)
    leaf = _once(
      folder / 'leaves.json',
      lambda: clusters.leaves(rows, most, branches, seed).tolist(),
    )
    leaf = np.asarray(leaf, np.int32)
    words = _once(
      folder / 'labels.json',
      lambda: label([[sentences[i] for i in of] for of in members(leaf)]),
    )
    record.complete(folder)
  seconds = {
    name: record.read_json(folder / f'{name}.seconds.json')['seconds']
    for name in ('encoding', 'leaves', 'labels')
  }
  known_by = fingerprint_of(inputs)
  return Index(
    sentences, rows, leaf, tuple(map(tuple, words)), known_by, seconds
  )


def members(leaf: np.ndarray) -> list[np.ndarray]:
  """The numbers of the sentences of each leaf."""
  order = np.argsort(leaf, kind='stable')
  return np.split(order, np.cumsum(np.bincount(leaf))[:-1])


def checked(sentences: Sequence[str]) -> list[str]:
  """The sentences as a list.

  Raises:
    ValueError: one is no text or empty, or there is none.
  """
  sentences = list(sentences)
  if not sentences:
    raise ValueError('there are no sentences: give at least one')
  for i, sentence in enumerate(sentences):
    if not isinstance(sentence, str) or not sentence.strip():
      raise ValueError(
        f'sentence {i} is {sentence!r}: give texts that are not empty'
      )
  return sentences


def digest(texts: Sequence[str]) -> str:
  """A hash of texts, in their order."""
  lines = '\0'.join(texts).encode()
  return fingerprint.digest(np.frombuffer(lines, np.uint8))


def fingerprint_of(inputs: dict) -> str:
  """A short digest of the inputs of a stage."""
  return digest([str(record.plain(inputs))])


def _embedded(folder, sentences, encode, block, progress):
  """Embeddings [N, D], those that are absent computed."""
  path = folder / 'embeddings'
  clock = folder / 'encoding.seconds.json'
  if not (path / 'zarr.json').exists():
    first = unit(encode(sentences[:1]), 1)
    shape = (len(sentences), first.shape[1])
    store = store_lib.create(path, shape, block, {'kind': 'embeddings'})
  else:
    store = store_lib.open(path)
  size = store.rows_per_block
  absent = np.flatnonzero(~store_lib.done(store))
  spent = record.read_json(clock)['seconds'] if clock.exists() else 0.0
  for number in tqdm.tqdm(
    absent, 'embedding', unit='block', disable=not progress or not len(absent)
  ):
    begun = time.monotonic()
    part = sentences[number * size : (number + 1) * size]
    store_lib.write(store, int(number) * size, unit(encode(part), len(part)))
    spent += time.monotonic() - begun
    record.write_json(clock, {'seconds': spent})
  return store_lib.read(store)


def unit(rows: np.ndarray, count: int) -> np.ndarray:
  """Rows of length 1, float32.

  Raises:
    ValueError: another number of rows, or one is zero or not finite.
  """
  rows = np.asarray(rows, np.float32)
  if rows.ndim != 2 or len(rows) != count:
    raise ValueError(
      f'the encoder made an array {rows.shape} of {count} texts: let it return'
      ' [N, D]'
    )
  norms = np.linalg.norm(rows, axis=1, keepdims=True)
  wrong = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
  if wrong.any():
    raise ValueError(
      f'the encoder made a row that is zero or not finite, of text'
      f' {int(np.argmax(wrong))} of {count}: leave that text out'
    )
  return rows / norms


def _once(file, make):
  """What `make` made, now or earlier; a damaged file is made again."""
  try:
    if file.exists():
      return record.read_json(file)['made']
  except ValueError as error:
    _log.warning('%s; it is made again', error)
  begun = time.monotonic()
  made = make()
  record.write_json(
    file.with_suffix('.seconds.json'), {'seconds': time.monotonic() - begun}
  )
  record.write_json(file, {'made': made})
  return made
