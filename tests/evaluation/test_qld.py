"""Query loss differences against loops in numpy."""

import numpy as np
import pytest

from tda_jax.evaluation import bootstrap, qld

RNG = np.random.default_rng(0)
FILTERED = RNG.normal(size=(4, 2, 4))  # queries, repeats, queries
RANDOM = RNG.normal(size=(5, 2, 4))
TOKENS = np.array([1, 2, 4, 8])


def by_hand(q, controls, runs):
  """Loss without q's top rows − without random ones, of the resample given."""
  filtered = np.mean([-FILTERED[q, r, q] for r in runs])
  random = np.mean([-RANDOM[c, r, q] for c in controls for r in runs])
  return filtered - random


def test_it_is_what_the_loss_of_a_query_gains_beyond_random_removals():
  wanted = [by_hand(q, range(5), range(2)) for q in range(4)]
  np.testing.assert_allclose(qld.qld(FILTERED, RANDOM), wanted, 1e-12)
  np.testing.assert_allclose(
    qld.qld(FILTERED, RANDOM, TOKENS), np.array(wanted) / TOKENS, 1e-12
  )


def test_measures_of_other_queries_are_not_read():
  filtered = np.where(np.eye(4, dtype=bool)[:, None], FILTERED, np.nan)
  np.testing.assert_array_equal(
    qld.qld(filtered, RANDOM), qld.qld(FILTERED, RANDOM)
  )


@pytest.mark.parametrize('over', bootstrap.OVER)
def test_resamples_are_of_queries_removals_and_repeats(over):
  found = qld.interval(FILTERED, RANDOM, TOKENS, over=over, resamples=20)
  value = qld.qld(FILTERED, RANDOM, TOKENS).mean()
  assert found.value == pytest.approx(value, rel=1e-12)
  controls, queries = bootstrap.draws(5, 4, over, 20, 0)
  runs = np.ones((20, 2))
  if over != 'queries':
    runs = bootstrap.counts(2, 20, 0, stream=2)
    assert (runs != 1).any() and (runs.sum(1) == 2).all()
  times = lambda counts: np.repeat(np.arange(len(counts)), counts.astype(int))
  wanted = np.array([
      np.mean([by_hand(q, times(c), times(r)) / TOKENS[q] for q in times(a)])
      for c, r, a in zip(controls, runs, queries, strict=True)
  ])  # fmt: skip
  wanted += value - wanted.mean()
  np.testing.assert_allclose(found.resampled, wanted, 1e-9, 1e-12)
  assert found.low < found.value < found.high


def test_over_queries_it_is_the_interval_of_the_mean():
  found = qld.interval(FILTERED, RANDOM, over='queries', seed=3)
  plain = bootstrap.of_queries(qld.qld(FILTERED, RANDOM), seed=3)
  np.testing.assert_allclose(found[:3], plain[:3], 1e-9)


def test_methods_of_the_same_removals_are_compared_in_pairs():
  shifted = FILTERED - 0.3 * np.eye(4)[:, None]  # measures fall, so losses rise
  a, b = (qld.interval(x, RANDOM) for x in (shifted, FILTERED))
  gap = bootstrap.difference(a, b)
  assert b.low < b.value < b.high
  np.testing.assert_allclose(gap[:3], 0.3, 1e-9)


@pytest.mark.parametrize(
  'filtered, random, tokens, words',
  [
    (FILTERED[:3], RANDOM, None, r'give \[Q, R, Q\] and \[C, R, Q\]'),
    (FILTERED[:, 0], RANDOM, None, r'give \[Q, R, Q\] and \[C, R, Q\]'),
    (FILTERED, RANDOM.mean(1), None, r'give \[Q, R, Q\] and \[C, R, Q\]'),
    (FILTERED, RANDOM[:0], None, r'give \[Q, R, Q\] and \[C, R, Q\]'),
    (FILTERED, RANDOM * np.nan, None, 'diverged'),
    (FILTERED * np.nan, RANDOM, None, 'diverged'),
    (FILTERED, RANDOM, TOKENS[:3], 'each of the 4 queries'),
    (FILTERED, RANDOM, TOKENS - 1, 'from 1'),
    (FILTERED[:, :1], RANDOM, None, '1 repeats .* and 2 without'),
  ],
)
def test_bad_input(filtered, random, tokens, words):
  with pytest.raises(ValueError, match=words):
    qld.interval(filtered, random, tokens)
