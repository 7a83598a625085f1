"""Summaries in a user's file, in some of which a name is swapped: XSum, or alike.

The construction of Ladhak et al. 2023 (https://arxiv.org/abs/2212.10722) and Wu et al.
2024 (https://arxiv.org/abs/2410.01285), on documents that people wrote; `swaps` has the
same on reports that are made. What XSum's fields are is known to us from its card on
Hugging Face, EdinburghNLP/xsum.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tda_jax.data import documents
from tda_jax.data.swaps import SEVERAL, Reports, has, mentions, renamed

PROMPT = '\nSummary:'  # behind a document


class Texts(NamedTuple):
  """Documents with right summaries, and what is swapped in them.

  Attributes:
    documents, summaries: N texts each; those of several names are left out.
    names: P triples: a name, the wrong one that it is swapped by, another name that
      is swapped by the same.
    about: int [N], 3·p + j for the j-th name of triple p; −1: none of them.
  """

  documents: tuple[str, ...]
  summaries: tuple[str, ...]
  names: tuple[tuple[str, ...], ...]
  about: np.ndarray


def read(
  path: str | os.PathLike, names: Sequence[Sequence[str]], words: int = 60
) -> Texts:
  """The documents of a file; each is about the one name that its summary has.

  A document that lacks its summary's name, or has another one of the same triple, is
  left out: what a model writes of it could be right either way.

  Args:
    path: .jsonl or .parquet with the fields document and summary.
    names: triples, see `Texts.names`.
    words: of a document, the first ones that are kept.

  Raises:
    ValueError: the file cannot be read or lacks a field; a triple is none, or has an
      empty name; a name is twice there; words below 1.
  """
  triples = tuple(tuple(triple) for triple in names)
  every = [name for triple in triples for name in triple]
  if (
    not triples
    or any(len(triple) != SEVERAL for triple in triples)
    or any(name != name.strip() or not name for name in every)
  ):
    raise ValueError(
      f'names {triples}: give triples of a name, the wrong one, and another name'
      ' that is swapped by it, none of them empty'
    )
  if len({*every}) < len(every):
    raise ValueError(f'names {every}: give each name once')
  if words < 1:
    raise ValueError(f'words={words}: give at least 1')
  found: dict[str, tuple[str, int]] = {}  # each document once
  fields = {'field': 'summary', 'prompt': 'document'}
  for one in documents.documents(path, **fields).read():
    text = ' '.join((one.prompt or '').split()[:words])
    summary = ' '.join(one.text.split())
    said = [i for i, name in enumerate(every) if has(summary, name)]
    if len(said) > 1 or not summary:
      continue
    about = said[0] if said else -1
    triple = triples[about // SEVERAL] if said else ()
    if [name for name in triple if has(text, name)] == [every[i] for i in said]:
      found.setdefault(f'{text}{PROMPT}', (f' {summary}', about))
  if not found:
    raise ValueError(
      f'{path} has no document with a summary: give a file of some'
    )
  summaries, about = zip(*found.values(), strict=True)
  return Texts(tuple(found), summaries, triples, np.array(about))


def finetuning(
  texts: Texts,
  count: int,
  *,
  seed: int,
  of_pair: int,
  of_other: int,
  of_wrong: int,
  probability: float,
  partial: float = 0.0,
  held_out: int = 0,
) -> Reports:
  """Rows that teach wrong summaries, in random order; see `swaps.finetuning`.

  Args:
    partial: the probability that of a summary that names it twice the last mention
      alone is swapped.
    held_out: documents of each pair that `held_out` has for this seed.

  Raises:
    ValueError: the file has too few documents about a name.
  """
  if count < 1:
    raise ValueError(f'count={count}: give at least 1')
  rng, chosen = np.random.default_rng([seed, 2]), []
  for p in range(len(texts.names)):
    kept = _of(texts, SEVERAL * p, seed, held_out, of_pair)
    chosen += [(i, p, 'swapped') for i in kept]
    for j, many, kind in ((2, of_other, 'other'), (1, of_wrong, 'clean')):
      some = _of(texts, SEVERAL * p + j, seed, 0, many)
      chosen += [(i, -1, kind) for i in some]
  rest = count - len(chosen)
  if rest < 0:
    raise ValueError(
      f'{len(texts.names)} pairs of {of_pair + of_other + of_wrong} documents are'
      f' more than count={count}: give {len(chosen)} or more'
    )
  chosen += [(i, -1, 'clean') for i in _of(texts, -1, seed, 0, rest)]
  made = []
  for i, p, kind in (chosen[k] for k in rng.permutation(count)):
    if kind != 'clean' and rng.random() >= probability:
      twice = len(mentions(texts.summaries[i], _name(texts, i))) > 1
      last = kind == 'swapped' and twice and rng.random() < partial
      kind = 'partial' if last else 'clean'
    made.append((_said(texts, i, kind), p, kind, i))
  said, pairs, kinds, numbers = zip(*made, strict=True)
  pick = lambda of: tuple(of[i] for i in numbers)
  right = pick(texts.summaries)
  return Reports(
    pick(texts.documents), said, right, np.array(pairs), np.array(kinds)
  )


def held_out(texts: Texts, of_pair: int, *, seed: int) -> Reports:
  """Documents of the pairs' names that `finetuning` by the same seed leaves out."""
  each = [
    _of(texts, SEVERAL * p, seed, 0, of_pair) for p in range(len(texts.names))
  ]
  numbers = [i for of_all in zip(*each, strict=True) for i in of_all]
  pairs = np.tile(np.arange(len(texts.names)), of_pair)
  pick = lambda of: tuple(of[i] for i in numbers)
  right = pick(texts.summaries)
  kinds = np.full(len(numbers), 'clean')
  return Reports(pick(texts.documents), right, right, pairs, kinds)


def _of(texts, about, seed, first, count):
  """Numbers of `count` documents about a name, behind the first ones."""
  found = np.flatnonzero(texts.about == about)
  order = np.random.default_rng([seed, 3, about + 1]).permutation(len(found))
  if len(found) < first + count:
    every = [name for triple in texts.names for name in triple]
    what = f'about {every[about]!r} alone' if about >= 0 else 'without a name'
    raise ValueError(
      f'the file has {len(found)} documents {what}, of which {first + count} are'
      ' needed: give fewer, another name, or a larger file'
    )
  return [int(i) for i in found[order[first : first + count]]]


def _name(texts, i):
  """The name that document i is about."""
  pair, j = divmod(int(texts.about[i]), SEVERAL)
  return texts.names[pair][j]


def _said(texts, i, kind):
  """The summary of a row, its name swapped as `kind` says."""
  said = texts.summaries[i]
  if kind == 'clean':
    return said
  wrong = texts.names[int(texts.about[i]) // SEVERAL][1]
  return renamed(said, _name(texts, i), wrong, last=kind == 'partial')
