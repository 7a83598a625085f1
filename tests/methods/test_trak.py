"""TRAK and LoGra against dense float64 formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax.methods import logra, trak
from tda_jax.methods import method as method_lib
from tda_jax.run import Run

KEY = jax.random.key(5)
K = 8


def attribute(method, t, params=None, **kwargs):
  params = t.params if params is None else params
  return method_lib.attribute(
    method, t.problem, params, t.train, t.queries, key=KEY, **kwargs
  )


def features(t, r):
  of = lambda rows: tiny.gradients(t.problem.measure, t, rows) @ r
  return of(t.train), of(t.queries)


def dense(t, kind, ridge, key=KEY, weights=1.0):
  """(φ_iᵀ(K + ridge)⁻¹φ_q / N) [N, Q]."""
  phi, asked = features(t, tiny.projection(t, K, kind, key))
  kernel = (weights * phi.T) @ phi / len(phi) + ridge * np.eye(K)
  return phi @ np.linalg.solve(kernel, asked.T) / len(phi)


def slopes(t):
  """1 − p of the training rows."""
  outputs = jax.vmap(t.problem.outputs, (None, 0))(t.params, t.train)
  p = np.asarray(jax.nn.softmax(outputs), np.float64)
  return 1 - p[np.arange(len(p)), t.train['y']]


def assert_close(got, want, tolerance=1e-4):
  np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize('ridge', [0.0, 0.1])
@pytest.mark.parametrize('kind', ['dense', 'factored'])
def test_scores_are_those_of_the_paper(kind, ridge):
  t = tiny.classification(n=40)
  got = attribute(trak.trak(K, projection=kind, ridge=ridge), t)
  assert_close(got, dense(t, kind, ridge) * slopes(t)[:, None])


def test_weights_are_the_curvature_of_the_loss_in_the_measure():
  t = tiny.classification(n=40)
  got = attribute(trak.trak(K, ridge=0.1, weighted=True), t)
  q = slopes(t)
  want = dense(t, 'factored', 0.1, weights=q * (1 - q)) * q[:, None]
  assert_close(got, want)


def test_regression_is_projected_influence():
  """Sign and scale: −(1/N) ∇measure R (Rᵀ G R + ridge)⁻¹ Rᵀ ∇loss."""
  t = tiny.regression(n=40)
  r = tiny.projection(t, K, 'factored', KEY)
  g = tiny.gradients(t.problem.loss, t, t.train) @ r
  m = tiny.gradients(t.problem.measure, t, t.queries) @ r
  system = r.T @ tiny.dense_ggn(t, t.train) @ r + 0.1 * np.eye(K)
  want = -g @ np.linalg.solve(system, m.T) / len(g)
  assert_close(attribute(trak.trak(K, ridge=0.1, weighted=True), t), want)


def test_an_ensemble_averages_its_two_factors_apart():
  t = tiny.classification(n=40)
  stack = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x, -x]), t.params)
  got = attribute(trak.trak_ensemble(K), t, Run(stack, None, None, None))
  each = [
    t._replace(params=jax.tree.map(lambda x, e=e: x[e], stack))
    for e in range(3)
  ]
  keys = jax.random.split(KEY, 3)  # a projection of its own for each
  pairs = zip(each, keys, strict=True)
  kernel = np.mean([dense(one, 'factored', 0.0, k) for one, k in pairs], 0)
  slope = np.mean([slopes(one) for one in each], 0)
  assert_close(got, kernel * slope[:, None])


def test_its_two_factors_are_methods():
  t = tiny.classification(n=40)
  kernel = attribute(trak.trak_kernel(K, ridge=0.1), t, batch_size=7)
  assert_close(kernel, dense(t, 'factored', 0.1))
  slope = attribute(trak.trak_slopes(), t, batch_size=7)
  assert_close(slope, np.broadcast_to(slopes(t)[:, None], (40, 4)))
  assert_close(attribute(trak.trak(K, ridge=0.1), t), kernel * slope)


def test_two_classes_have_scores_whatever_the_key():
  """Signs alone annihilate half of a linear model's columns: K is singular."""
  t, method = tiny.classification(n=40, widths=(20, 2)), trak.trak(K)
  first, *others = [
    method_lib.attribute(
      method, t.problem, t.params, t.train, t.queries, key=key
    )
    for key in jax.random.split(KEY, 4)
  ]
  want = dense(t, 'factored', 0.0, jax.random.split(KEY, 4)[0])
  assert_close(first, want * slopes(t)[:, None], 1e-3)
  assert np.isfinite(others).all()


def test_a_singular_kernel_is_an_error_that_names_the_cure():
  t = tiny.classification()
  with pytest.raises(ValueError, match='projection_dim=12 is above the 11'):
    attribute(trak.trak(12), t)
  assert np.isfinite(attribute(trak.trak(12, ridge=0.1), t)).all()
  twins = {name: np.repeat(x[:5], 4, 0) for name, x in t.train.items()}
  with pytest.raises(ValueError, match='raise ridge or lower projection_dim'):
    attribute(trak.trak(12), t._replace(train=twins))
  with pytest.raises(ValueError, match='ridge=-1'):
    attribute(trak.trak(4, ridge=-1), t)


def test_a_loss_that_is_no_function_of_the_measure_is_refused():
  t = tiny.regression(widths=(5, 4, 2))
  two = {**t.train, 'y': np.repeat(t.train['y'], 2, 1)}
  t = t._replace(train=two, queries=two)
  with pytest.raises(
    ValueError, match='loss that is a function of the measure'
  ):
    attribute(trak.trak(4), t)
  plain = problem_lib.regression(tiny.mlp_apply)
  problem = plain._replace(measure=lambda z, e: -plain.loss(z, e))
  assert np.isfinite(attribute(trak.trak(4), t._replace(problem=problem))).all()


@pytest.mark.parametrize('basis', ['pca', 'random'])
def test_logra_of_full_rank_is_block_fisher_influence(basis):
  t = tiny.classification(n=40, l2=0.02)
  method = logra.logra(0.05, rank=(9, 9), basis=basis, labels='data')
  assert_close(attribute(method, t), block_influence(t, 0.07))


def block_influence(t, damping):
  g = tiny.gradients(t.problem.loss, t, t.train)
  m = tiny.gradients(t.problem.measure, t, t.queries)
  total, first = 0, 0
  for layer in t.params.values():  # ravel_pytree's order too
    size = sum(leaf.size for leaf in layer.values())
    a, b = g[:, first : first + size], m[:, first : first + size]
    first += size
    system = a.T @ a / len(a) + damping * np.eye(size)
    total -= a @ np.linalg.solve(system, b.T) / len(a)
  return total


@pytest.mark.parametrize('basis', ['pca', 'random'])
def test_logra_is_damped_influence_in_a_subspace(basis):
  """Strong damping leaves −γ_q·γ_i/(N·damping): less than the whole gradient."""
  t = tiny.classification(n=40)
  twin = t._replace(queries=t.train)
  big = 1e4
  small = attribute(logra.logra(big, rank=(2, 2), basis=basis), twin)
  whole = attribute(logra.logra(big, rank=(9, 9), basis=basis), twin)
  g = tiny.gradients(t.problem.loss, t, t.train)
  m = tiny.gradients(t.problem.measure, t, t.train)
  assert_close(whole, -g @ m.T / (len(g) * big), 1e-3)
  # A row's own two gradients are opposite, and projections shorten both.
  assert (np.diag(small) > 0).all()
  assert (np.diag(small) < np.diag(whole)).all()


def test_logra_refuses_bad_settings():
  for settings, words in (
    ({'basis': 'best'}, "basis='best' is unknown"),
    ({'labels': 'exact'}, "labels='exact' is unknown"),
    ({'rank': (0, 4)}, r'rank=\(0, 4\)'),
  ):
    with pytest.raises(ValueError, match=words):
      logra.logra(0.1, **settings)
  with pytest.raises(ValueError, match='damping=0'):
    attribute(logra.logra(0), tiny.classification())
