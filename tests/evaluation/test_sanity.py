"""Cardinality by hand and at chance, its interval against new queries;
correlation with a model that learnt nothing."""

import numpy as np
import pytest
from scipy import stats

from tda_jax.evaluation import sanity


def test_cardinality_by_hand():
  scores = np.array([[9, 0, 5], [1, 7, 4], [2, 8, 3], [0, 1, 2]])
  assert sanity.top_k_cardinality(scores) == 2 / 3  # rows 0, 2, 0
  assert sanity.top_k_cardinality(scores, 2) == 3 / 6  # 0 2, 2 1, 0 1
  assert sanity.top_k_cardinality(np.eye(5)) == 1
  constant = np.ones((6, 4))
  assert sanity.top_k_cardinality(constant, 2) == 2 / 8  # the least


@pytest.mark.parametrize('k', [1, 5])
def test_cardinality_of_random_scores(k):
  found = [
    sanity.top_k_cardinality(
      np.random.default_rng(seed).normal(size=(200, 40)), k
    )
    for seed in range(20)
  ]
  chance = (1 - (1 - k / 200) ** 40) * 200 / (40 * k)
  assert np.mean(found) == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize('shared', [0.0, 0.5])
def test_interval_is_that_of_other_queries_or_a_little_wider(shared):
  """Queries of which some name one of few rows; `shared` of them row 0."""
  rows, queries = 200, 60
  popular = np.full(rows, (1 - shared) / rows)
  popular[0] += shared

  def world(seed):
    rng = np.random.default_rng(seed)
    return np.eye(rows)[rng.choice(rows, queries, p=popular)].T

  drawn = [sanity.top_k_cardinality(world(seed)) for seed in range(400)]
  found = [sanity.cardinality_interval(world(seed)) for seed in range(50)]
  widths = np.array([one.high - one.low for one in found])
  assert 1 < widths.mean() / (2 * 1.96 * np.std(drawn)) < 2
  inside = [one.low <= np.mean(drawn) <= one.high for one in found]
  assert np.mean(inside) > 0.9
  one = sanity.top_k_cardinality(world(0))
  assert found[0].value == one == pytest.approx(found[0].resampled.mean())


@pytest.mark.parametrize('kind', ['spearman', 'kendall'])
def test_randomisation(kind):
  rng = np.random.default_rng(0)
  scores, other = rng.normal(size=(2, 300, 50))
  np.testing.assert_allclose(
    sanity.randomisation(scores, np.exp(scores), kind), 1
  )
  np.testing.assert_allclose(sanity.randomisation(scores, -scores, kind), -1)
  found = sanity.randomisation(scores, other, kind)
  # sd 1/√300 each (Kendall's 2/3 of it), 1/√50 of that for the mean.
  assert found.shape == (50,) and abs(found.mean()) < 3 / 300**0.5 / 50**0.5
  correlation = {'spearman': stats.spearmanr, 'kendall': stats.kendalltau}[kind]
  expected = [correlation(scores[:, q], other[:, q])[0] for q in range(50)]
  np.testing.assert_allclose(found, expected)
  scores[:, 0], other[:, 1] = 0.1, 3
  zero = sanity.randomisation(scores, other, kind)
  assert (zero[:2] == 0).all() and np.isfinite(zero).all()


def test_bad_input():
  scores = np.zeros((4, 3))
  for k in (0, 4):
    with pytest.raises(ValueError, match='of 4 rows: give 1 to 3'):
      sanity.top_k_cardinality(scores, k)
  with pytest.raises(ValueError, match="kind='pearson'"):
    sanity.randomisation(scores, scores, 'pearson')
  with pytest.raises(ValueError, match='scores: 1 of 12 values are not finite'):
    sanity.top_k_cardinality(
      np.where(np.arange(12) == 5, np.nan, 0).reshape(4, 3)
    )
  with pytest.raises(ValueError, match='the same rows and queries'):
    sanity.randomisation(scores, scores[:, :2])
