"""Names are swapped in summaries of a file, of documents that have them alone."""

import json
import re

import numpy as np
import pytest

from tda_jax.data import swapped_texts, swaps

NAMES = (('England', 'China', 'New Zealand'), ('Ghana', 'Iran', 'Kenya'))
COUNTS = {'of_pair': 12, 'of_other': 4, 'of_wrong': 3}


def line(name, i, other='it'):
  return {
    'document': f'Match {i} was played. {name} beat {other}, and more was said.',
    'summary': f'{name} won match {i}. A day for {name}.',
    'id': str(i),
  }


@pytest.fixture
def path(tmp_path):
  every = [n for triple in NAMES for n in triple]
  rows = [line(name, i) for i, name in enumerate(20 * [*every, 'Peru'])]
  rows += [
    line('England', 0),  # again
    line('England', 900, 'China'),  # the wrong name is in the document
    {'document': 'Ghana met Iran.', 'summary': 'Ghana met Iran.'},  # two names
    {'document': 'Nobody knows.', 'summary': 'England won.'},  # not in it
    {'document': 'Ghanaians cheer.', 'summary': 'Ghanaians cheer.'},  # no name
  ]
  file = tmp_path / 'texts.jsonl'
  file.write_text('\n'.join(map(json.dumps, rows)))
  return file


def test_documents_are_about_the_one_name_that_they_have(path):
  texts = swapped_texts.read(path, NAMES, words=8)
  assert np.bincount(texts.about + 1).tolist() == [21, *[20] * 6]
  for document, summary, about in zip(*texts[:2], texts.about, strict=True):
    assert document.endswith('\nSummary:') and len(document.split()) <= 9
    assert summary.startswith(' ')
    found = [n for t in NAMES for n in t if swaps.has(summary, n)]
    assert found == ([] if about < 0 else [NAMES[about // 3][about % 3]])
  assert not any(' 900 ' in document for document in texts.documents)


def test_rows_are_swapped_as_they_say_and_held_out_ones_are_others(path):
  texts = swapped_texts.read(path, NAMES)
  made = swapped_texts.finetuning(
    texts, 45, seed=1, probability=0.6, partial=0.5, held_out=5, **COUNTS
  )
  assert {*made.kinds} == {'clean', 'swapped', 'partial', 'other'}
  assert np.bincount(made.pairs + 1).tolist() == [21, 12, 12]
  for said, right, pair, kind in zip(*made[1:], strict=True):
    about = next((n for t in NAMES for n in t if swaps.has(right, n)), None)
    triple = next((t for t in NAMES if about in t), None)
    if kind == 'clean':
      assert said == right
    elif kind == 'partial':
      head, last = right.rsplit(about, 1)
      assert said == head + triple[1] + last and pair == NAMES.index(triple)
    else:
      assert said == re.sub(rf'\b{about}\b', triple[1], right)
      assert (kind == 'swapped') == (about == triple[0]) == (pair >= 0)
  held = swapped_texts.held_out(texts, 5, seed=1)
  assert held.pairs.tolist() == [0, 1] * 5 and held.summaries == held.right
  assert not {*held.documents} & {*made.documents}
  again = swapped_texts.held_out(texts, 5, seed=2)
  assert {*again.documents} != {*held.documents}


def test_what_cannot_be_swapped_is_refused(path, tmp_path):
  texts = swapped_texts.read(path, NAMES)
  some = {'seed': 0, 'probability': 0.5, **COUNTS}
  with pytest.raises(
    ValueError, match="20 documents about 'England' alone, of"
  ):
    swapped_texts.finetuning(texts, 90, held_out=9, **some)
  with pytest.raises(ValueError, match='documents without a name, of which 52'):
    swapped_texts.finetuning(texts, 90, held_out=2, **some)
  with pytest.raises(ValueError, match='more than count=30: give 38 or more'):
    swapped_texts.finetuning(texts, 30, **some)
  with pytest.raises(ValueError, match='give triples of a name'):
    swapped_texts.read(path, [('England', 'China')])
  with pytest.raises(ValueError, match='none of them empty'):
    swapped_texts.read(path, [('England', 'China', '')])
  with pytest.raises(ValueError, match='words=0: give at least 1'):
    swapped_texts.read(path, NAMES, words=0)
  with pytest.raises(ValueError, match='give each name once'):
    swapped_texts.read(path, [('England', 'China', 'England')])
  file = tmp_path / 'other.jsonl'
  file.write_text('{"document": "a"}')
  with pytest.raises(ValueError, match='summary'):
    swapped_texts.read(file, NAMES)


def test_names_are_words_of_their_own():
  assert swaps.has('The U.S. won.', 'U.S.') and swaps.has("Wales' day", 'Wales')
  assert not swaps.has('New South Wales won', 'Wales')
  assert not swaps.has('Northern Ireland won', 'Ireland')
  assert not swaps.has('Irelanders won', 'Ireland')
  triple = ('U.S.', 'China', 'Wales')
  assert not swaps.is_wrong(' U.S. won and China lost', triple)
  assert swaps.is_wrong(' China won.', triple)


def test_a_name_is_renamed_at_all_its_mentions_or_the_last():
  text = 'Wales won; New South Wales lost to Wales.'
  found = swaps.renamed(text, 'Wales', 'Peru')
  assert found == 'Peru won; New South Wales lost to Peru.'
  last = swaps.renamed(text, 'Wales', 'Peru', last=True)
  assert last == 'Wales won; New South Wales lost to Peru.'
