"""The ceiling against the best LDS in worlds whose signal is known."""

import numpy as np
import pytest

from tda_jax.evaluation import agreement, bootstrap, lds, reliability


def world(noise, repeats, count=100, queries=120, uneven=0.0, seed=0):
  """Expected outcomes [M, Q] of variance 1 and noisy ones [M, R, Q]."""
  rng = np.random.default_rng(seed)
  expected = rng.normal(size=(count, queries))
  spread = noise * np.exp(uneven * rng.normal(size=queries))
  noisy = rng.normal(size=(count, repeats, queries)) * spread
  return expected, expected[:, None] + noisy


@pytest.mark.parametrize(
  ('noise', 'repeats', 'uneven'),
  [(1.6, 10, 0.0), (1.6, 10, 0.7), (1.5, 3, 0.3), (1.0, 2, 0.3), (4, 10, 0)],
)
def test_ceiling_is_the_lds_of_the_expected_outcome(noise, repeats, uneven):
  expected, outcomes = world(noise, repeats, uneven=uneven)
  best = agreement.spearman(expected, outcomes.mean(axis=1)).mean()
  found = reliability.ceiling(outcomes, resamples=30)
  assert found.estimate.value == pytest.approx(best, abs=0.02)
  assert found.estimate.low < best < found.estimate.high
  assert found.per_query.shape == found.reliability.shape == (120,)
  assert found.estimate.value == pytest.approx(found.per_query.mean())


def test_more_repeats_raise_the_ceiling_as_the_formula_says():
  _, outcomes = world(1.5, 12)
  few = reliability.ceiling(outcomes[:, :4], resamples=2)
  many = reliability.ceiling(outcomes, resamples=2)
  foretold = np.sqrt(reliability.spearman_brown(few.reliability, 3.0)).mean()
  assert many.estimate.value == pytest.approx(foretold, abs=0.015)
  assert many.estimate.value > few.estimate.value + 0.1


def test_an_lds_of_few_repeats_foretells_that_of_many():
  expected, outcomes = world(1.5, 24)
  guess = expected + 0.8 * np.random.default_rng(1).normal(size=expected.shape)
  few = outcomes[:, :4]
  of = lambda outcomes: bootstrap.of_queries(
    agreement.spearman(guess, outcomes.mean(axis=1)), resamples=50
  )
  top = reliability.ceiling(few, resamples=2)
  foretold = reliability.of_repeats(of(few), top, 24 / 4)
  many = of(outcomes)
  assert foretold.value == pytest.approx(many.value, abs=0.015)
  assert many.value > of(few).value + 0.1
  assert foretold.low < many.value < foretold.high
  same = reliability.of_repeats(of(few), top, 1.0)
  assert same[:3] == pytest.approx(of(few)[:3])
  nothing = top._replace(per_query=np.zeros(120), reliability=np.zeros(120))
  for factor in (0, -1, np.nan, np.inf):
    with pytest.raises(ValueError, match='factor=.* give R′ / R'):
      reliability.of_repeats(of(few), top, factor)
  with pytest.raises(ValueError, match='hold no signal'):
    reliability.of_repeats(of(few), nothing, 2.0)


def test_pure_noise_and_no_noise():
  expected, outcomes = world(1.0, 4, queries=40)
  noise = outcomes - expected[:, None]
  assert reliability.ceiling(noise, resamples=2).estimate.value < 0.2
  exact = np.repeat(expected[:, None], 4, axis=1)
  np.testing.assert_allclose(
    reliability.ceiling(exact, resamples=2).per_query, 1
  )
  exact[:, :, 5] = 3.0
  assert reliability.ceiling(exact, resamples=2).per_query[5] == 0


def test_interval_over_queries_is_that_of_their_mean():
  _, outcomes = world(1.6, 4, uneven=0.7)
  found = reliability.ceiling(outcomes, over='queries', resamples=2000)
  error = found.per_query.std() / np.sqrt(120)
  assert found.estimate.resampled.std() == pytest.approx(error, rel=0.1)


def test_interval_over_subsets_is_that_of_new_worlds():
  worlds = [world(2.0, 4, 40, 10, seed=s)[1] for s in range(60)]
  values = [reliability.ceiling(o, resamples=1).estimate.value for o in worlds]
  found = reliability.ceiling(worlds[0], resamples=200).estimate
  width = (found.high - found.low) / (2 * 1.96)
  assert 0.7 < width / np.std(values) < 2


def test_lds_over_ceiling_is_paired():
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(40, 30))
  subsets = np.argsort(rng.random((60, 40)), axis=1)[:, :20]
  expected = lds.predictions(scores, subsets)
  shape = (60, 8, 30)
  outcomes = expected[:, None] + 5 * rng.normal(size=shape)
  found = lds.interval(scores, outcomes.mean(axis=1), subsets, resamples=100)
  ceiling = reliability.ceiling(outcomes, resamples=100).estimate
  share = bootstrap.ratio(found, ceiling)
  assert share.low < 1 < share.high
  assert share.value == pytest.approx(1, abs=0.03)


def test_bad_input_is_named():
  _, outcomes = world(1.0, 4, queries=5)
  with pytest.raises(ValueError, match='at least two repeats, and there is 1'):
    reliability.ceiling(outcomes[:, :1])
  with pytest.raises(ValueError, match='before averaging over repeats'):
    reliability.ceiling(outcomes.mean(axis=1))
  outcomes[3, 2, 1] = np.nan
  with pytest.raises(ValueError, match='repeat 2: 1 of 500 .* row 3, query 1'):
    reliability.ceiling(outcomes)
