"""Displaced influence against the dense formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.flatten_util import ravel_pytree

from tda_jax import problem as problem_lib
from tda_jax.inverses import cg, exact
from tda_jax.methods import displaced, influence
from tda_jax.methods import method as method_lib

DAMPING = 0.1


def scores(method, t, **kwargs):
  return method_lib.attribute(
    method, t.problem, t.params, t.train, t.queries, **kwargs
  )


def dense(t, damping=DAMPING):
  """−(1/N) ∇m (G+λ)⁻¹ ∇loss_i(θ + Δ), [N, Q], and Δ [P]."""
  theta, unravel = ravel_pytree(t.params)
  ggn = tiny.dense_ggn(t, t.train)
  inverse = np.linalg.inv(ggn + damping * np.eye(len(ggn)))
  of_loss = tiny.gradients(t.problem.loss, t, t.train)
  slope = of_loss.mean(0) + t.problem.l2 * np.asarray(theta, np.float64)
  shift = -inverse @ slope
  there = t._replace(params=unravel(theta + jnp.asarray(shift, theta.dtype)))
  moved = tiny.gradients(t.problem.loss, there, t.train)
  asked = tiny.gradients(t.problem.measure, t, t.queries)
  return -(moved @ inverse @ asked.T) / len(moved), shift


@pytest.mark.parametrize(
  'make, inverse',
  [
    (tiny.classification, exact.exact(DAMPING)),
    (tiny.regression, cg.cg(DAMPING, tolerance=1e-6)),
  ],
)
def test_it_is_the_dense_formula(make, inverse):
  t = make(l2=0.05)
  wanted, shift = dense(t)
  assert np.abs(shift).max() > 0.05
  scale = np.abs(wanted).max()
  found = scores(displaced.displaced_influence(inverse), t)
  np.testing.assert_allclose(found, wanted, atol=1e-3 * scale)
  plain = scores(influence.influence(inverse), t)
  assert np.abs(plain - wanted).max() > 0.05 * scale


def test_at_a_stationary_point_it_is_influence():
  """Ridge regression at its solution."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
  l2 = 0.3
  w = np.linalg.solve(2 * x.T @ x / 20 + l2 * np.eye(3), 2 * x.T @ y / 20)
  rows = {'x': x.astype(np.float32), 'y': y.astype(np.float32)}
  t = tiny.Tiny(
    problem_lib.regression(lambda p, x: x @ p['w'], l2),
    {'w': jnp.asarray(w, jnp.float32)},
    rows,
    rows,
  )
  inverse = exact.exact(0.0)
  there = scores(displaced.displaced_influence(inverse), t)
  here = scores(influence.influence(inverse), t)
  np.testing.assert_allclose(there, here, atol=1e-5 * np.abs(here).max())


def test_the_gradient_of_the_objective():
  t = tiny.classification(l2=0.05)
  found, _ = ravel_pytree(
    displaced.objective_gradient(
      t.problem, t.params, jax.tree.map(jnp.asarray, t.train)
    )
  )
  theta, _ = ravel_pytree(t.params)
  wanted = tiny.gradients(t.problem.loss, t, t.train).mean(0) + 0.05 * theta
  np.testing.assert_allclose(found, wanted, atol=1e-6)
