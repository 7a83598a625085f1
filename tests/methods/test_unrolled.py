"""Exact unrolling against finite differences of real training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax import scoring, trees
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.unrolled import contributions, unrolled
from tda_jax.training import members
from tda_jax.training.fit import Member, Recipe, total_steps

KEYS = jax.random.split(jax.random.key(4), 3)
RATES = {'sgd': 0.1, 'adam': 0.02}


@functools.cache
def recipe(kind='sgd', batch_size=4, epochs=3, augment=None):
  schedule = lambda total: optax.linear_schedule(RATES[kind], 0.01, total)

  def optimizer(total):
    if kind == 'adam':
      return optax.adam(schedule(total), eps_root=1e-4)
    return optax.sgd(schedule(total), momentum=0.9)

  init = lambda key: tiny.mlp_init((5, 4, 3), key)
  return Recipe(init, optimizer, schedule, batch_size, epochs, augment)


def noisy(key, example):
  noise = jax.random.normal(key, example['x'].shape)
  return {**example, 'x': example['x'] + 0.1 * noise}


def differences(t, made, member, step=1e-4):
  """∂measure_q/∂ log-weight of each row, by retraining in float64, [N, Q]."""
  n = rows_lib.count(t.train)
  base = np.ones(n) if member.weights is None else np.asarray(member.weights)
  change = step * np.concatenate([np.eye(n), -np.eye(n)])
  weights = base * (1 + change)
  copies = len(weights)
  subset = member.subset
  subsets = None if subset is None else np.tile(subset, (copies, 1))
  keys = jnp.broadcast_to(member.key, (copies,))
  run = members.train(
    t.problem, made, t.train, keys, subsets=subsets, weights=weights
  )
  measures = lambda p: problem_lib.measures(t.problem, p, t.queries)
  found = np.asarray(jax.jit(jax.vmap(measures))(run.params))
  return (found[:n] - found[n:]) / (2 * step)


CASES = {
  'sgd': (recipe('sgd'), Member(KEYS[0])),
  'adam': (recipe('adam'), Member(KEYS[0])),
  'subset, weights, augmentation': (
    recipe('sgd', augment=noisy),
    Member(
      KEYS[1],
      np.array([7, 2, 9, 10, 3, 0, 1]),
      np.linspace(0.5, 1.5, 11),
    ),
  ),
}


@pytest.mark.parametrize('case', CASES)
def test_scores_are_the_derivative_of_training(case):
  # 11 or 7 rows in batches of 4: the last batch of an epoch has 3. 9 or 6 steps.
  with jax.enable_x64(True):
    made, member = CASES[case]
    t = tiny.classification(l2=0.02)
    want = differences(t, made, member)
    stops = jnp.array([total_steps(made, 7 if 'subset' in case else 11)])
    parts, end = jax.jit(
      lambda: contributions(
        t.problem,
        made,
        jax.tree.map(jnp.asarray, member),
        t.train,
        t.queries,
        stops,
      )
    )()
    assert end['layer0']['w'].dtype == jnp.float64
  np.testing.assert_allclose(parts[0], want, atol=1e-6 * np.abs(want).max())
