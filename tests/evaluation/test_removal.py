"""Runs without rows or tokens: what stays of the run, and what it shows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tda_jax.data import subsets
from tda_jax.evaluation import qld, reliability, removal, retraining
from tda_jax.problem import Problem, regression
from tda_jax.training import fit, members
from tda_jax.training.fit import Recipe

PROBLEM = regression(lambda params, x: x @ params, l2=0.1)
KEYS = jax.random.split(jax.random.key(7), 2)


@functools.cache
def recipe(batch_size=5, epochs=3, rate=0.1):
  schedule = optax.constant_schedule(rate)
  return Recipe(
    lambda key: jax.random.normal(key, (3,)),
    lambda total: optax.sgd(schedule),
    lambda total: schedule,
    batch_size,
    epochs,
  )


def rows(seed, n):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, 3)).astype(np.float32)
  return {'x': x, 'y': (x.sum(1) + rng.normal(size=n)).astype(np.float32)}


TRAIN, QUERIES = rows(0, 12), rows(1, 4)


def without(path, removed, **changes):
  given = {
    'problem': PROBLEM,
    'recipe': recipe(),
    'train': TRAIN,
    'queries': QUERIES,
    'keys': KEYS,
    'members_at_once': 3,
    'progress': False,
  }
  return removal.without(removed=removed, path=path, **(given | changes))


def test_what_is_frozen_is_of_all_models(tmp_path):
  """As if the model had it within: the same numbers, and known by its contents."""
  base = np.array([1.0, -2.0, 0.5], np.float32)
  within = regression(lambda params, x: x @ (params + base), l2=0.1)
  apart = regression(lambda params, x, base: x @ (params + base), l2=0.1)
  removed = np.array([[0], [3], [7]])
  wanted = without(tmp_path / 'within', removed, problem=within)
  found = without(tmp_path / 'apart', removed, problem=apart, frozen=base)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  assert np.abs(without(tmp_path / 'none', removed) - found).max() > 1e-3
  with pytest.raises(ValueError, match='frozen'):
    without(tmp_path / 'apart', removed, problem=apart, frozen=2 * base)
  given = PROBLEM, recipe(), TRAIN, QUERIES
  subsets_of = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
  options = {'repeats': 2, 'key': KEYS[0], 'progress': False}
  wanted, found = (
    retraining.outcomes(problem, *given[1:], subsets_of, **options, **more)
    for problem, more in (
      (within, {'path': tmp_path / 'a'}),
      (apart, {'path': tmp_path / 'b', 'frozen': base}),
    )
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  weights = np.ones((2, 12))
  weights[1, 4] = 0
  del options['repeats'], options['key']
  wanted, found = (
    retraining.reweighted(
      problem, *given[1:], weights, keys=KEYS, **options, **more
    )
    for problem, more in (
      (within, {'path': tmp_path / 'c'}),
      (apart, {'path': tmp_path / 'd', 'frozen': base}),
    )
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_without_anything_removed_it_is_the_run_itself(tmp_path):
  run = members.train(PROBLEM, recipe(), TRAIN, KEYS)
  found = without(tmp_path / 's', np.zeros((1, 0), int))
  wanted = retraining.measures(PROBLEM, run.params, QUERIES)
  np.testing.assert_array_equal(found[0], wanted)


def test_removed_rows_take_no_part_in_the_steps_of_the_run(tmp_path):
  """Against SGD in numpy over the run's own batches of 5, 5 and 2 rows."""
  removed = np.array([[3, 8], [0, 11], [5, 4]])
  found = without(tmp_path / 's', removed)
  assert found.shape == (3, 2, 4)
  x, y = (TRAIN[name].astype(np.float64) for name in 'xy')
  for m in range(3):
    for r in range(2):
      theta = np.asarray(recipe().init(jax.random.fold_in(KEYS[r], 0)), float)
      for epoch in range(3):
        order = np.asarray(fit.epoch_order(KEYS[r], epoch, 12, 5)).ravel()
        for batch in (order[:5], order[5:10], order[10:12]):
          left = np.setdiff1d(batch, removed[m])
          gradient = 2 * x[left].T @ (x[left] @ theta - y[left]) / len(batch)
          theta = theta - 0.1 * (gradient + 0.1 * theta)
      wanted = -np.abs(QUERIES['x'] @ theta - QUERIES['y'])
      np.testing.assert_allclose(found[m, r], wanted, 1e-4, 1e-5)


def test_at_convergence_it_is_the_fit_without_the_rows(tmp_path):
  """Ridge regression in closed form; the mean is still over all N rows."""
  removed = np.array([[2, 7, 9]])
  found = without(tmp_path / 's', removed, recipe=recipe(12, 400, 0.2))
  kept = subsets.complement(removed, 12)[0]
  x, y = TRAIN['x'][kept], TRAIN['y'][kept]
  theta = np.linalg.solve(2 * x.T @ x / 12 + 0.1 * np.eye(3), 2 * x.T @ y / 12)
  wanted = -np.abs(QUERIES['x'] @ theta - QUERIES['y'])
  np.testing.assert_allclose(found[0], np.stack([wanted] * 2), atol=1e-4)


def test_runs_are_those_of_their_keys_and_the_store_continues(tmp_path):
  removed = np.array([[1], [6]])
  found = without(tmp_path / 'a', removed)
  again = without(tmp_path / 'b', removed[::-1], keys=KEYS[::-1])
  np.testing.assert_allclose(again[::-1, ::-1], found, 1e-6)
  assert len(np.unique(found)) == found.size
  np.testing.assert_array_equal(without(tmp_path / 'a', removed), found)
  for changes in ({'keys': KEYS[::-1]}, {'removed': removed[::-1]}):
    with pytest.raises(ValueError, match='another run .*(keys|removed)'):
      without(tmp_path / 'a', **({'removed': removed} | changes))


def test_removing_what_supports_a_query_costs_it_more_than_random(tmp_path):
  """Exact leave-one-out scores of the run against random and reversed ones."""
  one = functools.partial(without, keys=KEYS[:1])
  left = one(tmp_path / 'left', np.arange(12)[:, None])
  base = one(tmp_path / 'base', np.zeros((1, 0), int))
  scores = (base - left)[:, 0]  # [N, Q]
  random = np.random.default_rng(5).normal(size=scores.shape)
  controls = one(tmp_path / 'c', removal.at_random(12, 30, 0, share=0.17))
  values = {}
  for name, of in (('oracle', scores), ('random', random), ('worst', -scores)):
    filtered = one(tmp_path / name, removal.top(of, 0.17))
    values[name] = qld.interval(filtered, controls)
  assert values['oracle'].low > max(0, values['random'].value)
  assert values['worst'].value < 0


def test_top_and_random_removals_of_rows():
  scores = np.array([[1.0, -5], [3, 2], [2, 7], [0, 3]])
  assert removal.top(scores, 0.5).tolist() == [[1, 2], [2, 3]]
  assert removal.top(scores).tolist() == [[1], [2]]  # at least one row
  drawn = removal.at_random(200, 400, seed=1)
  assert drawn.shape == (400, 2) and (drawn[:, 0] < drawn[:, 1]).all()
  np.testing.assert_array_equal(removal.at_random(200, 9, seed=1), drawn[:9])
  assert (removal.at_random(200, 9, seed=2) != drawn[:9]).any()
  # Each row is as likely as any other: 4 times expected, Poisson.
  counts = np.bincount(drawn.ravel(), minlength=200)
  assert counts.mean() == 4 and 3 < counts.var() < 5


def test_top_and_random_removals_of_tokens_are_of_those_that_count():
  mask = np.array([[1.0, 1, 0], [1, 0, 0], [0.5, 1, 1]])
  scores = np.arange(18.0).reshape(3, 3, 2)[::-1]
  scores[0, 2], scores[1, 1:] = 99, np.nan
  scores[..., 1] *= -1
  assert removal.top(scores, 0.34, mask).tolist() == [[1, 0], [6, 7]]
  drawn = removal.at_random(mask, 40, seed=0, share=0.34)
  assert drawn.shape == (40, 2)
  assert set(drawn.ravel()) == {0, 1, 3, 6, 7, 8}


def tokens_problem():
  """A table of bigrams: logits of the next token are a row of it."""

  def likelihood(outputs, example):
    picked = jnp.take_along_axis(
      jax.nn.log_softmax(outputs), example['targets'][:, None], 1
    )
    return jnp.sum(example['mask'] * picked[:, 0])

  return Problem(
    lambda params, example: params[example['ids']],
    lambda outputs, example: -likelihood(outputs, example),
    likelihood,
    lambda key, outputs, example: example,
    lambda shape, rows: None,
    reads=('ids', 'targets', 'mask'),
  )


BIGRAMS = tokens_problem()
RNG = np.random.default_rng(2)
TEXTS = {
  'ids': RNG.integers(0, 5, (6, 4)).astype(np.int32),
  'targets': RNG.integers(0, 5, (6, 4)).astype(np.int32),
  'mask': np.float32([[1, 1, 1, 1]] * 5 + [[1, 1, 0, 0]]),
}
OF_TOKENS = {
  'problem': BIGRAMS,
  'recipe': recipe(4, 2)._replace(init=lambda key: jax.random.normal(key, (5, 5))),
  'train': TEXTS,
  'queries': {name: column[:3] for name, column in TEXTS.items()},
}  # fmt: skip


def test_removed_tokens_are_those_whose_mask_is_zero(tmp_path):
  removed = np.array([[1, 6], [20, 21]])  # the last are all of row 5
  found = without(tmp_path / 's', removed, column='mask', **OF_TOKENS)
  for m in range(2):
    mask = TEXTS['mask'].copy()
    mask.ravel()[removed[m]] = 0
    run = members.train(
      BIGRAMS, OF_TOKENS['recipe'], {**TEXTS, 'mask': mask}, KEYS
    )
    wanted = retraining.measures(BIGRAMS, run.params, OF_TOKENS['queries'])
    np.testing.assert_allclose(found[m], wanted, 1e-6)
  row = without(tmp_path / 'row', np.array([[5]]), **OF_TOKENS)
  np.testing.assert_allclose(found[1], row[0], 1e-6)
  assert (np.abs(found[0] - found[1]) > 1e-4).any()


def test_halves_and_seeds_of_rows_without_x_and_y(tmp_path):
  """The other protocol, with its ceiling, of rows of tokens."""
  outcomes = retraining.outcomes(
    **OF_TOKENS,
    subsets=subsets.half_subsets(0, 6, 5),
    repeats=2,
    key=KEYS[0],
    path=tmp_path / 's',
    progress=False,
  )
  assert outcomes.shape == (5, 2, 3)
  assert (reliability.ceiling(outcomes, resamples=2).per_query <= 1).all()
  key = jax.random.fold_in(jax.random.fold_in(KEYS[0], 1), 4)
  run = members.train(
    BIGRAMS,
    OF_TOKENS['recipe'],
    TEXTS,
    key[None],
    subsets=subsets.half_subsets(0, 6, 5)[4:],
  )
  wanted = retraining.measures(BIGRAMS, run.params, OF_TOKENS['queries'])
  np.testing.assert_allclose(outcomes[4, 1], wanted[0], 1e-5)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'removed': [[0, 12]]}, 'removed must hold .* from 0 to 11'),
    ({'removed': [[-1, 1]]}, 'removed must hold .* from 0 to 11'),
    ({'removed': [[3, 3]]}, 'removed must hold different'),
    ({'removed': [[0.5]]}, 'whole numbers'),
    ({'removed': [3]}, r'give \[M, k\] rows'),
    (
      {'removed': [[0]], 'column': 'mask'},
      r"no column of weights .* one of \['x', 'y'\]",
    ),
    ({'removed': [[24]], 'column': 'mask', **OF_TOKENS}, 'from 0 to 23'),
    ({'removed': [[1]], 'column': 'ids', **OF_TOKENS}, r"one of \['mask'\]"),
    ({'removed': [[1]], 'column': 'z', **OF_TOKENS}, "column='z' is no column"),
  ],
)
def test_bad_removals(tmp_path, changes, words):
  with pytest.raises(ValueError, match=words):
    without(tmp_path / 's', **changes)
  assert not (tmp_path / 's').exists()


def test_bad_scores_and_shares():
  with pytest.raises(
    ValueError, match=r'\[N, T, Q\] of tokens with their mask'
  ):
    removal.top(np.zeros((3, 2, 2)))
  with pytest.raises(
    ValueError, match=r'\[N, T, Q\] of tokens with their mask'
  ):
    removal.top(np.zeros((3, 2, 2)), mask=np.ones((3, 3)))
  with pytest.raises(ValueError, match='not finite'):
    removal.top(np.full((3, 2), np.nan))
  for share in (0, 1, -0.1, 0.9):
    with pytest.raises(ValueError, match=f'a share of {share} of 3'):
      removal.at_random(3, 2, 0, share)
