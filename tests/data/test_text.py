import numpy as np
import pytest

from tda_jax.data import text


def rows(*texts):
  return {'x': np.array(texts, object), 'y': np.zeros(len(texts), np.int32)}


def test_tokens_are_of_the_training_words():
  train = rows('Good tea, good TEA; good cup.', 'tea')
  other = rows('good water', 'cup cup cup cup')
  got, more = text.tokens(train, other, length=3, vocabulary=4)
  good, tea = 2, 3  # as sorted; 'cup' is too rare for two words
  np.testing.assert_array_equal(got['x'], [[good, tea, good], [tea, 0, 0]])
  np.testing.assert_array_equal(more['x'], [[good, 1, 0], [1, 1, 1]])
  assert got['x'].dtype == np.int32 and more['y'] is other['y']


def test_bad_texts_and_sizes():
  with pytest.raises(ValueError, match='text 1 has no word'):
    text.tokens(rows('tea', '!'), length=3, vocabulary=4)
  with pytest.raises(ValueError, match='length=0 and vocabulary=4'):
    text.tokens(rows('tea'), length=0, vocabulary=4)
  with pytest.raises(ValueError, match="unknown part 'all'"):
    text.reviews('all')


def test_reviews():
  train, test = text.reviews(), text.reviews('test')
  assert (len(train['x']), len(test['x'])) == (4000, 1000)
  assert train['y'].sum() == 2600 and test['y'].sum() == 658
  assert train['y'].dtype == np.int32
  assert test['x'][0].startswith('These are the best tasting gummy fruits')
  coded, _ = text.tokens(train, test, length=40, vocabulary=1000)
  assert coded['x'].shape == (4000, 40) and coded['x'].max() == 999
  assert (coded['x'][:, 0] > 0).all()
