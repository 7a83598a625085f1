"""Cleaning where the answer is known: wrong labels that turn a class."""

import functools

import jax
import numpy as np
import optax
import pytest

from tda_jax.evaluation import bootstrap, brittleness, cleaning
from tda_jax.problem import classification
from tda_jax.training.fit import Recipe

PROBLEM = classification(lambda params, x: x @ params)
# Each unit vector is a query's; 4 of 6 of its rows have the other one's label.
X = np.repeat(np.eye(2), 6, 0).astype(np.float32)
TRUE = np.repeat([0, 1], 6)
WRONG = np.arange(12) % 6 < 4
TRAIN = {'x': X, 'y': np.where(WRONG, 1 - TRUE, TRUE)}
QUERIES = {'x': np.eye(2, dtype=np.float32), 'y': np.array([0, 1])}


@functools.cache
def recipe():
  return Recipe(
    lambda key: 0.01 * jax.random.normal(key, (2, 2)),
    lambda total: optax.sgd(1.0),
    lambda total: optax.constant_schedule(1.0),
    4,
    100,
  )


def margins(path, removed):
  return brittleness.margins_without(
    PROBLEM,
    recipe(),
    TRAIN,
    QUERIES,
    removed,
    repeats=2,
    key=jax.random.key(0),
    path=path,
    kind='cleaning',
    progress=False,
  )


def test_without_the_wrong_labels_the_model_is_right(tmp_path):
  ranked = cleaning.first(WRONG + np.arange(12) % 6 / 100, 6)
  random = cleaning.controls(12, 6, 3, seed=2)
  found = margins(tmp_path / 'a', np.concatenate([[ranked], random]))
  assert found.shape == (4, 2, 2)
  gain = cleaning.gain(found[0], found[1:])
  for removed, of in zip([ranked, *random], found, strict=True):
    left = np.delete(np.arange(12), removed)
    for q in range(2):
      votes = np.where(WRONG, -1, 1)[left][TRUE[left] == q].sum()
      assert votes == 0 or (np.sign(of[:, q]) == np.sign(votes)).all()
  assert (found[0] > 0).all() and 0 < gain.mean() <= 1
  assert bootstrap.of_queries(gain).value == gain.mean()
  worst = margins(tmp_path / 'b', cleaning.first(~WRONG * 1.0, 4)[None])
  assert (cleaning.gain(worst[0], found[:1]) == -1).all()


def test_rows_to_remove():
  assert cleaning.first(np.array([1.0, 3, 3, 2]), 3).tolist() == [1, 2, 3]
  drawn = cleaning.controls(10, 4, 500, seed=0)
  assert drawn.shape == (500, 4)
  assert all(len({*line}) == 4 for line in drawn.tolist())
  counts = np.bincount(drawn.ravel(), minlength=10)
  assert counts.min() > 150 and counts.max() < 250  # 200 ± 11
  assert (cleaning.controls(10, 4, 500, seed=0) == drawn).all()
  assert (cleaning.controls(10, 4, 500, seed=1) != drawn).any()


def test_gain_counts_models():
  cleaned = np.array([[1.0, 0], [1, 1]])  # 0: as likely as another class
  control = np.array([[[1.0, 0], [-1, -2]], [[-1, 3], [-1, 3]]])
  assert cleaning.gain(cleaned, control).tolist() == [1 - 1 / 4, 1 / 2 - 1 / 2]


def test_bad_input(tmp_path):
  with pytest.raises(ValueError, match='give one finite value a row'):
    cleaning.first(np.array([1, np.nan]), 1)
  with pytest.raises(ValueError, match='give 0 to 2'):
    cleaning.first(np.zeros(3), 3)
  with pytest.raises(ValueError, match=r'give \[M, k\] rows'):
    margins(tmp_path / 'a', np.arange(3))
  with pytest.raises(ValueError, match='different whole numbers from 0 to 11'):
    margins(tmp_path / 'a', np.array([[1, 1]]))
  with pytest.raises(ValueError, match='of the same queries'):
    cleaning.gain(np.zeros((2, 3)), np.zeros((2, 2, 4)))
