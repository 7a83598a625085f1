"""Brittleness where the answer is known: classes held up by known rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tda_jax.evaluation import brittleness
from tda_jax.problem import classification
from tda_jax.storage import scores as store_lib
from tda_jax.training.fit import Recipe

PROBLEM = classification(lambda params, x: x @ params)
KEY = jax.random.key(0)
# Query q is the unit vector q, which only rows of the same vector say anything
# of: 3 of its own class against 2 of the other, and ten rows of no input.
OWN, OTHER, NOTHING = np.arange(3), np.arange(3, 5), np.arange(10, 20)
X = np.concatenate([np.repeat(np.eye(2), 5, 0), np.zeros((10, 2))])
Y = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0, 0] + [0, 1] * 5)
TRAIN = {'x': X.astype(np.float32), 'y': Y}
QUERIES = {'x': np.eye(2, dtype=np.float32), 'y': np.array([0, 1])}


@functools.cache
def recipe():
  return Recipe(
    lambda key: 0.01 * jax.random.normal(key, (2, 2)),
    lambda total: optax.sgd(1.0),
    lambda total: optax.constant_schedule(1.0),
    20,
    200,
  )


def margins(path, removed, **changes):
  return brittleness.margins(
    PROBLEM,
    recipe(),
    TRAIN,
    QUERIES,
    removed,
    repeats=2,
    key=KEY,
    path=path,
    progress=False,
    **changes,
  )


def test_removing_the_support_flips_and_nothing_else_does(tmp_path):
  before = margins(tmp_path / 'a', np.zeros((2, 0), int))
  assert before.shape == (2, 2) and (before > 0).all()
  # The optimum of a class's rows 3 : 2 is a margin of log(3/2).
  np.testing.assert_allclose(before, np.log(1.5), atol=0.02)
  two = margins(tmp_path / 'b', np.stack([OWN[:2], OWN[:2] + 5]))
  np.testing.assert_allclose(two, np.log(0.5), atol=0.02)
  assert brittleness.flips(before, two).tolist() == [True, True]
  # Each query's own rows count: query 1's are removed for query 0.
  crossed = margins(tmp_path / 'c', np.stack([OWN[:2] + 5, OWN[:2]]))
  assert brittleness.flips(before, crossed).tolist() == [False, False]
  nothing = margins(tmp_path / 'd', np.stack([NOTHING[:2]] * 2))
  assert brittleness.flips(before, nothing).tolist() == [False, False]
  opposed = margins(tmp_path / 'e', np.stack([OTHER, OTHER + 5]))
  assert (opposed > before).all()


def test_it_resumes(tmp_path):
  removed = np.stack([OWN[:1], OWN[:1] + 5])
  whole = margins(tmp_path / 'a', removed, members_at_once=1)
  for marker in list((tmp_path / 'a' / 'done').iterdir())[1:]:
    marker.unlink()
  assert store_lib.done(store_lib.open(tmp_path / 'a')).sum() == 1
  np.testing.assert_array_equal(margins(tmp_path / 'a', removed), whole)
  with pytest.raises(ValueError, match='another run .*subsets'):
    margins(tmp_path / 'a', removed + 1)


def test_lead_is_above_zero_where_the_class_is_right():
  rng = np.random.default_rng(0)
  for z in rng.normal(size=(20, 4)):
    for y in range(4):
      found = brittleness.correct_class_margin(jnp.asarray(z), {'y': y})
      assert found == pytest.approx(z[y] - np.delete(z, y).max(), 1e-5)
      assert (found > 0) == (z.argmax() == y)


def test_flips_are_of_queries_that_were_right():
  before = np.array([[1.0, 2], [1, -3], [2, 2]])
  after = np.array([[-1.0, 0.5], [-5, -5], [1, -0.5]])
  assert brittleness.flips(before, after).tolist() == [True, False]
  with pytest.raises(ValueError, match='no query is classified rightly'):
    brittleness.flips(-before[:1], after[:1])
  with pytest.raises(ValueError, match='3 queries before and 2 after'):
    brittleness.flips(before, after[:2])


def test_top_is_the_strongest_supporters():
  scores = np.array([[1.0, -5], [3, 2], [2, 7]])
  assert brittleness.top_rows(scores, 2).tolist() == [[1, 2], [2, 1]]
  assert brittleness.top_rows(scores, 0).shape == (2, 0)
  with pytest.raises(ValueError, match='give 0 to 2'):
    brittleness.top_rows(scores, 3)


@pytest.mark.parametrize(
  'removed', [[[0, 0], [1, 2]], [[0, 20], [1, 2]], [[0]]]
)
def test_bad_rows(tmp_path, removed):
  with pytest.raises(ValueError, match='removed'):
    margins(tmp_path / 'a', np.array(removed))
  assert not (tmp_path / 'a').exists()
