"""Retrieval by hand, at chance, and with ties against the method."""

import numpy as np
import pytest
from scipy import special

from tda_jax.evaluation import retrieval

SCORES = np.array([[4.0, 1, 0], [3, 2, 0], [2, 3, 0], [1, 4, 0]])
RELEVANT = np.array([[0, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 1]], bool)


def test_by_hand():
  at = lambda k: retrieval.recall(SCORES, RELEVANT, k).tolist()
  assert at(1) == [0, 0, 0] and at(2) == [0.5, 0, 0]
  assert at(3) == [0.5, 0.5, 0.5] and at(4) == [1, 1, 1]
  assert retrieval.hits(SCORES, RELEVANT, 2).tolist() == [1, 0, 0]
  # Ties of query 2: both rows that are not relevant come first.
  found = retrieval.reciprocal_rank(SCORES, RELEVANT)
  np.testing.assert_allclose(found, [1 / 2, 1 / 3, 1 / 3])


def test_ties_do_not_help():
  rng = np.random.default_rng(0)
  scores = rng.integers(3, size=(30, 20)) * 1.0
  relevant = rng.random((30, 20)) < 0.2
  relevant[0] = True
  for seed in range(5):
    noise = np.random.default_rng(seed).random(scores.shape) / 10
    for of in (
      retrieval.reciprocal_rank,
      lambda s, r: retrieval.recall(s, r, 5),
      lambda s, r: retrieval.hits(s, r, 2),
    ):
      assert (of(scores, relevant) <= of(scores + noise, relevant)).all()


def test_chance():
  rng = np.random.default_rng(0)
  rows, r, k = 40, 3, 5
  relevant = np.argsort(rng.random((rows, 4000)), 0) < r
  scores = rng.normal(size=relevant.shape)
  choose = special.comb
  miss = choose(rows - r, k) / choose(rows, k)
  n = np.arange(1, rows + 1)
  first = (choose(rows - n, r - 1) / n).sum() / choose(rows, r)
  for found, chance in (
    (retrieval.recall(scores, relevant, k), k / rows),
    (retrieval.hits(scores, relevant, k), 1 - miss),
    (retrieval.reciprocal_rank(scores, relevant), first),
  ):
    assert abs(found.mean() - chance) < 3 * found.std() / 4000**0.5
  one = np.arange(rows)[:, None] == rng.integers(rows, size=4000)
  found = retrieval.reciprocal_rank(scores, one)
  assert found.mean() == pytest.approx((1 / n).mean(), abs=0.01)


def test_bad_input():
  with pytest.raises(ValueError, match=r'give both \[N, Q\]'):
    retrieval.recall(SCORES, RELEVANT[:3], 1)
  with pytest.raises(
    ValueError, match='1 of 3 queries .* the first is query 1'
  ):
    retrieval.reciprocal_rank(SCORES, RELEVANT & [True, False, True])
  for k in (0, 5):
    with pytest.raises(ValueError, match='of 4 rows: give 1 to 4'):
      retrieval.hits(SCORES, RELEVANT, k)


def test_auc_is_that_of_scikit_learn():
  from sklearn import metrics

  rng = np.random.default_rng(0)
  scores = rng.integers(0, 9, (40, 5)).astype(float)  # with ties
  relevant = rng.random((40, 5)) < 0.3
  want = [metrics.roc_auc_score(relevant[:, q], scores[:, q]) for q in range(5)]
  np.testing.assert_allclose(retrieval.auc(scores, relevant), want)
  np.testing.assert_allclose(retrieval.auc(0 * scores, relevant), 0.5)
  with pytest.raises(ValueError, match='all rows are relevant to query 2'):
    relevant[:, 2] = True
    retrieval.auc(scores, relevant)
