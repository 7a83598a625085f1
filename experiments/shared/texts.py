"""Texts as rows of tokens: a config's section `data` -> rows and their words."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tda_jax.data import claims as claims_lib
from tda_jax.data import documents as documents_lib
from tda_jax.data import evidence as evidence_lib
from tda_jax.data import facts as facts_lib
from tda_jax.data import prepare, sequences, text, tokenizer

END = 1  # the id behind a text, of `tokenizer.trained`


class Texts(NamedTuple):
  """Rows of tokens, and what they say.

  Attributes:
    train, queries: columns ids, targets, mask [N, T].
    shown, known: see `experiments.shared.tasks.Task`.
  """

  train: dict
  queries: dict
  shown: dict
  known: dict | None = None


def read(data) -> Texts:
  """The first `data.length` predictions of documents, one row each.

  Documents are those of `data.name`: 'reviews', or a file (.txt, .jsonl,
  .parquet), each kept once. The tokenizer is trained on the training documents.

  Raises:
    ValueError: the file cannot be read or has too few documents.
  """
  found = np.array(list(dict.fromkeys(_documents(data))), object)
  most = data.train + data.queries
  if len(found) < most:
    raise ValueError(
      f'{data.name} has {len(found)} different documents, and data.train and'
      f' data.queries take {most}: give fewer'
    )
  parts, index = prepare.split(
    {'x': found}, data.seed, data.train, data.queries
  )
  train, queries = (list(part['x']) for part in parts)
  made = tokenizer.trained(train, data.vocabulary)
  rows = [encoded(texts, made, data.length) for texts in (train, queries)]
  parts = ('train', 'queries')
  by_part = lambda values: dict(zip(parts, values, strict=True))
  shown = by_part([decoded(of, made) for of in rows])
  shown |= {'columns': ('text',), 'classes': None, 'split': by_part(index)}
  shown |= {'tokenizer': made}
  return Texts(*rows, shown)


def facts(data) -> Texts:
  """Statements about countries, and questions of which it is known who answers.

  `data.train` statements, of which `data.paraphrases` state the same fact; of a
  question only the answer counts. `known` has 'supports', bool [N, Q]
  (`tda_jax.data.facts`).

  Raises:
    ValueError: statements that do not share out; what `tda_jax.data.facts` says.
  """
  count, rest = divmod(data.train, data.paraphrases)
  if rest:
    raise ValueError(
      f'data.train={data.train} statements are no multiple of'
      f' data.paraphrases={data.paraphrases}: give {data.train - rest}'
    )
  found = facts_lib.facts(
    count,
    seed=data.seed,
    paraphrases=data.paraphrases,
    queries=data.queries,
  )
  made = tokenizer.trained(found.sentences, data.vocabulary)
  train = encoded(found.sentences, made, data.length)
  queries = sequences.from_pairs(
    found.prompts, found.answers, made, data.length
  )
  words = decoded(train, made), decoded(queries, made)
  shown = dict(zip(('train', 'queries'), words, strict=True))
  shown |= {'columns': ('text',), 'classes': None, 'tokenizer': made}
  return Texts(train, queries, shown, {'supports': facts_lib.truth(found)})


def claims(data) -> Texts:
  """A corpus of sentences, and claims of which it is known what supports them.

  `data.name` is 'claims' (`tda_jax.data.claims`, about one half of the countries);
  or 'vitaminc' or 'ftrace' of the file `data.path`, of which ftrace has its queries
  in `data.claims`. `known` has 'supports', bool [N, Q], 'sentences' and 'claims'.

  Raises:
    ValueError: what the readers say.
  """
  if data.name == 'claims':
    ours, _ = claims_lib.parted(data.seed)
    made = claims_lib.corpus(
      data.train, data.queries, seed=data.seed, of_claims=ours
    )
  else:
    sizes = {'sentences': data.train, 'queries': data.queries}
    sizes['seed'] = data.seed
    if data.name == 'vitaminc':
      made = evidence_lib.vitaminc(data.path, **sizes)
    else:
      made = evidence_lib.ftrace(data.path, data.claims, **sizes)
  tokenize = tokenizer.trained(made.sentences, data.vocabulary)
  train, queries = (
    encoded(texts, tokenize, data.length)
    for texts in (made.sentences, made.claims)
  )
  shown = {
    'train': np.array(made.sentences, object)[:, None],
    'queries': np.array(made.claims, object)[:, None],
    'columns': ('text',),
    'classes': None,
    'tokenizer': tokenize,
  }
  known = {
    'supports': made.supports,
    'sentences': made.sentences,
    'claims': made.claims,
  }
  return Texts(train, queries, shown, known)


def encoded(texts: Sequence[str], tokenize: Any, length: int) -> dict:
  """Rows of the first `length` predictions of each text, and its end."""
  encode = sequences.encoder(tokenize, length, end=END)
  found = [encode(None, words, f'text {i}') for i, words in enumerate(texts)]
  short = [one._replace(ids=one.ids[: length + 1]) for one in found]
  return sequences.filled(short, length)


def decoded(rows: dict, tokenize: Any) -> np.ndarray:
  """The words of each row, [N, 1]."""
  words = [
    tokenize.decode([t for t in tokens_of(rows, i) if t != END])
    for i in range(len(rows['ids']))
  ]
  return np.array(words, object)[:, None]


def tokens_of(rows: dict, i: int) -> list[int]:
  """The ids of a row's text, of a question with its prompt."""
  end = 1 + int(np.flatnonzero(rows['mask'][i])[-1])
  return [int(rows['ids'][i][0]), *map(int, rows['targets'][i][:end])]


def _documents(data):
  if data.name == 'reviews':
    return [*text.reviews()['x'], *text.reviews('test')['x']]
  path = pathlib.Path(data.name)
  if not path.exists():
    raise ValueError(
      f"data.name={data.name!r} is no file: give 'reviews', or a file of documents"
      ' (.txt, .jsonl, .parquet)'
    )
  return [one.text for one in documents_lib.documents(path).read()]
