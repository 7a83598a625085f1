"""Against scipy, pair by pair; under H0, p-values are uniform."""

import numpy as np
import pytest
from scipy import stats

from tda_jax.evaluation import significance

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(6, 5, 4)) + RNG.normal(size=(5, 4))


def test_student_is_scipys():
  found = significance.uncertainty(SCORES)
  want = stats.ttest_1samp(SCORES, 0.0, axis=0)
  np.testing.assert_allclose(found.p, want.pvalue, rtol=1e-9)
  np.testing.assert_allclose(found.mean, SCORES.mean(0), rtol=1e-12)
  np.testing.assert_allclose(found.deviation, SCORES.std(0, ddof=1))
  np.testing.assert_allclose(
    found.standard_error, stats.sem(SCORES, axis=0), rtol=1e-9
  )


def test_deviations_are_the_papers_code():
  found = significance.uncertainty(SCORES, test='deviations')
  z = SCORES.mean(0) / SCORES.std(0, ddof=1)
  np.testing.assert_allclose(found.p, 2 * stats.norm.cdf(-np.abs(z)))
  # Without √S: more models do not make it more certain.
  twice = np.concatenate([SCORES, SCORES])
  again = significance.uncertainty(twice, test='deviations')
  assert np.abs(found.p - again.p).max() < 0.05
  student = significance.uncertainty(twice).p
  assert (student < significance.uncertainty(SCORES).p).all()


@pytest.mark.parametrize('test', significance.TESTS)
def test_models_that_agree(test):
  same = np.full((4, 1, 3), [0.1, 0.0, -0.3])  # whose mean is not exactly .1
  found = significance.uncertainty(same, test=test)
  np.testing.assert_array_equal(found.deviation, 0)
  np.testing.assert_array_equal(found.p, [[0, 1, 0]])
  np.testing.assert_array_equal(found.significant, [[True, False, True]])


def test_null_scores_have_uniform_p():
  null = RNG.normal(size=(5, 200, 50))
  p = significance.uncertainty(null).p
  assert stats.kstest(p.ravel(), 'uniform').statistic < 0.02
  wrong = significance.uncertainty(null, test='deviations').p
  assert stats.kstest(wrong.ravel(), 'uniform').statistic > 0.1


def test_discoveries_keep_their_rate():
  effect = np.where(RNG.uniform(size=(100, 100)) < 0.2, 3.0, 0.0)
  found = significance.uncertainty(effect + RNG.normal(size=(8, 100, 100)))
  false = (effect[found.significant] == 0).mean()
  assert found.significant.sum() > 1500 and 0.02 < false < 0.06
  alone = found.p < 0.05
  assert (effect[alone] == 0).mean() > 0.15  # without control


def test_discoveries_are_benjamini_and_hochbergs():
  p = RNG.uniform(size=(6, 7)) ** 3
  ordered = np.sort(p.ravel())
  passed = np.flatnonzero(ordered <= 0.1 * np.arange(1, 43) / 42)
  want = p <= ordered[passed[-1]]
  np.testing.assert_array_equal(significance.discoveries(p, 0.1), want)


@pytest.mark.parametrize('kind', ['pearson', 'spearman'])
def test_correlations_are_scipys(kind):
  values = RNG.normal(size=(3, 5, 4)).round(1)
  values[2] = values[0] ** 3
  of = {'pearson': stats.pearsonr, 'spearman': stats.spearmanr}[kind]
  found = significance.correlations(values, kind)
  want = of(values[0].ravel(), values[1].ravel())[0]
  np.testing.assert_allclose(found[0, 1], want, rtol=1e-9)
  np.testing.assert_allclose(found, found.T)
  assert found[0, 2] == pytest.approx(1) or kind == 'pearson'
  values[1] = 0.1
  found = significance.correlations(values, kind)
  np.testing.assert_allclose(found[1], [0, 1, 0])


def test_ratio_has_no_infinity():
  found = significance.ratio(np.array([2.0, 1.0, 0.0]), np.array([4.0, 0, 0]))
  np.testing.assert_array_equal(found, [0.5, 0, 0])


def test_bad_input_is_named():
  for scores in (SCORES[:1], SCORES[0]):
    with pytest.raises(ValueError, match='at least two models'):
      significance.uncertainty(scores)
  with pytest.raises(ValueError, match='not finite'):
    significance.uncertainty(np.where(SCORES > 1, np.nan, SCORES))
  with pytest.raises(ValueError, match="test='z': use one of student"):
    significance.uncertainty(SCORES, test='z')
  with pytest.raises(ValueError, match='rate=2'):
    significance.uncertainty(SCORES, rate=2)
  with pytest.raises(ValueError, match="kind='kendall'"):
    significance.correlations(SCORES, 'kendall')
  with pytest.raises(ValueError, match='not finite'):
    significance.correlations(np.full((2, 3), np.inf))
