"""What training on a set does, against dense float64 solves and retraining."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import tda_jax as tda
from tda_jax import door
from tda_jax.evaluation import lds
from tda_jax.methods import sets

DAMPING = 0.05
KEY = jax.random.key(1)
SUBSETS = np.array([[0, 2, 3, 7, 9], [1, 2, 4, 8, 10], [0, 1, 5, 6, 7]])
NEWTON = sets.newton(DAMPING, batch_size=4, tolerance=1e-5)


def predicted(method, t, subsets=SUBSETS, params=None):
  params = t.params if params is None else params
  return tda.predict_sets(
    method, t.problem, params, t.train, t.queries, subsets, key=KEY
  )


def dense_steps(t, subset, damping, steps=1, stationary=True):
  """∇measure · Δ by Newton's steps on the linearised model, [Q], in float64."""
  m = tiny.gradients(t.problem.measure, t, t.queries)
  j, l2 = tiny.jacobian(t, t.train), t.problem.l2
  theta = tiny.flat(jax.tree.map(lambda x: x[None], t.params))[0]
  x = lambda rows: jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], t.train)
  with jax.enable_x64(True):
    z0 = jax.vmap(t.problem.outputs, (None, 0))(
      jax.tree.map(lambda p: jnp.asarray(p, float), t.params), t.train
    )
    slopes = jax.jit(jax.vmap(jax.grad(t.problem.loss)))
    curved = jax.jit(jax.vmap(jax.hessian(t.problem.loss)))
    everything = slopes(z0, t.train)
    rest = np.einsum('nk,nkp->p', everything, j) / len(j) + l2 * theta
    rest = rest if stationary else 0 * rest
    delta, js = np.zeros(len(theta)), j[subset]
    for _ in range(steps):
      z = z0[subset] + js @ delta
      g = np.einsum('nk,nkp->p', slopes(z, x(subset)), js) / len(js)
      g = g + l2 * (theta + delta) + damping * delta - rest
      h = np.einsum('nkp,nkl,nlq->pq', js, curved(z, x(subset)), js) / len(js)
      delta = delta - np.linalg.solve(h + (l2 + damping) * np.eye(len(h)), g)
  return m @ delta


@pytest.mark.parametrize('steps, stationary', [(1, False), (3, True)])
def test_the_steps_are_those_of_a_dense_solve(steps, stationary):
  t = tiny.classification(l2=0.02)
  method = sets.newton(
    DAMPING, steps=steps, stationary=stationary, batch_size=4, tolerance=1e-5
  )
  got = predicted(method, t)
  want = [dense_steps(t, s, DAMPING, steps, stationary) for s in SUBSETS]
  np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize(
  'options',
  [
    {'memory_limit': 12 * 3**2},
    pytest.param(
      {'precondition': tda.ekfac(DAMPING, labels='exact')},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_the_preconditioner_changes_no_prediction(options):
  t = tiny.classification(l2=0.02)
  method = sets.newton(DAMPING, batch_size=4, tolerance=1e-5, **options)
  want = [dense_steps(t, s, DAMPING) for s in SUBSETS]
  np.testing.assert_allclose(
    predicted(method, t), want, atol=2e-3 * np.abs(want).max()
  )


def _linear(n=12, q=5, l2=0.3):
  """Ridge regression: (problem, rows, queries, rows -> the minimum)."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(n + q, 4)), rng.normal(size=n + q)
  problem = tda.regression(lambda p, x: x @ p['w'], l2)
  problem = problem._replace(measure=lambda z, example: jnp.sum(z))
  rows = {'x': x.astype(np.float32), 'y': y.astype(np.float32)}
  part = lambda s: jax.tree.map(lambda leaf: leaf[s], rows)

  def minimum(chosen):
    a, b = x[chosen], y[chosen]
    system = 2 * a.T @ a / len(a) + l2 * np.eye(4)
    return np.linalg.solve(system, 2 * a.T @ b / len(a))

  return problem, part(slice(n)), part(slice(n, None)), minimum


def test_of_ridge_regression_it_is_retraining():
  problem, train, queries, minimum = _linear()
  whole = minimum(np.arange(12))
  rng = np.random.default_rng(1)
  masks = rng.random((4, 12)) < 0.5  # of different sizes
  got = tda.predict_sets(
    sets.newton(0.0, tolerance=1e-6),
    problem,
    {'w': jnp.asarray(whole, jnp.float32)},
    train,
    queries,
    masks,
  )
  change = [minimum(np.flatnonzero(mask)) - whole for mask in masks]
  want = np.array(change) @ queries['x'].T
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_all_rows_change_nothing_and_one_row_what_its_score_says():
  t = tiny.classification(n=40, l2=0.02)
  problem = t.problem
  everything = np.arange(40)
  without = np.array([np.delete(everything, i) for i in (0, 7, 31)])
  subsets = np.ones((4, 40), bool)
  subsets[np.arange(3), [0, 7, 31]] = False
  # The limit of a curvature that the damping outweighs.
  method, additive = sets.newton(3.0), tda.influence(tda.exact(3.0))
  got = predicted(method, t, subsets)
  np.testing.assert_allclose(got[3], 0, atol=1e-5 * np.abs(got).max())
  scores = tda.attribute(additive, problem, t.params, t.train, t.queries)
  # Of the mean over 39 rows: n/(n − 1) (∇L − ∇loss_i/n) is what is left.
  n, centred = 40, scores - scores.mean(0)
  want = (lds.predictions(centred, without) - centred.sum(0)) * n / (n - 1)
  np.testing.assert_allclose(got[:3], want, atol=0.02 * np.abs(want).max())


def test_padding_batches_and_members_change_nothing():
  t = tiny.classification(l2=0.02)
  want = predicted(NEWTON, t)
  masks = np.zeros((4, 11), bool)
  np.put_along_axis(masks[:3], SUBSETS, True, 1)
  masks[3] = True  # beside which the others are padded
  scale = np.abs(want).max()
  method = sets.newton(DAMPING, batch_size=3, tolerance=1e-5)
  got = predicted(method, t, masks)
  np.testing.assert_allclose(got[:3], want, atol=1e-4 * scale)
  other = jax.tree.map(lambda x: 0.5 * x, t.params)
  two = jax.tree.map(lambda *x: jnp.stack(x), t.params, other)
  both = np.mean([want, predicted(NEWTON, t, params=other)], 0)
  np.testing.assert_allclose(
    predicted(NEWTON, t, params=two), both, atol=1e-4 * scale
  )


def test_what_is_left_is_told():
  t = tiny.classification(l2=0.02)
  short = sets.newton(
    1e-4, memory_limit=12, tolerance=1e-5, max_steps=1, batch_size=4
  )
  with pytest.warns(door.NotConverged, match='newton stopped before'):
    predicted(short, t)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    (found,) = sets.by_member(
      NEWTON, t.problem, t.params, t.train, t.queries, SUBSETS, KEY
    )
  assert found.solution.converged.all()
  assert found.solution.residuals[-1].max() < 2e-5
  assert found.solution.residuals.shape[1:] == found.gradient.shape == (3,)


def test_wrong_arguments_are_refused():
  t = tiny.classification()
  for subsets, sentence in (
    (np.zeros((1, 11), bool), 'a set has no rows'),
    (np.ones((1, 5), bool), r'give \[M, 11\]'),
    ([[0, 11]], 'whole numbers from 0 to 10'),
  ):
    with pytest.raises(ValueError, match=sentence):
      predicted(NEWTON, t, np.array(subsets))
  with pytest.raises(
    ValueError, match=r'is a Method: give .*newton\(damping\)'
  ):
    predicted(tda.grad_dot(), t)
  with pytest.raises(ValueError, match="damping='heuristic': give a number"):
    sets.newton('heuristic')
  with pytest.raises(ValueError, match='without Kronecker factors'):
    sets.newton(0.1, precondition=tda.cg(0.1))
  with pytest.raises(ValueError, match='singular curvature'):
    predicted(sets.newton(0.0), t)
