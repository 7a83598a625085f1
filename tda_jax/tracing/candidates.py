"""Candidates: the sentences of which a judge is asked, by several ways.

| way | candidates, best first |
| :--- | :--- |
| `keywords` | all sentences of the leaves whose labels match a word of the claim, the paper's; the best leaves first |
| `embedding` | the largest cosines |
| `bm25` | the largest BM25 |
| `fused` | the best of three lists in turn: cosine, BM25, and leaves by their score with a leaf's sentences by cosine |
| `inside` | the same, of matched leaves only |
| `random` | random leaves, a control |
| `everything` | all sentences, a control |

A budget cuts the list: it is how many sentences are judged. A third of a fused budget
is each list's own, so that one list that is misled cannot crowd the others out, as it
can where ranks are added.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tda_jax.data import lexical
from tda_jax.tracing import matching
from tda_jax.tracing.index import Encode, Index, members, unit

WAYS = (
  *('keywords', 'embedding', 'bm25', 'fused', 'inside', 'random'),
  'everything',
)


class Candidates(NamedTuple):
  """Sentences to be judged for one claim.

  Attributes:
    rows: their numbers, best first.
    leaves: numbers of the leaves that they are of, by their first.
    words: of the claim that matched a label.
  """

  rows: np.ndarray
  leaves: np.ndarray
  words: tuple[str, ...]


class Search(NamedTuple):
  """An index, ready to be searched.

  Attributes:
    index: see `tda_jax.tracing.index`.
    encode: of the claims, the same as of the sentences.
    bm25: claims -> [N, Q].
    labels: of the leaves.
    members: numbers of the sentences of each leaf.
  """

  index: Index
  encode: Encode
  bm25: Callable
  labels: matching.Labels
  members: list[np.ndarray]


def search(index: Index, encode: Encode) -> Search:
  """Prepares an index, whose BM25 is computed now."""
  return Search(
    index,
    encode,
    lexical.indexed(index.sentences),
    matching.labels(index.labels),
    members(index.leaf),
  )


def candidates(
  of: Search,
  claim: str,
  *,
  way: str = 'fused',
  budget: int | None = None,
  fuzz: int = matching.FUZZ,
  seed: int = 0,
) -> Candidates:
  """The sentences that a judge is to be asked of.

  Args:
    way: one of WAYS.
    budget: the most sentences; None: as many as the way has, which of `embedding`,
      `bm25`, `fused` and `random` is all.
    fuzz: of `matching.match`.
    seed: of `random`.

  Raises:
    ValueError: an unknown way, a budget below 1, an empty claim.
  """
  if way not in WAYS:
    raise ValueError(f'way={way!r}: use one of {", ".join(WAYS)}')
  if budget is not None and budget < 1:
    raise ValueError(f'budget={budget} sentences a claim: give at least 1')
  if not claim.strip():
    raise ValueError('the claim is empty: give a sentence')
  words, rows = _ordered(of, claim, way, fuzz, seed)
  rows = rows[:budget]
  leaves = of.index.leaf[rows]
  _, first = np.unique(leaves, return_index=True)
  return Candidates(rows, leaves[np.sort(first)], words)


def _ordered(of, claim, way, fuzz, seed):
  """(matched words, numbers of the sentences, best first)."""
  count = len(of.index.sentences)
  if way == 'everything':
    return (), np.arange(count)
  if way == 'random':
    words = claim.encode()
    order = np.random.default_rng([seed, *words]).permutation(len(of.members))
    return (), np.concatenate([of.members[leaf] for leaf in order])
  if way == 'embedding':
    return (), _best(_cosines(of, claim))
  if way == 'bm25':
    return (), _best(of.bm25([claim])[:, 0])
  match = matching.match(claim, of.labels, fuzz)
  by_leaf = match.scores[of.index.leaf]
  hit = np.asarray(match.hits.any(0))[of.index.leaf]
  if way == 'keywords':
    order = np.lexsort((of.index.leaf, -by_leaf))
    return match.words, order[hit[order]]
  cosines = _cosines(of, claim)
  lists = (
    _best(cosines),
    _best(of.bm25([claim])[:, 0]),
    np.lexsort((-cosines, -by_leaf)),
  )
  order = _in_turn(lists)
  return match.words, order[hit[order]] if way == 'inside' else order


def _cosines(of, claim):
  return of.index.embeddings @ unit(of.encode([claim]), 1)[0]


def _best(scores):
  """Numbers of the rows, the largest score first."""
  return np.argsort(-scores, kind='stable')


def _in_turn(lists):
  """The first of each list, then the second of each, every number once."""
  turns = np.stack(lists, 1).ravel()
  _, first = np.unique(turns, return_index=True)
  return turns[np.sort(first)]
