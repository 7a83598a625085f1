import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tda_jax.data import lexical

TRAIN = [
  'The red tea, red TEA',
  'blue cup',
  'a red cup of tea for the cup',
  '?',
]
QUERIES = ['red tea', 'cup cup blue', 'water', 'x', 'the water']


def by_formula(k1, b):
  words = lambda text: [
    word for word in text.lower().replace(',', '').split() if len(word) > 1
  ]
  train = [words(text) for text in TRAIN]
  mean = np.mean([len(text) for text in train])
  scores = np.zeros((len(TRAIN), len(QUERIES)))
  for q, query in enumerate(QUERIES):
    for word in words(query):
      n = sum(word in text for text in train)
      weight = np.log(1 + (len(train) - n + 0.5) / (n + 0.5))
      for i, text in enumerate(train):
        f = text.count(word)
        long = k1 * (1 - b + b * len(text) / mean)
        scores[i, q] += weight * f / (f + long)
  return scores


@pytest.mark.parametrize('k1, b', [(lexical.K1, lexical.B), (0.9, 0.4)])
def test_bm25_is_its_formula(capfd, tmp_path, monkeypatch, k1, b):
  monkeypatch.chdir(tmp_path)
  got = lexical.bm25(TRAIN, QUERIES, k1=k1, b=b)
  assert got.dtype == np.float32
  assert_allclose(got, by_formula(k1, b), 1e-5, 1e-6)
  np.testing.assert_array_equal(got, lexical.bm25(TRAIN, QUERIES, k1=k1, b=b))
  assert capfd.readouterr() == ('', '') and not [*tmp_path.iterdir()]


def test_bm25_of_nothing(monkeypatch):
  for train, queries in (([], ['a']), (['?', ''], ['tea']), (['tea'], [])):
    with pytest.raises(ValueError, match='give at least one of each'):
      lexical.bm25(train, queries)
  monkeypatch.setitem(sys.modules, 'bm25s', None)
  with pytest.raises(ValueError, match=r'pip install "tda_jax\[lm\]"'):
    lexical.bm25(TRAIN, QUERIES)


def test_cosine():
  rng = np.random.default_rng(0)
  train, queries = rng.normal(size=(5, 3)), rng.normal(size=(2, 3))
  got = lexical.cosine(train, 7 * queries)
  want = [[x @ y / np.sqrt((x @ x) * (y @ y)) for y in queries] for x in train]
  assert_allclose(got, want, 1e-6)
  assert got.dtype == np.float32
  with pytest.raises(ValueError, match=r'shapes \(5, 3\) and \(2, 2\)'):
    lexical.cosine(train, queries[:, :2])
  for bad in (0, np.nan):
    train[3] = bad
    with pytest.raises(
      ValueError, match='query embedding 3 is zero or not fin'
    ):
      lexical.cosine(queries, train)
