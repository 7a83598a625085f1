"""Candidates of a cheap method in the order of a dear one."""

import jax
import numpy as np
import pytest
import tiny

import tda_jax as tda
from tda_jax.data import rows as rows_lib
from tda_jax.scoring import programs

T = tiny.classification()
ARGS = (T.problem, T.params, T.train, T.queries)
KEY = jax.random.key(3)
DEAR = tda.influence(tda.exact(0.1))


def candidates(count):
  return tda.top_k(tda.grad_dot(), *ARGS, count)[1]


@pytest.mark.parametrize('batch_size', [2, 256])
def test_it_picks_from_the_scores_of_the_dear_method(batch_size):
  rows = candidates(5)
  scores = tda.attribute(DEAR, *ARGS).T
  among = np.take_along_axis(scores, rows, 1)
  order = np.argsort(-among, 1)
  want = [np.take_along_axis(x, order, 1) for x in (among, rows)]
  assert (want[1] != rows).any()  # the two methods differ
  got = tda.rescored(DEAR, *ARGS, rows, batch_size=batch_size)
  np.testing.assert_array_equal(got[1], want[1])
  np.testing.assert_allclose(got[0], want[0], atol=1e-5 * np.abs(scores).max())
  best = tda.rescored(DEAR, *ARGS, rows, k=2, batch_size=batch_size)
  for some, every in zip(best, got, strict=True):
    np.testing.assert_array_equal(some, every[:, :2])


def test_of_all_rows_it_is_top_k():
  every = np.tile(np.arange(11)[::-1], (4, 1))
  got = tda.rescored(tda.grad_dot(), *ARGS, every, k=3)
  want = tda.top_k(tda.grad_dot(), *ARGS, 3)
  np.testing.assert_array_equal(got[1], want[1])
  np.testing.assert_allclose(got[0], want[0], atol=1e-6)


def test_only_candidates_are_scored(monkeypatch):
  rows, seen = candidates(2), []
  program = programs.score

  def recorded(*args):
    batch = args[-1]
    seen.extend(np.asarray(batch.index)[np.asarray(batch.mask) > 0])
    return program(*args)

  monkeypatch.setattr(programs, 'score', recorded)
  tda.rescored(tda.grad_dot(), *ARGS, rows, batch_size=4)
  assert seen == sorted({*rows.ravel()}) and len(seen) < 11


@pytest.mark.slow
def test_a_fit_serves_it():
  method, rows = tda.influence(tda.ekfac(0.1)), candidates(3)
  fitted = tda.fit(method, *ARGS[:3], key=KEY)
  got = tda.rescored(method, *ARGS, rows, key=KEY, fitted=fitted)
  want = tda.rescored(method, *ARGS, rows, key=KEY)
  np.testing.assert_array_equal(got[1], want[1])
  np.testing.assert_allclose(got[0], want[0], rtol=1e-4)


def test_equal_scores_are_in_the_order_of_rows():
  twins = {name: x[np.array([0, 1, 0, 1])] for name, x in T.train.items()}
  args = (T.problem, T.params, twins, T.queries)
  every = np.tile([3, 2, 1, 0], (4, 1))
  _, rows = tda.rescored(tda.grad_dot(), *args, every)
  assert {tuple(row) for row in rows} <= {(0, 2, 1, 3), (1, 3, 0, 2)}


def test_batches_of_chosen_rows_have_their_numbers():
  chosen = np.array([1, 4, 9])
  first, last = rows_lib.batches(T.train, 2, chosen=chosen)
  np.testing.assert_array_equal(first.index, [1, 4])
  np.testing.assert_array_equal(last.index, [9, 9])
  np.testing.assert_array_equal(last.mask, [1, 0])
  np.testing.assert_array_equal(last.examples['x'], T.train['x'][[9, 9]])


@pytest.mark.parametrize(
  'given, words',
  [
    (np.zeros((3, 2), int), r'candidates are int64\[3, 2\]: .* rows \[4, C\]'),
    (np.zeros((4, 2)), r'candidates are float64\[4, 2\]: give numbers'),
    (np.zeros((4, 0), int), r'int64\[4, 0\]: give numbers'),
    (np.tile([0, 11], (4, 1)), 'from 0 to 11, and there are 11 training rows'),
    (np.tile([-1, 2], (4, 1)), 'from -1 to 2'),
    (np.array([[0, 1], [2, 3], [5, 5], [1, 0]]), 'twice .* of query 2'),
  ],
)
def test_candidates_that_are_none_are_refused(given, words):
  with pytest.raises(ValueError, match=words):
    tda.rescored(tda.grad_dot(), *ARGS, given)


def test_k_is_at_most_the_candidates():
  with pytest.raises(ValueError, match='k=4 of 3 candidates: give 1 to 3'):
    tda.rescored(tda.grad_dot(), *ARGS, candidates(3), k=4)
