"""Further training against plain loops of optax steps, and its expectations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import further_training as further
from tda_jax.methods import gradients
from tda_jax.methods import method as method_lib
from tda_jax.problem import losses
from tda_jax.problem import measures as measures_of
from tda_jax.storage import scores
from tda_jax.training import fit
from tda_jax.training.fit import Recipe

KEY = jax.random.key(3)
TINY = tiny.classification(l2=0.05)  # 11 rows: the last batch of 4 has 3
INDICES = np.array([0, 7, 10])
RATE = 0.3


@functools.cache
def recipe(batch_size=4, epochs=2, rate=RATE):
  schedule = lambda total: optax.constant_schedule(rate)
  sgd = lambda total: optax.sgd(rate, momentum=0.5)
  return Recipe(lambda key: None, sgd, schedule, batch_size, epochs)


def run(path, t=TINY, **changes):
  given = {
      'recipe': recipe(), 'params': t.params, 'indices': INDICES, 'repeats': 2,
      'key': KEY, 'members_at_once': 3, 'progress': False,
  }  # fmt: skip
  return further.further_training(
    t.problem, train=t.train, queries=t.queries, path=path, **(given | changes)
  )


def plain(mode, out, repeat, point):
  """The measures [Q] after `point` steps of a plain loop."""
  t, made, n = TINY, recipe(), rows_lib.count(TINY.train)
  key = jax.random.fold_in(KEY, repeat)
  params, state, done = t.params, OPTIMIZER.init(t.params), 0
  for epoch in range(made.epochs):
    order = np.asarray(shuffle(key, epoch, n, 4)).ravel()[:n]
    if mode == 'delete' and out is not None:
      order = order[order != out]
    for first in range(0, len(order), 4):
      batch = order[first : first + 4]
      weights = np.zeros(n, np.float32)
      weights[batch] = 1 / len(batch)
      if mode == 'zero weight' and out is not None:
        weights[out] = 0
      if mode == 'every batch' and out is not None:
        weights[out] -= 1 / n
      params, state = step(params, state, weights)
      done += 1
      if done == point:
        return np.asarray(measure(params))


OPTIMIZER = optax.sgd(RATE, momentum=0.5)
shuffle = jax.jit(fit.epoch_order, static_argnums=(2, 3))
measure = jax.jit(lambda p: measures_of(TINY.problem, p, TINY.queries))


@jax.jit
def step(params, state, weights):
  """One of the optimiser on Σ_i weights_i loss_i and the regulariser."""

  def objective(p):
    squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))
    own = weights @ losses(TINY.problem, p, TINY.train)
    return own + TINY.problem.l2 * squares / 2

  gradient = jax.grad(objective)(params)
  updates, state = OPTIMIZER.update(gradient, state, params)
  return optax.apply_updates(params, updates), state


@pytest.mark.parametrize('mode', further.MODES)
def test_it_is_a_plain_loop(mode, tmp_path):
  base, left = run(tmp_path / 's', points=[1, 4, 6], mode=mode)
  assert base.shape == (2, 3, 4) and left.shape == (3, 2, 3, 4)
  for r in range(2):
    for t, point in enumerate([1, 4, 6]):
      np.testing.assert_allclose(
        base[r, t], plain(mode, None, r, point), atol=1e-5
      )
    for i, out in enumerate(INDICES):
      np.testing.assert_allclose(
        left[i, r, 2], plain(mode, out, r, 6), atol=1e-5
      )
  assert np.abs(base[0] - base[1]).max() > 1e-3
  assert np.abs(left - base).max() > 1e-3


def test_points_are_ends_of_epochs_unless_given(tmp_path):
  every, _ = run(tmp_path / 'a')
  chosen, _ = run(tmp_path / 'b', points=[3, 6])
  np.testing.assert_array_equal(every, chosen)


def test_one_small_step_is_scaled_grad_dot(tmp_path):
  """One step of all rows: lr · (1/N) ∇loss_q·∇loss_i, sign and scale."""
  rate = 1e-2
  t = TINY._replace(
    problem=TINY.problem._replace(measure=lambda o, e: -TINY.problem.loss(o, e))
  )
  base, left = run(
      tmp_path / 's', t, recipe=recipe(11, 1, rate), indices=np.arange(11),
      repeats=1,
  )  # fmt: skip
  effects = further.adjusted(base, left, subtract_mean=False)[:, 0, 0]
  wanted = method_lib.attribute(
    gradients.grad_dot(), t.problem, t.params, t.train, t.queries
  )
  scale = rate * np.abs(wanted).max()
  np.testing.assert_allclose(effects, rate * wanted, atol=0.03 * scale)


def test_modes_agree_in_expectation_and_every_batch_varies_less(tmp_path):
  small = recipe(4, 1, 0.02)
  effects = {}
  for mode in ('zero weight', 'every batch'):
    base, left = run(
        tmp_path / mode, recipe=small, repeats=200, mode=mode, members_at_once=200,
    )  # fmt: skip
    effects[mode] = further.adjusted(base, left, subtract_mean=False)[:, :, 0]
  # Batches of 4, 4 and 3 weigh a row 1/4 or 1/3, 3/11 in the mean.
  means = {mode: e.mean(1) for mode, e in effects.items()}
  errors = sum(e.var(1) / 200 for e in effects.values()) ** 0.5
  drift = 0.05 * np.abs(means['every batch']).max()  # second order in the rate
  gap = np.abs(means['zero weight'] - means['every batch'])
  assert (gap < 4 * errors + drift).all()
  assert np.abs(means['every batch']).max() > 10 * errors.max()
  spread = {mode: e.std(1).mean() for mode, e in effects.items()}
  assert spread['every batch'] < 0.5 * spread['zero weight']


def test_adjustments():
  rng = np.random.default_rng(0)
  base, left = rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 2, 3, 4))
  plain = further.adjusted(base, left, subtract_mean=False)
  np.testing.assert_allclose(plain[1, 0, 2], base[0, 2] - left[1, 0, 2])
  centred = further.adjusted(base, left)
  np.testing.assert_allclose(centred.mean(0), 0, atol=1e-12)
  # With the second adjustment the first changes nothing.
  np.testing.assert_allclose(
    centred, further.adjusted(0 * base, left), atol=1e-12
  )


def test_killed_and_continued_to_the_same_numbers(tmp_path, monkeypatch):
  whole = run(tmp_path / 'whole')  # 8 models in blocks of 3
  real, calls = scores.write, []

  def dies(store, start, block):
    if len(calls) == 2:
      raise KeyboardInterrupt
    calls.append(start)
    real(store, start, block)

  monkeypatch.setattr(scores, 'write', dies)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'cut')
  monkeypatch.setattr(
    scores, 'write', lambda *a: (calls.append(a[1]), real(*a))
  )
  for old, new in zip(whole, run(tmp_path / 'cut'), strict=True):
    np.testing.assert_array_equal(old, new)
  assert calls == [0, 3, 6]


@pytest.mark.parametrize(
  'changes, field',
  [
    ({'params': jax.tree.map(lambda x: x + 1, TINY.params)}, 'params'),
    ({'mode': 'every batch'}, 'mode'),
    ({'points': [1, 3]}, 'points'),
    ({'indices': INDICES[::-1]}, 'indices'),
  ],
)
def test_a_store_of_another_run_is_refused(tmp_path, changes, field):
  run(tmp_path / 's', points=[2, 6])
  with pytest.raises(ValueError, match=f'another run .*{field}'):
    run(tmp_path / 's', **({'points': [2, 6]} | changes))


def nan(tree):
  return jax.tree.map(lambda x: x * jnp.nan, tree)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'indices': [11]}, 'rows from 0 to 10'),
    ({'indices': [-1]}, 'rows from 0 to 10'),
    ({'points': [0, 3]}, 'rising steps from 1 to 6'),
    ({'points': [3, 2]}, 'rising steps from 1 to 6'),
    ({'points': [7]}, 'rising steps from 1 to 6'),
    ({'mode': 'remove'}, "mode='remove': use one of zero weight"),
    ({'params': {}}, 'parameters are empty'),
    ({'params': nan(TINY.params)}, 'parameters has NaN'),
    (
      {'mode': 'delete', 'recipe': recipe(batch_size=5)},
      'leaves the last batch of 5 empty',
    ),
  ],
)
def test_bad_input(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    run(tmp_path / 's', **changes)
  assert not (tmp_path / 's').exists()


def test_divergence_names_the_model(tmp_path):
  with pytest.raises(ValueError, match='of all rows, repeat 0 diverged'):
    run(tmp_path / 's', recipe=recipe(rate=1e38))


def test_models_are_continued_each_with_its_own_key(tmp_path):
  keys = jnp.stack([jax.random.fold_in(KEY, r) for r in range(2)])
  stack = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), TINY.params)
  base, left = run(tmp_path / 's', params=stack, key=keys)
  for r in range(2):
    one = jax.tree.map(lambda x, r=r: x[r], stack)
    alone = run(tmp_path / str(r), params=one)  # with the same keys
    np.testing.assert_allclose(base[r], alone[0][r], atol=1e-5)
    np.testing.assert_allclose(left[:, r], alone[1][:, r], atol=1e-5)
  with pytest.raises(ValueError, match='2 models and 3 keys'):
    run(tmp_path / 't', params=stack, repeats=3, key=jax.random.split(KEY, 3))
