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

END = tokenizer.END  # the id behind a text, of `tokenizer.trained`
GET = {  # a file of documents that a config names -> how to get it
  f'build/wikitext/wikitext-2-raw-v1/{part}-00000-of-00001.parquet': (
    'hf download --repo-type dataset Salesforce/wikitext'
    f' wikitext-2-raw-v1/{part}-00000-of-00001.parquet --local-dir build/wikitext'
  )
  for part in ('train', 'test')
}


class Words(NamedTuple):
  """What texts are cut into tokens by.

  Attributes:
    tokenizer: a `tokenizers.Tokenizer`.
    end: the id behind a text; None: there is none.
  """

  tokenizer: Any
  end: int | None = END


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


def read(data, words: Words | None = None) -> Texts:
  """The first `data.length` predictions of documents, one row each.

  Documents are those of `data.name`: 'reviews', or a file (.txt, .jsonl,
  .parquet), each kept once.

  Args:
    words: of the model; None: a tokenizer is trained on the training documents.

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
  words = words or Words(tokenizer.trained(train, data.vocabulary))
  rows = [encoded(of, words, data.length) for of in (train, queries)]
  return Texts(*rows, _shown(words, rows, index))


def chunks(data, words: Words) -> Texts:
  """Pieces of `data.length` predictions of documents one after another.

  As the tables for WikiText have them: without ends, each `data.length` + 1 tokens,
  the rest of a file dropped. `data.train` pieces are of the file `data.name` and
  `data.queries` of `data.test`, drawn by `data.seed`.

  Raises:
    ValueError: a file cannot be read or has too few pieces.
  """
  rows, index = [], []
  for field, of in (('train', 'name'), ('queries', 'test')):
    found = _pieces(_of_file(data[of], f'data.{of}'), words, data.length)
    if len(found) < data[field]:
      raise ValueError(
        f'data.{of}={data[of]!r} has {len(found)} pieces of {data.length + 1}'
        f' tokens, and data.{field} takes {data[field]}: give fewer'
      )
    (part,), (number,) = prepare.split({'x': found}, data.seed, data[field])
    ids = part['x']
    mask = np.ones((len(ids), data.length), np.float32)
    rows.append({'ids': ids[:, :-1], 'targets': ids[:, 1:], 'mask': mask})
    index.append(number)
  return Texts(*rows, _shown(words, rows, index))


def facts(data, words: Words | None = None) -> Texts:
  """Statements about countries, and questions of which it is known who answers.

  `data.train` statements, of which `data.paraphrases` state the same fact; of a
  question only the answer counts. `known` has 'supports', bool [N, Q]
  (`tda_jax.data.facts`).

  Args:
    words: of the model; None: a tokenizer is trained on the statements.

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
  words = words or Words(tokenizer.trained(found.sentences, data.vocabulary))
  train = encoded(found.sentences, words, data.length)
  queries = sequences.from_pairs(
    found.prompts, found.answers, words.tokenizer, data.length
  )
  shown = _shown(words, (train, queries))
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
  words = Words(tokenizer.trained(made.sentences, data.vocabulary))
  train, queries = (
    encoded(texts, words, data.length)
    for texts in (made.sentences, made.claims)
  )
  shown = {
    'train': np.array(made.sentences, object)[:, None],
    'queries': np.array(made.claims, object)[:, None],
    'columns': ('text',),
    'classes': None,
    'words': words,
  }
  known = {
    'supports': made.supports,
    'sentences': made.sentences,
    'claims': made.claims,
  }
  return Texts(train, queries, shown, known)


def encoded(texts: Sequence[str], words: Words, length: int) -> dict:
  """Rows of the first `length` predictions of each text, and its end.

  Raises:
    ValueError: a text has nothing to predict.
  """
  encode = sequences.encoder(words.tokenizer, length, end=words.end)
  found = [encode(None, each, f'text {i}') for i, each in enumerate(texts)]
  for each, one in zip(texts, found, strict=True):
    if len(one.ids) < 2:
      raise ValueError(
        f'the text {each!r} has {len(one.ids)} tokens, of which none can be'
        ' predicted: leave it out of the file'
      )
  short = [one._replace(ids=one.ids[: length + 1]) for one in found]
  return sequences.filled(short, length)


def decoded(rows: dict, words: Words) -> np.ndarray:
  """The words of each row, [N, 1]."""
  found = [said(tokens_of(rows, i), words) for i in range(len(rows['ids']))]
  return np.array(found, object)[:, None]


def said(ids: Sequence[int], words: Words) -> str:
  """What tokens say, without ends."""
  return words.tokenizer.decode([int(t) for t in ids if t != words.end])


def tokens_of(rows: dict, i: int) -> list[int]:
  """The ids of a row's text, of a question with its prompt."""
  end = 1 + int(np.flatnonzero(rows['mask'][i])[-1])
  return [int(rows['ids'][i][0]), *map(int, rows['targets'][i][:end])]


def _shown(words, rows, index=None):
  """`Task.shown` of (rows, queries), of which `index` are the numbers."""
  by_part = lambda values: dict(zip(('train', 'queries'), values, strict=True))
  shown = by_part([decoded(of, words) for of in rows])
  shown |= {'columns': ('text',), 'classes': None, 'words': words}
  return shown if index is None else shown | {'split': by_part(index)}


def _pieces(documents, words, length):
  """The tokens of all documents, in pieces [P, length + 1]."""
  encode = sequences.encoder(words.tokenizer, length)
  ids = [
    encode(None, one, f'document {i}').ids for i, one in enumerate(documents)
  ]
  ids = np.concatenate(ids)
  whole = len(ids) // (length + 1) * (length + 1)
  return ids[:whole].reshape(-1, length + 1)


def _documents(data):
  if data.name == 'reviews':
    return [*text.reviews()['x'], *text.reviews('test')['x']]
  return _of_file(data.name, 'data.name', "'reviews', or ")


def check_files(data) -> None:
  """Raises ValueError if a file that `chunks` reads is not there."""
  for field in ('name', 'test'):
    _path(data[field], f'data.{field}')


def _of_file(path, field, others=''):
  """The documents of a file, in its order."""
  path = _path(path, field, others)
  return [one.text for one in documents_lib.documents(path).read()]


def _path(path, field, others=''):
  if path and pathlib.Path(path).exists():
    return pathlib.Path(path)
  how = f'; get this one by: {GET[path]}' if path in GET else ''
  raise ValueError(
    f'{field}={path!r} is no file: give {others}a file of documents (.txt, .jsonl,'
    f' .parquet) as --config.{field}=FILE{how}'
  )
