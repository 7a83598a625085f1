"""SOURCE against dense matrix functions, influence and exact unrolling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import tiny

from tda_jax import trees
from tda_jax.curvature import ekfac
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import descent, exact
from tda_jax.methods import influence
from tda_jax.methods import method as method_lib
from tda_jax.methods.source import response, source
from tda_jax.methods.unrolled import unrolled
from tda_jax.run import members_of
from tda_jax.training import members
from tda_jax.training.fit import Recipe

KEY = jax.random.key(2)


def attribute(method, t, run, **kwargs):
  return method_lib.attribute(
    method, t.problem, run, t.train, t.queries, key=KEY, **kwargs
  )


def dense(t, blocks):
  return tiny.flat(
    _dense(t.problem, t.params, t.train, blocks, tiny.basis(t.params))
  )


@functools.partial(jax.jit, static_argnums=0)
def _dense(problem, params, train, blocks, v):
  of = lambda _, values: values
  return ekfac.apply(blocks, of, problem, params, rows_lib.take(train, 0), v)


@functools.partial(jax.jit, static_argnums=0)
def fitted(problem, checkpoints, stack, key):
  return ekfac.fit_average(problem, checkpoints, stack, key, labels='exact')


def mean_gradients(t, part):
  """ḡ of a segment's checkpoints at each training row, [N, P]."""
  every = [
    tiny.gradients(
      t.problem.loss, t._replace(params=trees.row(part, c)), t.train
    )
    for c in range(trees.count(part))
  ]
  return np.mean(every, 0)


def by_expm(t, run, segments):
  """The recursion with scipy's expm on the dense EKFAC of each segment."""
  n, per = len(t.train['y']), len(run.steps) // segments
  stack = rows_lib.stacked(t.train, 4)
  u = tiny.gradients(t.problem.measure, t, t.queries)
  scores = np.zeros((n, len(u)))
  for i in reversed(range(segments)):
    part = jax.tree.map(
      lambda x, i=i: x[i * per : (i + 1) * per], run.checkpoints
    )
    span = 10 * 20 * np.sum(run.learning_rates[i * per : (i + 1) * per])
    own = jax.random.fold_in(KEY, i)
    blocks = fitted(t.problem, part, stack, own)
    g = dense(t, blocks) + t.problem.l2 * np.eye(u.shape[1])
    # (1 − e^{−tG})G⁻¹ is a block of the exponential of [[−tG, tI], [0, 0]].
    eye, zero = span * np.eye(len(g)), np.zeros_like(g)
    both = scipy.linalg.expm(np.block([[-span * g, eye], [zero, zero]]))
    r, s = both[: len(g), len(g) :], both[: len(g), : len(g)]
    scores -= mean_gradients(t, part) @ (u @ r).T / n
    u = u @ s.T
  return scores


def least_squares(count, segments):
  """Full-batch descent on a linear model: EKFAC is the curvature itself."""
  t = tiny.regression(n=12, widths=(3, 1), l2=0.02)
  schedule = lambda total: optax.constant_schedule(0.005)
  recipe = Recipe(
    lambda key: tiny.mlp_init((3, 1), key),
    lambda total: optax.sgd(0.005),
    schedule,
    batch_size=12,
    epochs=320,
  )
  run = members.train(
    t.problem, recipe, t.train, jax.random.split(KEY, 1), checkpoints=count
  )
  run = trees.row(members_of(run), 0)
  true = attribute(unrolled(recipe), t, run)
  method = source(segments, 0.0, labels='exact')
  return np.abs(attribute(method, t, run) - true).max() / np.abs(true).max()


@pytest.mark.parametrize('l2', [0.0, 0.01])
def test_filters_equal_dense_matrix_functions(l2):
  t = tiny.classification(l2=l2)
  run = tiny.run(t.params)
  want = by_expm(t, run, 2)
  got = attribute(source(2, labels='exact'), t, run)
  np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())
  whole = attribute(source(1, labels='exact'), t, run)
  assert np.abs(whole - want).max() > 0.05 * np.abs(want).max()


def test_the_response_is_smooth_at_zero():
  values = np.array([0, 1e-30, 1e-12, 1e-4, 1.0, 1e4])
  want = [3, 3, 3, 3 - 4.5e-4, -np.expm1(-3.0), 1e-4]
  np.testing.assert_allclose(response(jnp.array(values), 3.0), want, 1e-6)


def test_one_segment_with_a_solver_is_influence():
  t = tiny.classification(l2=0.01)
  run = tiny.run(t.params, 1)
  want = influence.influence(exact.exact(0.1 / (0.1 * 20)))
  want = attribute(want, t, run.params)
  got = attribute(source(1, 0.9, exact.exact), t, run)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_a_solver_works_at_the_mean_weights_and_its_report_is_kept():
  """L = 1: x = (G(θ̄) + damping)⁻¹ u, against ḡ of both checkpoints."""
  t = tiny.classification()
  run = tiny.run(t.params, 2)
  solver = lambda damping: descent.astra(damping, steps=300, rounds=8)
  method = source(1, 0.9, solver)
  prepare = jax.jit(method.prepare, static_argnums=0)
  prepared = prepare(t.problem, run, t.train, t.queries, KEY)
  at_mean = t._replace(params=trees.scaled(0.9, t.params))
  ggn = tiny.dense_ggn(at_mean, t.train)
  u = tiny.gradients(t.problem.measure, t, t.queries)
  x = np.linalg.solve(ggn + np.eye(len(ggn)) / 60, u.T)
  want = -mean_gradients(t, run.checkpoints) @ x / 11
  got = method.score(t.problem, run, prepared, tiny.batch(t.train))
  np.testing.assert_allclose(got, want, atol=0.03 * np.abs(want).max())
  found = prepared.solution
  assert found.residuals.shape[1] == 4 and found.converged.all()
  assert not found.diverged.any()
  np.testing.assert_allclose(found.damping, 1 / 60, 1e-5)


def test_a_solver_that_diverges_in_one_segment_is_told():
  t = tiny.classification()
  solver = lambda damping: descent.neumann(damping, step_size=1e6, steps=20)
  with pytest.raises(ValueError, match='diverged on 4 of 4'):
    attribute(source(2, 0.9, solver), t, tiny.run(t.params))


@pytest.mark.slow
def test_segments_come_near_the_exact_derivative_as_they_get_shorter():
  """Error in (C, L): first order in the length of a stretch of training."""
  long, short = least_squares(4, 2), least_squares(16, 4)
  assert long < 0.06 and short < 0.02


def test_batches_and_members_do_not_change_the_scores():
  t = tiny.classification()
  method = source(2, labels='exact')
  runs = [tiny.run(trees.scaled(s, t.params)) for s in (1.0, -0.5)]
  alone = [attribute(method, t, run, batch_size=4) for run in runs]
  stack = lambda *x: jnp.stack(x)
  many = runs[0]._replace(
    params=jax.tree.map(stack, *(run.params for run in runs)),
    checkpoints=jax.tree.map(stack, *(run.checkpoints for run in runs)),
  )
  got = attribute(method_lib.ensemble(method), t, many)
  np.testing.assert_allclose(
    got, np.mean(alone, 0), atol=1e-4 * np.abs(got).max()
  )


def test_errors_say_what_to_do():
  t = tiny.classification()
  run = tiny.run(t.params)
  with pytest.raises(ValueError, match='source follows.*has none: train with'):
    attribute(source(), t, run._replace(checkpoints=None))
  with pytest.raises(ValueError, match='4 checkpoints cannot be cut into 3'):
    attribute(source(3), t, run)
  with pytest.raises(
    ValueError, match='momentum=1.0: give a number from 0 to below 1'
  ):
    source(3, 1.0)
