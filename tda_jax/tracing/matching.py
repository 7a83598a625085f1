"""Words of a claim against the labels of leaves."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from tda_jax.tracing import words as words_lib

FUZZ = 85  # of 100: how alike words must be
NAMES = 2.0  # how much more a name counts than another word


class Labels(NamedTuple):
  """The words of all labels, and the leaves that have them.

  Attributes:
    words: V of them.
    leaves: sparse [V, L], 1 where the label of the leaf has the word.
  """

  words: tuple[str, ...]
  leaves: Any


class Match(NamedTuple):
  """What a claim has in common with the leaves.

  Attributes:
    words: of the claim that match a label, names and rare words first.
    hits: [words, L] bool.
    scores: [L], Σ over matched words of ln(L / leaves with it), of names twice.
  """

  words: tuple[str, ...]
  hits: np.ndarray
  scores: np.ndarray


def labels(of_leaves: Sequence[Sequence[str]]) -> Labels:
  """`Labels` of the words of each leaf."""
  words = sorted({word for label in of_leaves for word in label})
  number = {word: i for i, word in enumerate(words)}
  at = [
    (number[word], leaf)
    for leaf, label in enumerate(of_leaves)
    for word in {*label}
  ]
  rows, columns = zip(*at, strict=True) if at else ((), ())
  ones = np.ones(len(at), np.float32)
  shape = (len(words), len(of_leaves))
  return Labels(tuple(words), sparse.csr_array((ones, (rows, columns)), shape))


def match(claim: str, known: Labels, fuzz: int = FUZZ) -> Match:
  """The leaves whose labels have words of the claim.

  Words match where rapidfuzz's ratio is at least `fuzz`: 100 · (1 − the insertions
  and deletions between them over their letters). At 100 they are the same, and the
  package is not needed.

  Raises:
    ValueError: `fuzz` is not 1 to 100; below 100 the package rapidfuzz is missing.
  """
  if not 1 <= fuzz <= 100:
    raise ValueError(f'fuzz={fuzz}: give 1 to 100, where 100 is the same word')
  names, given = words_lib.capitalised(claim), words_lib.content(claim)
  alike: Any = _alike(given, known.words, fuzz)
  hits = np.asarray((alike @ known.leaves).toarray() > 0)
  count = hits.sum(1)
  leaves = known.leaves.shape[1]
  weight = np.log(leaves / np.maximum(count, 1)) * (count > 0)
  weight *= [NAMES if word in names else 1.0 for word in given]
  order = [
    i for i in np.argsort(-weight, kind='stable') if count[i]
  ]  # a word of all leaves has weight 0, and stays
  order.sort(key=lambda i: given[i] not in names)
  return Match(tuple(given[i] for i in order), hits[order], weight @ hits)


def _alike(given, known, fuzz):
  """Sparse [words of the claim, V]: 1 where two words are alike."""
  if not given or not known:
    return sparse.csr_array((len(given), len(known)), dtype=np.float32)
  if fuzz == 100:
    number = {word: i for i, word in enumerate(known)}
    at = [(i, number[word]) for i, word in enumerate(given) if word in number]
    rows, columns = zip(*at, strict=True) if at else ((), ())
    ones = np.ones(len(at), np.float32)
    return sparse.csr_array((ones, (rows, columns)), (len(given), len(known)))
  try:
    from rapidfuzz import fuzz as ratios
    from rapidfuzz import process
  except ImportError:
    raise ValueError(
      'words that are alike are matched by the package rapidfuzz: pip install'
      ' "tda_jax[tracing]", or give fuzz=100 for words that are the same'
    ) from None
  ratio = process.cdist(
    given, known, scorer=ratios.ratio, score_cutoff=fuzz, dtype=np.float32
  )
  return sparse.csr_array((ratio > 0).astype(np.float32))
