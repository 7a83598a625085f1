"""Documents of every kind of file, and what a damaged one says."""

import json
import pathlib
import sys

import numpy as np
import pytest

from tda_jax.data import documents
from tda_jax.data.documents import Document

TXT = 'Eins zwei,\nälter.\n\n \nDrei\n\n'
ITEMS = [
  {'text': 'a b', 'ask': 'q?', 'n': 1},
  {'text': 'c\nd', 'ask': 'r?', 'n': 2},
]


def read(given, **more):
  return list(documents.documents(given, **more).read())


def plain(*texts):
  return [Document(None, text) for text in texts]


def jsonl(path, items=ITEMS):
  path.write_text(''.join(json.dumps(item) + '\n\n' for item in items))
  return path


def parquet(path, items=ITEMS):
  import pyarrow
  from pyarrow import parquet as library

  library.write_table(pyarrow.Table.from_pylist(items), path)
  return path


@pytest.mark.parametrize(
  'split, want',
  [
    ('file', [TXT]),
    ('paragraph', ['Eins zwei,\nälter.', 'Drei']),
    ('line', ['Eins zwei,', 'älter.', 'Drei']),
  ],
)
def test_text_files(tmp_path, split, want):
  file = tmp_path / 'a.txt'
  file.write_bytes(b'\xef\xbb\xbf' + TXT.replace('\n', '\r\n').encode())
  assert read(file, split=split) == plain(*want)
  assert read(str(file), split=split) == read([file], split=split)
  other = tmp_path / 'b.txt'
  other.write_text('Vier')
  assert read([other, file], split=split) == plain('Vier', *want)


def test_fields_of_files_datasets_and_lists(tmp_path):
  class Dataset:  # what `datasets.Dataset` has of it
    def __len__(self):
      return len(ITEMS)

    def __iter__(self):
      return iter(ITEMS)

    column_names = ['text', 'ask', 'n']

  for given in (
    jsonl(tmp_path / 'a.jsonl'),
    parquet(tmp_path / 'a.parquet'),
    ITEMS,
    Dataset(),
  ):
    assert read(given) == plain('a b', 'c\nd')
    assert read(given, prompt='ask') == [
      Document('q?', 'a b'),
      Document('r?', 'c\nd'),
    ]
    assert read(given, field='ask') == plain('q?', 'r?')
  assert read(np.array(['x', 'y'], object)) == plain('x', 'y')
  assert read(['x', {'text': 'y'}]) == plain('x', 'y')


def test_the_digest_is_of_the_documents(tmp_path):
  of = lambda given, **more: documents.documents(given, **more).digest()
  assert of(['a', 'b']) == of(('a', 'b')) != of(['b', 'a'])
  assert of(['a', 'b']) != of(['ab'])
  assert of(ITEMS) != of(ITEMS, prompt='ask')
  file = jsonl(tmp_path / 'a.jsonl')
  before = of(file)
  copy = tmp_path / 'b.jsonl'
  copy.write_bytes(file.read_bytes())
  assert of(copy) == before
  text = tmp_path / 'b.txt'
  text.write_bytes(file.read_bytes())
  assert of(text) != before
  jsonl(file, ITEMS[:1])
  assert of(file) != before
  one = lambda *document: documents.digest(Document(*document))
  assert one('a', 'b') != one('', 'ab') != one(None, 'ab')
  assert len(one(None, 'ab')) == 16


def test_what_is_given_wrongly(tmp_path):
  name = tmp_path / 'a.txt'
  name.write_text('a')
  (tmp_path / 'a.doc').write_text('a')
  for given, more, words in (
    ([], {}, 'there are no documents'),
    (iter(['a']), {}, 'iterator cannot be read more than once'),
    (3, {}, 'of type int cannot be read more than once'),
    ({'text': ['a']}, {}, 'in a dict are columns or parts'),
    ([str(name)], {}, 'is the name of a file: give files as pathlib.Path'),
    (tmp_path / 'b.txt', {}, 'b.txt is no file'),
    (tmp_path, {}, 'is no file'),
    (tmp_path / 'a.doc', {}, 'unknown kind: give files of .txt, .jsonl'),
    (name, {'split': 'word'}, "unknown split 'word'"),
    (name, {'prompt': 'ask'}, "a .txt file has no field 'ask'"),
    (
      ['a', 3],
      {},
      'document 1 is of type int: give texts or mappings with the',
    ),
    (['a'], {'prompt': 'ask'}, "mappings with the fields 'text', 'ask'"),
    ([{'x': 'a'}], {}, r"document 0 has no field 'text', only \['x'\]: name"),
    (['a\ud800'], {}, 'document 0 is no text .surrogates'),
  ):
    with pytest.raises(ValueError, match=words):
      read(given, **more)


FILES = {
  'line 2 of .*no JSON .*: write one object a line': (
    'a.jsonl', b'{"text": "a"}\n{"text": "b"',
  ),
  'line 1 of .*is no JSON object': ('a.jsonl', b'["text"]'),
  "line 1 of .*has no field 'text', only": ('a.jsonl', b'{"body": "a"}'),
  "field 'text' of line 1 of .*type NoneType: give text": (
    'a.jsonl', b'{"text": null}',
  ),
  'a.jsonl is not in UTF-8.*convert it': ('a.jsonl', b'{"text": "\xe4"}'),
  'a.txt is not in UTF-8.*convert it': ('a.txt', 'älter'.encode('latin1')),
  'a.parquet cannot be read.*repair or leave': ('a.parquet', b'PAR1 no PAR1'),
}  # fmt: skip


@pytest.mark.parametrize('words', FILES)
def test_damaged_files(tmp_path, words):
  name, data = FILES[words]
  (tmp_path / name).write_bytes(data)
  with pytest.raises(ValueError, match=words):
    read(tmp_path / name)


def test_damaged_columns_and_absent_files(tmp_path, monkeypatch):
  file = parquet(tmp_path / 'a.parquet', [{'n': 1}])
  with pytest.raises(ValueError, match="row 0 of .*no field 'text', only"):
    read(file)
  empty = [{'text': 'a'}, {'text': None}]
  with pytest.raises(ValueError, match="'text' of row 1 of .*type NoneType"):
    read(parquet(tmp_path / 'b.parquet', empty))
  found = documents.documents(file)
  file.unlink()
  for use in (found.digest, lambda: list(found.read())):
    with pytest.raises(ValueError, match='a.parquet cannot be read'):
      use()
  file = parquet(pathlib.Path(file))
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(ValueError, match=r'pip install "tda_jax\[data\]"'):
    read(file)
