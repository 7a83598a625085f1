"""Sets of rows against the relevant ones, by hand."""

import numpy as np
import pytest

from tda_jax.evaluation import retrieval

RELEVANT = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], bool)


def test_sets_by_hand():
  chosen = np.array([[1, 0], [0, 0], [1, 0], [1, 0]], bool)
  got = retrieval.of_sets(chosen, RELEVANT)
  np.testing.assert_allclose(got.precision, [1 / 3, 0])
  np.testing.assert_allclose(got.recall, [1 / 2, 0])
  np.testing.assert_allclose(got.f1, [2 / 5, 0])
  whole = retrieval.of_sets(RELEVANT, RELEVANT)
  np.testing.assert_array_equal([*whole], np.ones((3, 2)))
  with pytest.raises(
    ValueError, match='1 queries have no relevant row|no relev'
  ):
    retrieval.of_sets(chosen, RELEVANT & [True, False])


def test_the_strongest_rows():
  scores = np.array([[3.0, 1], [2, 1], [2, 5], [1, 0]])
  np.testing.assert_array_equal(
    retrieval.strongest(scores, 2), [[1, 1], [1, 0], [0, 1], [0, 0]]
  )
  np.testing.assert_array_equal(
    retrieval.strongest(scores, np.array([1, 3])),
    [[1, 1], [0, 1], [0, 1], [0, 0]],
  )


def test_an_expected_f1_is_that_of_random_errors():
  rng = np.random.default_rng(0)
  relevant = np.zeros((2000, 3), bool)
  relevant[:100] = True
  seen = np.zeros_like(relevant)
  seen[20:1500] = True
  says = np.where(
    relevant,
    rng.random(relevant.shape) > 0.1,
    rng.random(relevant.shape) < 0.05,
  )
  got = retrieval.of_sets(seen & says, relevant).f1
  want = retrieval.expected_f1(seen, relevant, 0.05, 0.1)
  np.testing.assert_allclose(got, want, atol=0.05)
  assert retrieval.expected_f1(relevant, relevant, 0, 0).tolist() == [1, 1, 1]
  assert want[0] == pytest.approx(2 * 72 / (72 + 70 + 100))
