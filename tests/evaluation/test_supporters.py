"""Under every null nothing is found; what is planted is."""

import numpy as np
import pytest
from scipy import stats

from tda_jax.evaluation import significance, supporters

N, Q, K = 120, 8, 5


def noise(name, seed, models=5):
  """Scores [S, N, Q] without a row that supports more than another."""
  rng = np.random.default_rng(seed)
  z = rng.normal(size=(models, N, Q))
  if name == 'independent':
    return z
  if name == 'common':  # one mean of all rows, and of each model
    return z + 3 + rng.normal(size=(models, 1, Q))
  if name == 'spread':  # rows whose scores are large, of either sign
    return z * np.exp(1.5 * rng.normal(size=(N, Q)))
  if name == 'skewed':  # most rows a little above the mean
    return -np.exp(2 * z)
  # real scores in other rows: sizes of queries and models differ
  effect = rng.normal(size=(N, Q)) ** 3 * np.exp(
    rng.normal(size=(models, 1, Q))
  )
  return rng.permuted(effect + 0.1 * z, axis=1)


@pytest.mark.parametrize(
  'name', ['independent', 'common', 'spread', 'skewed', 'shuffled']
)
def test_of_noise_nothing_is_significant(name):
  found = [supporters.supporters(noise(name, s), K) for s in range(40)]
  # Every discovery is false here, so the rate is that of any at all.
  assert np.mean([one.significant.any() for one in found]) <= 0.05
  assert np.mean([one.confirmed for one in found]) < 0.002
  p = np.concatenate([one.p.ravel() for one in found])
  for level in (0.01, 0.05, 0.2):  # as many as at most are taken for granted
    assert np.mean(p <= level) <= level
  overlap = np.mean([one.overlap.mean() for one in found])
  if name in ('independent', 'common', 'shuffled'):
    assert abs(overlap - found[0].chance) < 0.01


def planted(models, size=4.0, seed=0):
  rng = np.random.default_rng(seed)
  effect = np.zeros((N, Q))
  for q in range(Q):
    effect[rng.choice(N, 4, replace=False), q] = size
  spread = np.exp(0.5 * rng.normal(size=(N, Q)))
  spread[effect > 0] = 1
  scale = np.exp(0.3 * rng.normal(size=(models, 1, Q)))
  return effect, scale * (effect + spread * rng.normal(size=(models, N, Q)))


def test_planted_rows_are_found_and_noise_beside_them_is_not():
  false, found, confirmed = [], [], []
  for seed in range(20):
    effect, scores = planted(8, seed=seed)
    sure = supporters.supporters(scores, K)
    true = np.take_along_axis(effect, sure.rows.T, 0).T > 0
    false.append(
      (~true & sure.significant).sum() / max(1, sure.significant.sum())
    )
    found.append((true & sure.significant).sum() / (4 * Q))
    confirmed.append(sure.confirmed)
  assert np.mean(found) > 0.9 and np.mean(false) < 0.05
  assert 0.6 < np.mean(confirmed) < 0.85  # four of five rows are real


def test_the_rows_are_those_of_all_models_and_p_that_of_two_parts():
  _, scores = planted(5)
  sure = supporters.supporters(scores, K)
  want = np.argsort(-scores.mean(0), 0)[:K].T
  np.testing.assert_array_equal(sure.rows, want)
  for q, i in ((0, 0), (3, 1)):
    row, every = sure.rows[q, i], []
    for e in range(5):
      rest = np.delete(scores[:, :, q], e, 0)
      rest = rest / np.abs(rest).mean(1, keepdims=True)
      apart = rest[:, row] - rest.mean(1)
      tests = [
        stats.ttest_1samp(x, 0, alternative='greater').pvalue
        for x in (rest[:, row], apart)
      ]
      picked = row in np.argsort(-scores[e, :, q])[:K]
      every.append(max(tests) if picked else 1)
    want = min(1, 2.5 * sorted(every)[1])
    np.testing.assert_allclose(sure.p[q, i], want, rtol=1e-6)
  np.testing.assert_array_equal(
    sure.significant, significance.discoveries(sure.p)
  )


def test_a_row_must_support_and_not_only_oppose_less():
  _, scores = planted(8)
  assert supporters.supporters(scores, K).significant.mean() > 0.5
  less = supporters.supporters(scores - 20, K)  # all rows oppose
  assert not less.significant.any() and less.confirmed == 0


def test_models_that_agree_and_scores_that_are_all_equal():
  once = np.random.default_rng(0).normal(size=(1, N, Q))
  same = supporters.supporters(np.repeat(once, 4, 0), K)
  assert same.significant.all() and same.confirmed == 1
  np.testing.assert_allclose(same.overlap, 1)
  nothing = supporters.supporters(np.zeros((4, N, Q)), K)
  assert (nothing.p == 1).all()
  assert nothing.overlap.mean() < 0.1  # equal scores are in no order


def test_marks_stand_at_both_ends():
  _, scores = planted(8)
  scores = scores - planted(8, seed=1)[0]
  marks = supporters.marked(scores, K)
  for sign in (1, -1):
    sure = supporters.supporters(sign * scores, K)
    at = np.take_along_axis(marks, sure.rows.T, 0).T
    np.testing.assert_array_equal(at, sure.significant)
  assert 2 < marks.sum() / Q <= 2 * K
  assert not supporters.marked(scores[:3], K).any()
  whole = supporters.marked(scores[:, :4], 4)  # every row is at both ends
  assert whole.shape == (4, Q)


def test_words_for_many_models_and_for_few():
  _, scores = planted(5)
  words = supporters.sentence(scores, K)
  assert 'of the 5 strongest supporters' in words and 'by chance 4%' in words
  for count in (1, 3):
    with pytest.raises(ValueError, match='train 4 or more'):
      supporters.supporters(np.repeat(scores[:1], max(count, 2), 0), K)
    words = supporters.sentence(scores[:count], K)
    assert words.startswith(f'{count} model') and 'train 4 or more' in words
  with pytest.raises(ValueError, match='k=121 of 120'):
    supporters.supporters(scores, 121)
  with pytest.raises(ValueError, match='rate=1'):
    supporters.supporters(scores, K, rate=1)
  with pytest.raises(ValueError, match='not finite'):
    supporters.supporters(scores * np.inf, K)


def test_one_sided_is_scipys():
  values = np.random.default_rng(0).normal(size=(4, 30))
  want = stats.ttest_1samp(values, 0, alternative='greater').pvalue
  np.testing.assert_allclose(significance.one_sided(values), want)
  flat = np.full((3, 3), [0.1, 0.0, -0.1])
  np.testing.assert_array_equal(significance.one_sided(flat), [0, 1, 1])
