"""Rows of a stream of token ids, against loops and packed texts."""

import numpy as np
import pytest

from tda_jax import sources
from tda_jax.data import sequences, streams

END = 9
STREAM = np.array([1, 2, 3, END, 4, 5, END, 6, 7, 8, 1, END, 2], np.uint16)


def test_rows_follow_the_stream():
  rows = streams.rows(STREAM, 5)
  assert {*rows} == {'ids', 'targets', 'mask'}
  assert rows['ids'].shape == (3, 5)
  real = rows['mask'] > 0
  np.testing.assert_array_equal(rows['ids'][real], STREAM[:-1])
  np.testing.assert_array_equal(rows['targets'][real], STREAM[1:])
  assert real.tolist()[2] == [True, True, False, False, False]
  assert not rows['ids'][~real].any() and not rows['targets'][~real].any()


def test_documents_are_kept_apart():
  rows = streams.rows(STREAM, 5, end=END)
  for i, start in enumerate((0, 5, 10)):
    segment, position = 1, 0
    for j, t in enumerate(range(start, min(start + 5, len(STREAM) - 1))):
      now = {name: int(column[i, j]) for name, column in rows.items()}
      assert now == {
        'ids': STREAM[t],
        'targets': STREAM[t + 1],
        'mask': STREAM[t] != END,
        'segments': segment,
        'positions': position,
      }
      position += 1
      if STREAM[t] == END:
        segment, position = segment + 1, 0
  assert not rows['segments'][2, 2:].any() and rows['mask'].sum() == 9


def test_one_document_in_rows_is_that_of_sequences():
  text = sequences.from_texts(
    ['abcdefgh'], lambda x: [ord(c) - 96 for c in x], 3
  )
  rows = streams.rows(np.arange(1, 9), 3)
  for name, column in text.items():
    np.testing.assert_array_equal(rows[name], column)


def test_rows_without_a_token_to_predict_are_left_out(monkeypatch):
  monkeypatch.setattr(streams, 'CHUNK', 3)
  ids = np.array([1, 2, 3, 4, *[END] * 4, 1, 2, END, 5])
  rows = streams.rows(ids, 4, end=END)
  assert rows['mask'].sum(1).tolist() == [4, 2]
  np.testing.assert_array_equal(rows['ids'][1], [1, 2, END, 0])
  assert len(streams.rows(ids[:6], 4, end=END)['ids']) == 1


@pytest.mark.parametrize('end', [None, END])
def test_a_memory_map_is_read_as_the_array(tmp_path, monkeypatch, end):
  file = tmp_path / 'train.bin'
  STREAM.tofile(file)
  want = streams.rows(STREAM, 4, end=end)
  monkeypatch.setattr(sources, 'IN_MEMORY', 0)
  monkeypatch.setattr(streams, 'CHUNK', 5)
  source = streams.rows(np.memmap(file, np.uint16, 'r'), 4, end=end)
  assert isinstance(source, sources.Source)
  got = sources.take(source, np.array([2, 0]))
  for name, column in want.items():
    np.testing.assert_array_equal(got[name], column[[2, 0]])
  known = lambda *given, **of: streams.rows(*given, **of).known_by
  assert known(STREAM, 4, end=end) == known(STREAM.astype(int), 4, end=end)
  others = known(STREAM[:-1], 4, end=end), known(STREAM, 5, end=end)
  assert source.known_by not in others


@pytest.mark.parametrize(
  'given, message',
  [
    (([1, 2], 4), 'the stream is of type list: give token ids'),
    ((STREAM[None], 4), r'the stream is uint16 of shape \(1, 13\): give'),
    ((STREAM * 0.5, 4), 'the stream is float64 of shape'),
    ((STREAM[:1], 4), 'the stream has 1 tokens, of which none can'),
    ((STREAM, 0), 'length=0: give at least 1'),
    ((STREAM, 4.0), 'length=4.0: give a whole number'),
    ((STREAM, 4, '9'), "end='9': give a whole number"),
    (
      (STREAM, 4, 11),
      'end=11 is nowhere in the stream: give the id behind its',
    ),
    (([9, 9, 9], 2, 9), 'the stream is of type list'),
    ((np.array([9, 9, 9]), 2, 9), 'the stream has 3 tokens, of which none can'),
    ((STREAM, 4, None, 9), 'the stream has the token id 9, outside of 0 to 8'),
  ],
)
def test_other_streams_get_one_sentence(given, message):
  with pytest.raises(ValueError, match=message):
    named = dict(zip(('end', 'vocabulary'), given[2:], strict=False))
    streams.rows(*given[:2], **named)
