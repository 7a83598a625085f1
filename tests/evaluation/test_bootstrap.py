"""The interval of a mean over queries; that of LDS is tested there."""

import numpy as np
import pytest

from tda_jax.evaluation import bootstrap


def test_interval_of_a_mean():
  values = np.random.default_rng(0).normal(2, 3, 400)
  found = bootstrap.of_queries(values, resamples=2000)
  error = values.std() / 20
  assert found.value == pytest.approx(values.mean())
  assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
  assert found.low < found.value < found.high
  assert bootstrap.of_queries(values, seed=1).low != found.low


def test_it_covers_as_often_as_it_says():
  inside = []
  for seed in range(200):
    values = np.random.default_rng(seed).exponential(size=60)
    found = bootstrap.of_queries(values, resamples=200, seed=seed)
    inside.append(found.low <= 1 <= found.high)
  assert 0.88 < np.mean(inside) < 0.98  # .93 for such skew, ± .02


def test_methods_are_compared_on_the_same_queries():
  rng = np.random.default_rng(0)
  hard = rng.random(100) < 0.5
  a, b = hard * 1.0, hard * 0.9
  of = [bootstrap.of_queries(one) for one in (a, b)]
  apart = bootstrap.difference(*of)
  assert of[0].low < of[1].high and apart.low > 0
  np.testing.assert_allclose(apart.value, a.mean() - b.mean())
  same = bootstrap.difference(of[0], of[0])
  assert (same.low, same.high) == (0, 0)
  with pytest.raises(ValueError, match='not resampled alike'):
    bootstrap.difference(of[0], bootstrap.of_queries(a[:50]))


def test_a_constant_has_no_spread():
  found = bootstrap.of_queries(np.full(7, 0.3))
  assert found[:3] == pytest.approx((0.3, 0.3, 0.3))


@pytest.mark.parametrize(
  'values, message',
  [
    (np.zeros(0), 'one for each of some queries'),
    (np.zeros((2, 3)), r'shape \(2, 3\)'),
    (np.array([0, np.nan]), '1 of 2 values are not finite'),
  ],
)
def test_bad_input(values, message):
  with pytest.raises(ValueError, match=message):
    bootstrap.of_queries(values)


def test_what_could_not_be_drawn_otherwise_has_no_interval():
  one = bootstrap.of_queries(np.array([0.3]))
  assert one.value == 0.3 and np.isnan([one.low, one.high]).all()
  for other in (bootstrap.difference(one, one), bootstrap.ratio(one, one)):
    assert np.isnan([other.low, other.high]).all()
  several = np.linspace(0, 1, 9)
  for drawn, known in (
    ((1, 1, 'both', 9, 0), False),
    ((5, 1, 'queries', 9, 0), False),
    ((1, 5, 'subsets', 9, 0), False),
    ((5, 1, 'both', 9, 0), True),
    ((5, 1, 'subsets', 9, 0), True),
  ):
    found = bootstrap.estimate(0.5, several, drawn)
    assert np.isfinite(found.low) == np.isfinite(found.high) == known
