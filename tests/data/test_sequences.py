"""Rows of tokens, against lists made the long way."""

import numpy as np
import pytest

from tda_jax.data import sequences

TEXTS = ['abcdefg', 'hi', 'xyz', 'abc', 'klmnopqrstu', 'vw', 'wxyz', 'ij']
BEGIN, END = 1, 2


def letters(text):
  return [ord(letter) for letter in text]


def of_lists(rows, length):
  """Columns of padded lists."""
  return {
    name: np.array(
      [[*row[name], *[0] * (length - len(row[name]))] for row in rows]
    )
    for name in rows[0]
  }


def pieces(text, length):
  ids = [BEGIN, *letters(text), END]
  for at in range(0, len(ids) - 1, length):
    part = ids[at : at + length + 1]
    yield {'ids': part[:-1], 'targets': part[1:], 'mask': [1] * len(part[1:])}


def packed(texts, length):
  rows = []
  for piece in (piece for text in texts for piece in pieces(text, length)):
    count = len(piece['ids'])
    if not rows or len(rows[-1]['ids']) + count > length:
      rows.append({name: [] for name in (*piece, 'segments', 'positions')})
    row = rows[-1]
    for name, values in piece.items():
      row[name] += values
    row['segments'] += [max(row['segments'], default=0) + 1] * count
    row['positions'] += range(count)
  return rows


def same(rows, want):
  assert list(rows) == list(want)
  for name, column in rows.items():
    np.testing.assert_array_equal(column, want[name], name)
    assert column.dtype == (np.float32 if name == 'mask' else np.int32)


def test_texts_are_cut_into_rows():
  rows = sequences.from_texts(TEXTS, letters, 4, begin=BEGIN, end=END)
  same(rows, of_lists([p for text in TEXTS for p in pieces(text, 4)], 4))


def test_packed_rows_hold_several_texts_and_no_target_of_another():
  rows = sequences.from_texts(
    TEXTS, letters, 8, packed=True, begin=BEGIN, end=END
  )
  want = packed(TEXTS, 8)
  same(rows, of_lists(want, 8))
  assert rows['segments'].max() > 1 and len(want) < len(TEXTS)
  ends = (rows['targets'] == END) & (rows['mask'] > 0)
  assert ends.sum() == len(TEXTS) and not (rows['ids'] == END).any()
  assert not (rows['targets'] == BEGIN).any()


def test_of_pairs_only_the_target_counts():
  rows = sequences.from_pairs(['ab', 'x'], ['cd', 'y'], letters, 4, end=END)
  a, b, c, d, x, y = letters('abcdxy')
  want = {
    'ids': [[a, b, c, d], [x, y, 0, 0]],
    'targets': [[b, c, d, END], [y, END, 0, 0]],
    'mask': [[0, 1, 1, 1], [1, 1, 0, 0]],
  }
  same(rows, want)
  rows = sequences.from_pairs([''], ['c'], letters, 2, begin=BEGIN)
  np.testing.assert_array_equal(rows['ids'], [[BEGIN, 0]])
  np.testing.assert_array_equal(rows['mask'], [[1, 0]])


PAIRS = {
  'give at least one pair': ([], []),
  '2 prompts and 1 targets': (['a', 'b'], ['c']),
  r"pair 1 has an empty target \(''\): leave": (['a', 'a'], ['b', '']),
  'pair 0 has an empty prompt.*give begin=': ([''], ['b']),
  'pair 0 has 6 tokens.*5 positions of 4: give length=5': (['abc'], ['def']),
  'pair 1 has the token id 122, outside of 0 to 121': (['a', 'z'], ['b', 'c']),
}


@pytest.mark.parametrize('words', PAIRS)
def test_wrong_pairs(words):
  with pytest.raises(ValueError, match=words):
    sequences.from_pairs(*PAIRS[words], letters, 4, vocabulary=122)


def test_one_text_is_no_list_and_an_answer_no_contrast_to_itself():
  for given in (('abc', ['d']), (['a'], 'def')):
    with pytest.raises(ValueError, match='is one text: give a list'):
      sequences.from_pairs(*given, letters, 4)
  with pytest.raises(ValueError, match="pair 1 contrasts 'c' with itself"):
    sequences.contrasts(['a', 'a'], ['b', 'c'], ['c', 'c'], letters, 4)
  with pytest.raises(ValueError, match='text 1 is of type NoneType'):
    sequences.from_texts(['ab', None], letters, 4)


def test_wrong_texts():
  for words, texts, more in (
    ('texts has no document', [], {}),
    ('texts has no document', 'abc', {}),
    ('text 1 has 1 tokens', ['\2\3', '\2'], {}),
    ('text 0 has 0 tokens', [''], {'begin': 1, 'end': 2}),
    ('begin, end has the token id 9, outside of 0', ['ab'], {'end': 9}),
    ('text 0 has the token id 97', ['ab'], {}),
  ):
    with pytest.raises(ValueError, match=words):
      sequences.from_texts(texts, letters, 4, vocabulary=9, **more)
  with pytest.raises(ValueError, match='length=0: give at least 1'):
    sequences.from_texts(['ab'], letters, 0)
