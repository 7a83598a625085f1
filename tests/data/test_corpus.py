"""A corpus on the disk: equal to lists, whatever ends its making."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from killed import killed

from tda_jax import sources
from tda_jax.data import corpus as corpus_lib
from tda_jax.data import rows as rows_lib
from tda_jax.data import sequences, tokenizer
from tda_jax.storage import files, fingerprint

TEXTS = (
  *('abcdefghijk', 'hi', 'xyz', 'hi', '', 'vw', 'q', 'abc', '', 'xyz'),
  *('a longer text of several rows', 'hi', 'lmno', 'rs', 'äöü', 'tail'),
)
UNIQUE = tuple(dict.fromkeys(TEXTS))


def letters(text):
  return [ord(letter) for letter in text]


def spell(ids):
  return ''.join(map(chr, ids))


def noting():
  """(the texts tokenized so far, a tokenizer that adds to them)."""
  texts = []
  return texts, lambda text: texts.append(text) or letters(text)


def build(folder, given=TEXTS, tokenize=letters, length=4, **more):
  more = {'decode': spell, 'shard': 20, **more}
  return corpus_lib.build(given, tokenize, length, folder, **more)


def content(folder):
  """The bytes of all files that say what the corpus is."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name[0] != '.' and path.name != 'run.json'
  }


def same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize('packed', [False, True])
def test_rows_are_those_of_the_first_of_equal_texts(tmp_path, packed):
  found = build(tmp_path, packed=packed, begin=1, end=2, shard=10**6)
  texts = [text for text in UNIQUE if text]
  more = {'packed': packed, 'begin': 1, 'end': 2}
  same(corpus_lib.rows(found), sequences.from_texts(texts, letters, 4, **more))
  assert (found.documents, found.duplicates, found.short) == (16, 4, 1)
  assert found.tokens == sum(len(text) + 2 for text in texts)


def test_shards_change_no_row_of_one_document(tmp_path):
  found = build(tmp_path)
  assert len(found.ends) == 3
  texts = [text for text in UNIQUE if len(text) > 1]
  want = sequences.from_texts(texts, letters, 4)
  same(corpus_lib.rows(found), want)
  assert found.count == len(want['ids']) and found.short == 2
  assert (found.documents, found.duplicates) == (16, 4)


def test_a_source_gives_what_arrays_do(tmp_path, monkeypatch):
  found = build(tmp_path, packed=True)
  want = corpus_lib.rows(found)
  monkeypatch.setattr(sources, 'IN_MEMORY', 0)
  source = corpus_lib.rows(found)
  assert isinstance(source, sources.Source) and source.count == found.count
  assert fingerprint.digest(source) == fingerprint.digest(want)
  for index in (0, slice(3, 9), np.array([9, 0, 9, found.count - 1])):
    same(rows_lib.take(source, index), rows_lib.take(want, index))
  assert corpus_lib.rows(build(tmp_path, packed=True)) == source
  shutil.rmtree(tmp_path)  # of one shape, in the same folder
  other = corpus_lib.rows(build(tmp_path, TEXTS[:-1] + ('lait',), packed=True))
  assert (other.count, other.row) == (source.count, source.row)
  assert other != source
  last = rows_lib.take(other, source.count - 1)['targets']
  assert spell(last[:3]) == 'ait'


def test_targets_of_packed_rows_stay_within_a_document(tmp_path):
  found = build(tmp_path, length=16, packed=True, end=2)
  rows = corpus_lib.rows(found)
  several = 0
  for row in range(found.count):
    spans = corpus_lib.spans(found, row)
    several += len(spans) > 1
    for segment, span in enumerate(spans, 1):
      where = rows['segments'][row] == segment
      text = letters(TEXTS[span.document]) + [2]
      first = span.first - (span.first > 0)
      assert rows['ids'][row][where].tolist() == text[first : span.last - 1]
      assert rows['targets'][row][where].tolist() == text[first + 1 : span.last]
      assert rows['positions'][row][where].tolist() == [*range(where.sum())]
    padding = rows['segments'][row] == 0
    assert not any(column[row][padding].any() for column in rows.values())
  assert several > 2


def test_only_what_follows_a_prompt_counts(tmp_path):
  items = [{'q': 'ab', 'a': 'cd'}, {'q': 'x', 'a': 'y'}, {'q': 'ab', 'a': 'cd'}]
  file = tmp_path / 'pairs.jsonl'
  file.write_text('\n'.join(map(json.dumps, items)))
  found = build(tmp_path / 'c', file, field='a', prompt='q', end=2)
  want = sequences.from_pairs(['ab', 'x'], ['cd', 'y'], letters, 4, end=2)
  same(corpus_lib.rows(found), want)
  assert found.duplicates == 1
  assert [corpus_lib.passage(found, i) for i in (0, 1)] == ['abcd', 'xy']


@pytest.mark.parametrize('length', [1, 3, 4])
@pytest.mark.parametrize('edges', [{}, {'begin': 1, 'end': 2}])
def test_passages_are_the_texts(tmp_path, length, edges):
  trained = tokenizer.trained(['abc abc'], 258)  # bytes: letters of several
  texts = ['plain text', 'Zoë isst 🙂🙂 gern', '日本語', 'ab']
  found = build(tmp_path, texts, trained, length, decode=None, **edges)
  got = dict.fromkeys(range(4), '')
  for row in range(found.count):
    (span,) = corpus_lib.spans(found, row)
    got[span.document] += corpus_lib.passage(found, row)
  assert list(got.values()) == texts


def test_passages_of_a_packed_row_are_apart(tmp_path):
  found = build(tmp_path, ['abc', 'de', 'fghijkl'], length=4, packed=True)
  passages = [corpus_lib.passage(found, i) for i in range(found.count)]
  assert passages == ['abc\n\nde', 'fghij', 'kl']
  assert [*corpus_lib.spans(found, 0)] == [(0, 0, 3), (1, 0, 2)]
  assert [*corpus_lib.spans(found, 2)] == [(2, 5, 7)]
  with pytest.raises(ValueError, match='row 3 of 3: give 0 to 2'):
    corpus_lib.passage(found, 3)
  loaded = corpus_lib.load(tmp_path)
  assert loaded._replace(ends=0) == found._replace(decode=None, ends=0)
  with pytest.raises(ValueError, match='has no decoder: give build or load'):
    corpus_lib.passage(loaded, 0)
  loaded = corpus_lib.load(tmp_path, spell)
  assert corpus_lib.passage(loaded, 1) == 'fghij'


def test_a_build_goes_on_after_every_write(tmp_path, monkeypatch):
  build(tmp_path / 'whole')
  want, write = content(tmp_path / 'whole'), files.write
  for most in range(len(want) + 1):  # run.json is the first
    folder, writes = tmp_path / f'part{most}', []

    def some(path, data, by_all=False, writes=writes, most=most):
      if len(writes) == most:
        raise KeyboardInterrupt
      writes.append(path)
      write(path, data, by_all)

    monkeypatch.setattr(files, 'write', some)
    with pytest.raises(KeyboardInterrupt):
      build(folder)
    if folder.exists() and most:
      with pytest.raises(ValueError, match='is not whole: call build'):
        corpus_lib.load(folder)
    monkeypatch.setattr(files, 'write', write)
    tokenized, tokenize = noting()
    build(folder, tokenize=tokenize)
    assert content(folder) == want
    if most == len(want):  # all but corpus.json
      assert tokenized == [tokenizer.PROBE]


def test_a_finished_corpus_tokenizes_nothing_and_mends_what_is_damaged(
  tmp_path,
):
  build(tmp_path / 'whole')
  want = content(tmp_path / 'whole')
  tokenized, noted = noting()
  build(tmp_path / 'whole', tokenize=noted)
  assert tokenized == [tokenizer.PROBE]
  for damage in ('shards/1/tokens.npy', 'shards/2/pieces.npy', 'done/1.json'):
    for change in (lambda p: p.unlink(), lambda p: p.write_bytes(b'x')):
      folder = tmp_path / 'damaged'
      shutil.copytree(tmp_path / 'whole', folder)
      change(folder / damage)
      tokenized.clear()
      build(folder, tokenize=noted)
      assert content(folder) == want
      assert 0 < len(tokenized) - 1 < len(UNIQUE) / 2
      shutil.rmtree(folder)
  (tmp_path / 'whole' / 'corpus.json').write_bytes(b'{')
  with pytest.raises(ValueError, match='is damaged .* delete .*corpus.json'):
    build(tmp_path / 'whole')


def slow(folder):
  """A build that takes long; for a process of its own."""
  import time

  build(
    pathlib.Path(folder),
    tokenize=lambda text: time.sleep(0.05) or letters(text),
  )


def test_a_killed_build_goes_on(tmp_path):
  begun = (tmp_path / 'c' / 'done' / '1.json').exists
  killed(__file__, f't.slow({str(tmp_path / "c")!r})', begun)
  assert not (tmp_path / 'c' / 'corpus.json').exists()
  build(tmp_path / 'c')
  build(tmp_path / 'whole')
  assert content(tmp_path / 'c') == content(tmp_path / 'whole')


OTHERS = {
  'length is 4 there and 5 now.*give another folder': {'length': 5},
  'packed is false there and true now': {'packed': True},
  'the documents are others now': {'given': TEXTS[1:]},
  'tokenizer is .* there and .* now': {
    'tokenize': lambda text: [ord(letter) + 1 for letter in text]
  },
  'tokenizer is .* there and "letters" now': {'name': 'letters'},
  'field is "text" there and "body" now': {'field': 'body'},
  'begin is null there and 1 now': {'begin': 1},
  'end is null there and 1 now': {'end': 1},
  'shard is 20 there and 30 now': {'shard': 30},
  'split is "file" there and "line" now': {'split': 'line'},
}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp('made')
  build(folder)
  return folder


@pytest.mark.parametrize('words', OTHERS)
def test_another_corpus_in_the_folder_is_refused(made, words):
  before = content(made)
  with pytest.raises(ValueError, match=words):
    build(made, **OTHERS[words])
  assert content(made) == before


def test_a_folder_has_one_writer(made):
  with files.lock(made):
    with pytest.raises(ValueError, match='is in use by process'):
      build(made)


def test_documents_of_which_nothing_is_made(tmp_path):
  pairs = [
    {'q': 'ab', 'a': 'cd'},
    {'q': 'abc', 'a': ''},
    {'q': 'abc', 'a': 'def'},
  ]
  fields = {'field': 'a', 'prompt': 'q'}
  for number, (words, given, more) in enumerate((
    ('none of the 2 documents has two tokens', ['a', ''], {}),
    ('document 1 has the token id 122, outside of 0 to 121', ['a', 'z'],
     {'vocabulary': 122}),
    ('document 1 has an empty target', pairs[:2], fields),
    ('document 1 has 6 tokens, which take 5 positions of 4', pairs[::2], fields),
    ('length=0', ['ab'], {'length': 0}),
    ('there are no documents', [], {}),
  )):  # fmt: skip
    with pytest.raises(ValueError, match=words):
      build(tmp_path / str(number), given, **more)
  with pytest.raises(ValueError, match='there is no run.json in'):
    corpus_lib.load(tmp_path / 'none')


def test_tokens_take_two_bytes_where_they_fit(tmp_path):
  for name, text, kind in (('a', 'ab\uffff', '<u2'), ('b', 'a🙂', '<i4')):
    found = build(tmp_path / name, [text])
    tokens = np.load(tmp_path / name / 'shards' / '0' / 'tokens.npy')
    assert tokens.dtype == kind
    assert corpus_lib.passage(found, 0) == text


def test_memory_is_that_of_a_shard(tmp_path, monkeypatch):
  sizes = []
  next_ = corpus_lib._next

  def noted(read, size):
    some = next_(read, size)
    sizes.append(sum(len(document.text) for document in some))
    return some

  monkeypatch.setattr(corpus_lib, '_next', noted)
  build(tmp_path, [f'text {i:02}' for i in range(50)])
  assert max(sizes) < 20 + 8 and len(sizes) > 15
