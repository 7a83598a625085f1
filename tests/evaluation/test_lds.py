"""LDS in planted worlds; intervals against brute force and repeated draws."""

import numpy as np
import pytest
from scipy import stats

from tda_jax.evaluation import agreement, bootstrap, lds

SCIPY = {'spearman': stats.spearmanr, 'kendall': stats.kendalltau}
kinds = pytest.mark.parametrize('kind', agreement.KINDS)


def drawn(rng, count, rows, size):
  return np.argsort(rng.random((count, rows)), axis=1)[:, :size]


def additive(seed=0, count=60, rows=40, queries=8, noise=0.0):
  """Scores [N, Q], subsets [M, N/2], outcomes [M, Q] = sums (+ noise)."""
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=(rows, queries))
  subsets = drawn(rng, count, rows, rows // 2)
  sums = np.array([scores[subset].sum(axis=0) for subset in subsets])
  return scores, subsets, sums + noise * rng.normal(size=sums.shape)


def test_additive_world_is_predicted_perfectly_and_with_our_sign():
  scores, subsets, outcomes = additive()
  np.testing.assert_allclose(lds.predictions(scores, subsets), outcomes)
  warped = np.exp(outcomes / 3) + 5  # ranks only
  np.testing.assert_allclose(lds.lds(scores, warped, subsets), 1)
  np.testing.assert_allclose(lds.lds(-scores, warped, subsets), -1)
  np.testing.assert_allclose(lds.lds(scores, warped, subsets, 'kendall'), 1)
  np.testing.assert_allclose(lds.lds(-scores, warped, subsets, 'kendall'), -1)


@kinds
def test_shuffled_scores_predict_nothing(kind):
  scores, subsets, outcomes = additive(count=400, queries=50)
  wrong = np.random.default_rng(1).permutation(scores, axis=0)
  # One query: sd 1/√400 and more for what a shuffle keeps by chance.
  assert abs(lds.lds(wrong, outcomes, subsets, kind).mean()) < 0.06


@kinds
def test_each_query_is_scipys(kind):
  scores, subsets, outcomes = additive(noise=4.0)
  outcomes = outcomes.round(0)  # ties
  expected = [
    SCIPY[kind](scores[subsets, q].sum(axis=1), outcomes[:, q])[0]
    for q in range(8)
  ]
  found = lds.lds(scores, outcomes, subsets, kind)
  np.testing.assert_allclose(found, expected)
  mean, _ = lds.spread(scores[None], outcomes, subsets, kind)
  (whole,) = lds.by_size(
    (scores[None],), outcomes, subsets, [1], kind=kind, resamples=2
  )
  assert mean == pytest.approx(np.mean(expected)) == whole.value


@kinds
def test_constants_score_zero(kind):
  scores, subsets, outcomes = additive()
  scores[:, 0] = 0.1
  outcomes[:, 1] = 2.0
  found = lds.lds(scores, outcomes, subsets, kind)
  np.testing.assert_allclose(found, [0, 0, 1, 1, 1, 1, 1, 1])
  every = lds.interval(scores, outcomes, subsets, kind=kind, resamples=9)
  assert every.value == pytest.approx(0.75)
  assert np.isfinite(every.resampled).all()


def test_rounding_of_constant_scores_is_no_order():
  _, subsets, outcomes = additive(rows=333, queries=1)
  # Plain sums of these differ by rounding (with OpenBLAS), and would be ranked.
  scores = np.full((333, 1), np.pi)
  assert lds.lds(scores, outcomes, subsets) == [0]


@kinds
@pytest.mark.parametrize('over', bootstrap.OVER)
def test_resamples_are_those_of_brute_force(over, kind):
  scores, subsets, outcomes = additive(noise=4.0, count=25)
  outcomes = outcomes.round(0)
  found = lds.interval(
    scores, outcomes, subsets, over=over, resamples=20, kind=kind
  )
  of_subsets, of_queries = bootstrap.draws(25, 8, over, 20, seed=0)
  sums, expected = lds.predictions(scores, subsets), []
  for counts, weights in zip(of_subsets, of_queries, strict=True):
    again = np.repeat(np.arange(25), counts.astype(int))
    each = [
      SCIPY[kind](sums[again, q], outcomes[again, q])[0] for q in range(8)
    ]
    expected.append(np.average(each, weights=weights))
  each = lds.lds(scores, outcomes, subsets, kind)
  assert found.value == pytest.approx(each.mean())
  shift = found.value - np.mean(expected)
  np.testing.assert_allclose(
    found.resampled, np.array(expected) + shift, rtol=1e-5
  )
  assert (found.low, found.high) == pytest.approx(
    np.quantile(found.resampled, [0.025, 0.975])
  )
  if over == 'queries':
    assert (of_subsets == 1).all() and (of_queries != 1).any()
  if over == 'subsets':
    assert (of_queries == 1).all() and (of_subsets != 1).any()


def coverage(over, worlds=60):
  """Share of worlds whose interval holds the LDS of endless subsets/queries.

  Queries share two of three directions, so they are far from independent over
  subsets, as real ones are.
  """
  rng = np.random.default_rng(5)
  rows, population, shared = 60, 150, rng.normal(size=(2, 60, 2))

  def mixed(part, mixing):
    return shared[part] @ mixing + 0.5 * rng.normal(size=(rows, population))

  mixing = rng.normal(size=(2, population))
  truth = mixed(0, mixing)
  scores = truth + 0.7 * mixed(1, rng.normal(size=(2, population)))

  def world(rng, count):
    subsets = drawn(rng, count, rows, rows // 2)
    outcomes = lds.predictions(truth, subsets)
    return subsets, outcomes + 3 * rng.normal(size=outcomes.shape)

  subsets, outcomes = world(rng, 2000)
  every = lds.lds(scores, outcomes, subsets)
  fixed, inside = slice(0, 12), []
  for seed in range(worlds):
    rng = np.random.default_rng([7, seed])
    chosen = fixed if over == 'subsets' else rng.choice(population, 12)
    if over != 'queries':
      subsets, outcomes = world(rng, 40)
      target = every[fixed].mean() if over == 'subsets' else every.mean()
    else:
      subsets, outcomes = world(np.random.default_rng(3), 40)
      target = lds.lds(scores, outcomes, subsets).mean()
    found = lds.interval(
        scores[:, chosen], outcomes[:, chosen], subsets,
        over=over, resamples=100, seed=seed,
    )  # fmt: skip
    inside.append(found.low <= target <= found.high)
  return np.mean(inside)


@pytest.mark.parametrize('over', bootstrap.OVER)
def test_intervals_cover_about_as_often_as_they_say(over):
  share = coverage(over)
  assert share > 0.83  # .95 of 60 worlds has sd .03; small samples lose some
  if over != 'both':
    assert share < 1.0


def test_single_models_and_their_spread():
  scores, subsets, outcomes = additive()
  rng = np.random.default_rng(2)
  members = scores + 2 * rng.normal(size=(5, *scores.shape))
  singles = [lds.lds(one, outcomes, subsets).mean() for one in members]
  mean, error = lds.spread(members, outcomes, subsets)
  assert mean == pytest.approx(np.mean(singles))
  assert error == pytest.approx(np.std(singles, ddof=1) / np.sqrt(5))
  found = lds.interval(members, outcomes, subsets, resamples=20)
  assert found.value == pytest.approx(mean)
  assert np.isnan(lds.spread(members[:1], outcomes, subsets)[1])


def test_larger_ensembles_predict_better():
  scores, subsets, outcomes = additive()
  rng = np.random.default_rng(2)
  members = scores + 3 * rng.normal(size=(6, *scores.shape))
  one, three, six = lds.by_size(
    (members,), outcomes, subsets, [1, 3, 6], resamples=20
  )
  assert one.value < three.value < six.value
  assert one.value == pytest.approx(lds.spread(members, outcomes, subsets)[0])
  whole = lds.lds(members.mean(axis=0), outcomes, subsets).mean()
  assert six.value == pytest.approx(whole)
  with pytest.raises(ValueError, match='ensemble of 7 .* 6 members'):
    lds.by_size((members,), outcomes, subsets, [7])


def test_paired_difference_is_sharper_than_two_intervals():
  scores, subsets, outcomes = additive(noise=6.0, queries=20)
  rng = np.random.default_rng(1)
  better = scores + 0.5 * rng.normal(size=scores.shape)
  worse = better + 0.6 * rng.normal(size=scores.shape)
  a = lds.interval(better, outcomes, subsets, resamples=200)
  b = lds.interval(worse, outcomes, subsets, resamples=200)
  apart = bootstrap.difference(a, b)
  assert apart.value == pytest.approx(a.value - b.value)
  assert a.low < b.high and apart.low > 0
  assert apart.high - apart.low < 0.7 * (a.high - a.low)
  assert bootstrap.difference(b, a).high < 0
  np.testing.assert_allclose(bootstrap.ratio(a, a).resampled, 1)
  assert bootstrap.ratio(b, a).value == pytest.approx(b.value / a.value)


def test_only_like_resamples_are_paired():
  scores, subsets, outcomes = additive()
  a = lds.interval(scores, outcomes, subsets, resamples=5)
  b = lds.interval(scores, outcomes, subsets, resamples=5, seed=1)
  with pytest.raises(ValueError, match='not resampled alike'):
    bootstrap.difference(a, b)
  with pytest.raises(ValueError, match='no signal'):
    bootstrap.ratio(a, a._replace(value=0.0))


def test_same_seed_same_interval():
  scores, subsets, outcomes = additive(noise=4.0)
  a, b, c = (
    lds.interval(scores, outcomes, subsets, resamples=30, seed=seed)
    for seed in (0, 0, 1)
  )
  assert a[:3] == b[:3] and a[1:3] != c[1:3]


def test_bad_input_is_named():
  scores, subsets, outcomes = additive()
  broken = outcomes.copy()
  broken[7:] = np.nan
  with pytest.raises(ValueError, match='outcomes: .* row 7, .* to its end'):
    lds.lds(scores, broken, subsets)
  broken = scores.copy()
  broken[3, 2] = np.inf
  with pytest.raises(ValueError, match='scores: 1 of .* row 3, query 2'):
    lds.lds(broken, outcomes, subsets)
  with pytest.raises(ValueError, match='average the repeats first'):
    lds.lds(scores, outcomes[:, None], subsets)
  with pytest.raises(ValueError, match='outcomes of 60 subsets do not fit'):
    lds.lds(scores, outcomes, subsets[:9])
  with pytest.raises(ValueError, match='scores of 7 queries .* outcomes of 8'):
    lds.lds(scores[:, :7], outcomes, subsets)
  with pytest.raises(ValueError, match='scores of rows 0 to 29: score'):
    lds.lds(scores[:30], outcomes, subsets)
  with pytest.raises(ValueError, match='use one of queries, subsets, both'):
    lds.interval(scores, outcomes, subsets, over='rows')
  for wrong in (lds.lds, lds.interval):
    with pytest.raises(ValueError, match="'tau': use one of spearman, kendall"):
      wrong(scores, outcomes, subsets, kind='tau')


def test_an_ensemble_of_a_size_is_averaged_over_draws():
  rng = np.random.default_rng(4)
  scores = rng.normal(size=(4, 30, 3))
  subsets = np.argsort(rng.random((25, 30)), axis=1)[:, :15]
  outcomes = lds.predictions(scores[0], subsets)
  pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
  each = [
    lds.lds(scores[[*pair]].mean(0), outcomes, subsets).mean() for pair in pairs
  ]
  (many,) = lds.by_size(
    (scores,), outcomes, subsets, [2], draws=300, resamples=2
  )
  assert np.ptp(each) > 0.5
  assert abs(many.value - np.mean(each)) < 0.06
