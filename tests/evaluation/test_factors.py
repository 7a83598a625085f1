"""Products of factors that an ensemble averages apart."""

import numpy as np
import pytest

from tda_jax.evaluation import factors, lds, significance


def two(models=5, rows=30, queries=4, seed=0):
  """Kernels and slopes that go together, as those of one model do."""
  rng = np.random.default_rng(seed)
  slopes = rng.uniform(0.2, 1.0, size=(models, rows, 1))
  noise = rng.normal(size=(models, rows, queries))
  return 1.0 + 3.0 * slopes + 0.5 * noise, slopes


def test_means_are_multiplied():
  kernels, slopes = two()
  whole = kernels.mean(0) * slopes.mean(0)
  np.testing.assert_allclose(factors.together((kernels, slopes)), whole)
  np.testing.assert_allclose(
    factors.per_model((kernels, slopes))[3], kernels[3] * slopes[3]
  )
  shares = factors.shares((kernels, slopes))
  np.testing.assert_allclose(shares.mean(0), whole)


def test_one_factor_is_the_scores():
  kernels, _ = two()
  assert factors.per_model((kernels,)) is kernels
  assert factors.shares((kernels,)) is kernels
  np.testing.assert_allclose(factors.together((kernels,)), kernels.mean(0))


def test_own_rows_by_hand():
  kernels, slopes = two(models=3, rows=4)
  subsets = np.array([[0, 1], [1, 2], [2, 3]])
  got = factors.of_own_rows((kernels, slopes), subsets)
  means = [f[[0, 1], 1].mean(0) for f in (kernels, slopes)]
  np.testing.assert_allclose(got[1], means[0] * means[1])
  np.testing.assert_allclose(got[3], kernels[2, 3] * slopes[2, 3])
  everything = np.tile(np.arange(4), (3, 1))
  np.testing.assert_allclose(
    factors.of_own_rows((kernels,), everything), factors.together((kernels,))
  )
  for chosen, words in (
    (subsets[:2], 'for 3 models: give the rows'),
    (subsets[:, :1], '1 rows are in no subset of the 3 models.*is row 3'),
    (
      subsets + 1,
      'subsets name rows 1 to 4, and there are scores of rows 0 to 3',
    ),
  ):
    with pytest.raises(ValueError, match=words):
      factors.of_own_rows((kernels,), chosen)


def test_shares_have_the_standard_error_of_the_ensemble():
  draws = [two(models=40, seed=seed) for seed in range(300)]
  spread = np.std([factors.together(f) for f in draws], axis=0)
  told = [
    significance.uncertainty(factors.shares(f)).standard_error for f in draws
  ]
  ratio = np.mean(told, 0) / spread  # of 120 pairs, 4% each
  np.testing.assert_allclose(ratio.mean(), 1, atol=0.03)


def test_what_are_no_factors_is_refused():
  kernels, _ = two()
  for given in (kernels, (kernels[0],), ()):
    with pytest.raises(ValueError, match='give a tuple of arrays'):
      factors.together(given)


def test_lds_by_size_is_of_the_factors_means():
  kernels, slopes = two()
  rng = np.random.default_rng(1)
  subsets = np.argsort(rng.random((20, 30)), axis=1)[:, :15]
  outcomes = rng.normal(size=(20, 4))
  (one, five) = lds.by_size(
    (kernels, slopes), outcomes, subsets, [1, 5], resamples=2
  )
  of = lambda scores: lds.lds(scores, outcomes, subsets).mean()
  alone = factors.per_model((kernels, slopes))
  np.testing.assert_allclose(one.value, np.mean([of(s) for s in alone]))
  assert five.value == of(kernels.mean(0) * slopes.mean(0)) != of(alone.mean(0))
