"""TracIn against a plain sum of dense gradients, and against training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods import tracin
from tda_jax.run import Run
from tda_jax.training import members
from tda_jax.training.fit import Recipe

RATES, STEPS = np.array([0.1, 0.05, 0.02]), np.array([4, 10, 13])


def checkpoints(t):
  return jax.tree.map(lambda x: jnp.stack([0.3 * x, -x, x]), t.params)


def attribute(t, run, method=None):
  return method_lib.attribute(
    method or tracin.tracin(), t.problem, run, t.train, t.queries
  )


def test_is_the_sum_over_checkpoints():
  t = tiny.classification()
  stack = checkpoints(t)
  want = 0
  for c, weight in enumerate([0.1 * 4, 0.05 * 6, 0.02 * 3]):
    at = t._replace(params=jax.tree.map(lambda x, c=c: x[c], stack))
    m = tiny.gradients(t.problem.measure, at, t.queries)
    g = tiny.gradients(t.problem.loss, at, t.train)
    want = want - weight * g @ m.T / len(g)
  got = attribute(t, Run(t.params, stack, RATES, STEPS))
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_an_ensemble_is_the_mean_of_its_members():
  t = tiny.classification()
  stack = checkpoints(t)
  both = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), (t.params, stack))
  method = method_lib.ensemble(tracin.tracin())
  got = attribute(t, Run(*both, RATES, STEPS), method)
  alone = [
    attribute(t, Run(*jax.tree.map(lambda x, e=e: x[e], both), RATES, STEPS))
    for e in range(2)
  ]
  np.testing.assert_allclose(got, np.mean(alone, 0), atol=1e-6)


def test_sign_and_scale_are_those_of_training_without_the_row():
  """Full-batch descent, so short that curvature has not damped the effect."""
  t = tiny.classification(n=8)
  rate = lambda steps: optax.constant_schedule(0.004)
  init = lambda key: tiny.mlp_init((5, 4, 3), key)
  recipe = Recipe(init, lambda steps: optax.sgd(0.004), rate, 8, 40)
  keys = jax.random.split(jax.random.key(0), 1)
  keys = jnp.repeat(keys, 9)
  weights = 1.0 - np.eye(9, 8)[np.r_[8, 0:8]]  # the first leaves out none
  runs = members.train(
    t.problem, recipe, t.train, keys, weights=weights, checkpoints=20
  )
  measures = jax.vmap(lambda p: problem_lib.measures(t.problem, p, t.queries))(
    runs.params
  )
  effects = np.asarray(measures[:1] - measures[1:], np.float64)
  whole = runs._replace(
    params=jax.tree.map(lambda x: x[0], runs.params),
    checkpoints=jax.tree.map(lambda x: x[0], runs.checkpoints),
    keys=runs.keys[0],
  )
  scores = attribute(t, whole)
  assert np.corrcoef(scores.ravel(), effects.ravel())[0, 1] > 0.99
  slope = (scores * effects).sum() / (effects**2).sum()
  assert 0.85 < slope < 1.15


def test_a_run_without_checkpoints_is_refused():
  t = tiny.classification()
  with pytest.raises(ValueError, match='this one has none: train with'):
    attribute(t, t.params)
  run = Run(t.params, checkpoints(t), RATES[:2], STEPS)
  with pytest.raises(ValueError, match='3 checkpoints and learning_rates='):
    attribute(t, run)
