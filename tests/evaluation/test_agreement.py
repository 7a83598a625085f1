"""Correlations per query against scipy, one column at a time."""

import numpy as np
import pytest
from scipy import stats

from tda_jax.evaluation import agreement


@pytest.mark.parametrize('name', ['pearson', 'spearman'])
def test_columns_are_scipys(name):
  rng = np.random.default_rng(0)
  a = rng.normal(size=(30, 7)).round(1)  # with ties
  b = (a + rng.normal(size=a.shape)).round(1) ** 3
  oracle = {'pearson': stats.pearsonr, 'spearman': stats.spearmanr}[name]
  expected = [oracle(a[:, q], b[:, q])[0] for q in range(7)]
  np.testing.assert_allclose(getattr(agreement, name)(a, b), expected, 1e-12)


@pytest.mark.parametrize('name', ['pearson', 'spearman'])
def test_constant_columns_correlate_zero(name):
  a = np.random.default_rng(0).normal(size=(30, 3))
  b = a.copy()
  b[:, 0] = 0.1  # its mean is not exactly 0.1 in floating point
  a[:, 1] = -7.3
  np.testing.assert_allclose(getattr(agreement, name)(a, b), [0, 0, 1])


def test_cosine_is_pearson_without_centring():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 30, 3)) + 1
  a[:, 1], b[:, 2] = 0, 2.0
  found = agreement.cosine(a, b)
  wanted = a[:, 0] @ b[:, 0] / np.linalg.norm(a[:, 0]) / np.linalg.norm(b[:, 0])
  flat = a[:, 2].sum() / np.linalg.norm(a[:, 2]) / 30**0.5
  np.testing.assert_allclose(found, [wanted, 0, flat], 1e-12)
  assert abs(found[0] - agreement.pearson(a, b)[0]) > 0.1


def test_pearson_ignores_large_offsets():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 50, 4))
  shifted = agreement.pearson(a + 1e8, b)
  np.testing.assert_allclose(shifted, agreement.pearson(a, b), atol=1e-6)


def test_bad_input_is_named():
  a = np.ones((5, 2))
  with pytest.raises(ValueError, match=r'shapes \(5, 2\) and \(5, 1\)'):
    agreement.pearson(a, a[:, :1])
  with pytest.raises(ValueError, match=r'shapes \(5, 2\) and \(5, 1\)'):
    agreement.cosine(a, a[:, :1])
  with pytest.raises(ValueError, match=r'shape is \(5,\)'):
    agreement.spearman(a[:, 0], a[:, 0])
  broken = a.copy()
  broken[3, 1] = np.nan
  with pytest.raises(ValueError, match='row 3, query 1 .* not done yet'):
    agreement.spearman(a, broken)
