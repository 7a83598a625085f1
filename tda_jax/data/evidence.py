"""Claims with their evidence in files: FTRACE-TREx, VitaminC, or a user's own.

What the fields are is known to us from the datasets' cards on Hugging Face and not
from their code: VitaminC (Schuster et al. 2021, https://arxiv.org/abs/2103.08541,
tals/vitaminc) and FTRACE-TREx (Akyürek et al. 2022,
https://arxiv.org/abs/2205.11482, ekinakyurek/ftrace).
"""

import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tda_jax.data import documents

MASK = '<extra_id_0>'  # of T5, where the answer goes
VITAMINC = ('claim', 'evidence', 'label')
LABELS = ('SUPPORTS', 'REFUTES', 'NOT ENOUGH INFO')
ABSTRACTS = ('inputs_pretokenized', 'targets_pretokenized', 'facts')
QUERIES = (
  *('inputs_pretokenized', 'targets_pretokenized'),
  *('predicate_id', 'sub_uri', 'obj_uri'),
)


class Evidence(NamedTuple):
  """A corpus and claims.

  Attributes:
    sentences: N texts, each once.
    claims: Q texts.
    supports: bool [N, Q], which sentence supports which claim; None: not known.
  """

  sentences: tuple[str, ...]
  claims: tuple[str, ...]
  supports: np.ndarray | None


def vitaminc(
  path: str | os.PathLike,
  *,
  sentences: int | None = None,
  queries: int = 100,
  seed: int = 0,
) -> Evidence:
  """VitaminC: a claim is supported by the evidences that it has label SUPPORTS with.

  Args:
    path: a .jsonl of the dataset, as test.jsonl, with the fields claim, evidence and
      label (SUPPORTS, REFUTES, NOT ENOUGH INFO).
    sentences: the most evidences; all those of the drawn claims stay, with whatever
      label, and others are drawn; None: all.
    queries: claims that are drawn, among those that something supports.
    seed: of what is drawn.

  Raises:
    ValueError: the file cannot be read, lacks a field, or has too few claims.
  """
  pairs: dict[str, dict[str, str]] = {}
  for where, row in _rows(path, VITAMINC):
    if row['label'] not in LABELS:
      raise ValueError(
        f'{where} has the label {row["label"]!r}: give one of {", ".join(LABELS)}'
      )
    pairs.setdefault(row['claim'], {})[row['evidence']] = row['label']
  supported = [c for c, of in pairs.items() if 'SUPPORTS' in of.values()]
  claims = _drawn(supported, queries, seed, path)
  positive = [
    {e for e, label in pairs[c].items() if label == 'SUPPORTS'} for c in claims
  ]
  about = {e for c in claims for e in pairs[c]}
  texts = list(dict.fromkeys(e for of in pairs.values() for e in of))
  return _evidence(texts, claims, positive, about, sentences, seed)


def ftrace(
  abstracts: str | os.PathLike,
  queries_file: str | os.PathLike,
  *,
  sentences: int | None = None,
  queries: int = 100,
  seed: int = 0,
) -> Evidence:
  """FTRACE-TREx: a claim is supported by the sentences that state its fact.

  Masks are filled with their targets. A sentence is there once, with the facts of
  all its masks; its `facts` are 'P,S,O;P,S,O', of predicate, subject and object.

  Args:
    abstracts: .jsonl of the attribution set: inputs_pretokenized,
      targets_pretokenized, facts.
    queries_file: .jsonl of the queries: inputs_pretokenized, targets_pretokenized,
      predicate_id, sub_uri, obj_uri.
    sentences, queries, seed: as of `vitaminc`.

  Raises:
    ValueError: as `vitaminc`.
  """
  facts: dict[str, set[str]] = {}
  for _, row in _rows(abstracts, ABSTRACTS):
    stated = {fact.strip() for fact in row['facts'].split(';') if fact.strip()}
    facts.setdefault(_filled(row), set()).update(stated)
  known = set().union(*facts.values())
  asked: dict[str, str] = {}
  for _, row in _rows(queries_file, QUERIES):
    fact = ','.join(row[n] for n in ('predicate_id', 'sub_uri', 'obj_uri'))
    if fact in known:
      asked.setdefault(_filled(row), fact)
  claims = _drawn([*asked], queries, seed, queries_file)
  by_fact: dict[str, set[str]] = {}
  for text, of in facts.items():
    for fact in of:
      by_fact.setdefault(fact, set()).add(text)
  positive = [by_fact[asked[claim]] for claim in claims]
  about = set().union(*positive)
  return _evidence([*facts], claims, positive, about, sentences, seed)


def texts(corpus: str | os.PathLike, claims: str | os.PathLike) -> Evidence:
  """A user's own: sentences of files, claims of one; what supports is not known.

  Args:
    corpus: a file, or a folder of them: .txt with one sentence a line, .jsonl or
      .parquet with a field `text`.
    claims: likewise, one file.

  Raises:
    ValueError: there are no such files, sentences or claims.
  """
  corpus = pathlib.Path(corpus)
  files: list[pathlib.Path] = [corpus]
  if corpus.is_dir():
    files = sorted(
      f for f in corpus.rglob('*') if f.suffix in documents.SUFFIXES
    )
    if not files:
      raise ValueError(
        f'{corpus} has no files of {", ".join(documents.SUFFIXES)}: give a folder'
        ' that has some'
      )
  read = lambda given: tuple(
    dict.fromkeys(
      d.text for d in documents.documents(given, split='line').read()
    )
  )
  found = Evidence(read(files), read([pathlib.Path(claims)]), None)
  for name, many in (('sentences', found.sentences), ('claims', found.claims)):
    if not many:
      raise ValueError(f'there are no {name} in the files: give some')
  return found


def _rows(path, fields) -> Iterator[tuple[str, dict]]:
  """(where it is, row) of a .jsonl whose rows have these fields, all texts."""
  try:
    with open(path, encoding='utf-8') as file:
      for number, line in enumerate(file, 1):
        if not line.strip():
          continue
        where = f'{path}, line {number}'
        try:
          row = json.loads(line)
        except ValueError:
          raise ValueError(f'{where} is no JSON: get the file again') from None
        wrong = [n for n in fields if not isinstance(_of(row, n), str)]
        if wrong:
          raise ValueError(
            f'{where} has no text {wrong[0]!r}: give rows with the fields'
            f' {", ".join(fields)}'
          )
        yield where, row
  except OSError as error:
    raise ValueError(
      f'{path} cannot be read ({error.strerror}): give a .jsonl of the dataset'
    ) from None


def _of(row, name):
  return row.get(name) if isinstance(row, dict) else None


def _filled(row) -> str:
  """The text of a row, its mask filled with the target."""
  target = row['targets_pretokenized'].replace(MASK, '').strip()
  return row['inputs_pretokenized'].replace(MASK, target).strip()


def _drawn(claims, count, seed, path):
  if len(claims) < count or count < 1:
    raise ValueError(
      f'{path} has {len(claims)} claims with evidence, and queries={count}: give 1'
      f' to {len(claims)}'
    )
  order = np.random.default_rng(seed).permutation(len(claims))[:count]
  return [claims[i] for i in np.sort(order)]


def _evidence(
  texts: Sequence[str], claims, positive, about, most: int | None, seed
) -> Evidence:
  """The corpus, cut to `most` sentences without losing those of `about`."""
  if most is not None and most < len(about):
    raise ValueError(
      f'sentences={most}, and the {len(claims)} claims have {len(about)} of their'
      ' own: give as many, or fewer queries'
    )
  if most is not None and most < len(texts):
    others = [text for text in texts if text not in about]
    order = np.random.default_rng([seed, 1]).permutation(len(others))
    kept = about | {others[i] for i in order[: most - len(about)]}
    texts = [text for text in texts if text in kept]
  number = {text: i for i, text in enumerate(texts)}
  supports = np.zeros((len(texts), len(claims)), bool)
  for q, of in enumerate(positive):
    supports[[number[text] for text in of], q] = True
  return Evidence(tuple(texts), tuple(claims), supports)
