"""What every method must do; sign and scale against real leave-one-out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import cg, ekfac, exact, inverse
from tda_jax.methods import (
  additional_step,
  baselines,
  bayesian,
  dda,
  displaced,
  gradients,
  influence,
  laplace,
  logra,
  relatif,
  representer,
  similarity,
  source,
  tracin,
  trackstar,
  trak,
)
from tda_jax.methods import method as method_lib
from tda_jax.run import Run

METHODS = {
  'grad_dot': gradients.grad_dot(),
  'grad_cos': gradients.grad_cos(),
  'additional_step': additional_step.additional_step(
    optax.sgd(0.1), batch_size=3
  ),
  'identity': influence.influence(inverse.identity()),
  'ekfac': influence.influence(ekfac.ekfac(0.1)),
  'cg': influence.influence(cg.cg(0.1, tolerance=2e-5)),
  'exact': influence.influence(exact.exact(0.1)),
  'source': source.source(2, labels='exact'),
  'tracin': tracin.tracin(),
  'dda': dda.dda(normalised='scores'),
  'representer': representer.representer(l2=0.3),
  'similarity': similarity.similarity('layer1/w'),
  'relatif': relatif.relatif(ekfac.ekfac(0.1)),
  'random': baselines.random(),
  'loss_only': baselines.loss_only(),
  'trak': trak.trak(8, ridge=0.1, batch_size=4),
  'logra': logra.logra(0.1, rank=(3, 2), batch_size=4),
  'trackstar': trackstar.trackstar(0.1, rank=(3, 2), batch_size=4, mix=0.3),
  'displaced': displaced.displaced_influence(exact.exact(0.1)),
  'laplace': laplace.laplace_influence(ekfac.ekfac(0.1), draws=5),
  'bayesian': bayesian.bayesian_influence(
    0.1, chains=2, draws=3, steps=1, burn_in=1, batch_size=4, step_size=0.1
  ),
}
# One damped direction in it is exact: the dense answer, per method.
ORACLES = {
  'grad_dot': lambda t, m, g: -m @ g.T / len(g),
  'identity': lambda t, m, g: -m @ g.T / len(g),
  'grad_cos': lambda t, m, g: (
    -(m / np.linalg.norm(m, axis=1)[:, None])
    @ (g / np.linalg.norm(g, axis=1)[:, None]).T
  ),
  'cg': lambda t, m, g: -m @ damped_inverse(t) @ g.T / len(g),
  'exact': lambda t, m, g: -m @ damped_inverse(t) @ g.T / len(g),
}


def damped_inverse(t):
  ggn = tiny.dense_ggn(t, t.train)
  return np.linalg.inv(ggn + 0.1 * np.eye(len(ggn)))


def attribute(name, t, batch_size=64):
  """Of few shapes, so that most tests find their programs compiled."""
  method = METHODS[name]
  run = tiny.run(t.params)
  return method_lib.attribute(
    method, t.problem, run, t.train, t.queries, batch_size=batch_size
  )


@pytest.mark.parametrize('name', ORACLES)
def test_scores_equal_the_dense_formula(name):
  t = tiny.classification()
  m = tiny.gradients(t.problem.measure, t, t.queries)
  g = tiny.gradients(t.problem.loss, t, t.train)
  want = ORACLES[name](t, m, g).T
  np.testing.assert_allclose(
    attribute(name, t), want, atol=1e-4 * np.abs(want).max()
  )


@pytest.mark.parametrize('name', METHODS)
def test_scores_do_not_depend_on_the_batch_size(name):
  t = tiny.classification()
  some = attribute(name, t, batch_size=4)
  assert some.shape == (11, 4) and np.isfinite(some).all()
  np.testing.assert_allclose(
    some, attribute(name, t), atol=1e-5 * np.abs(some).max()
  )


@pytest.mark.parametrize(
  'name',
  [
    name
    if name in ('ekfac', 'logra')
    else pytest.param(name, marks=pytest.mark.slow)
    for name in METHODS
  ],
)
def test_scores_do_not_depend_on_padding_positions(name, monkeypatch):
  inputs = similarity.similarity('back')
  monkeypatch.setitem(METHODS, 'similarity', inputs)
  scores = [attribute(name, tiny.padded(extra)) for extra in (0, 5)]
  assert np.abs(scores[0]).max() > 0
  np.testing.assert_allclose(
    *scores, rtol=1e-4, atol=1e-4 * np.abs(scores[0]).max()
  )


@pytest.mark.parametrize('name', ['grad_cos', 'ekfac', 'exact'])
def test_an_ensemble_is_the_mean_of_its_members(name):
  t = tiny.classification()
  members = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x, -x]), t.params)
  run = Run(members, None, None, None)
  got = method_lib.attribute(
    method_lib.ensemble(METHODS[name]), t.problem, run, t.train, t.queries
  )
  if name == 'ekfac':  # its labels are drawn: only the shape is sure
    assert got.shape == (11, 4)
    return
  alone = [
    attribute(
      name, t._replace(params=jax.tree.map(lambda x, e=e: x[e], members))
    )
    for e in range(3)
  ]
  np.testing.assert_allclose(got, np.mean(alone, 0), atol=1e-5)


def test_an_ensemble_takes_the_run_of_train():
  from tda_jax.training import members
  from tda_jax.training.fit import Recipe

  t = tiny.classification()
  rate = lambda steps: optax.constant_schedule(0.1)
  init = lambda key: tiny.mlp_init((5, 4, 3), key)
  recipe = Recipe(init, lambda steps: optax.sgd(0.1), rate, 4, 2)
  keys = jax.random.split(jax.random.key(0), 3)
  run = members.train(t.problem, recipe, t.train, keys, checkpoints=2)
  method = method_lib.ensemble(METHODS['exact'])
  got = method_lib.attribute(method, t.problem, run, t.train, t.queries)
  alone = [
    attribute(
      'exact',
      t._replace(params=jax.tree.map(lambda x, e=e: x[e], run.params)),
    )
    for e in range(3)
  ]
  np.testing.assert_allclose(got, np.mean(alone, 0), atol=1e-5)


def test_a_run_and_a_method_must_agree_on_members():
  t = tiny.classification()
  keys = jax.random.split(jax.random.key(0), 2)
  many = jax.tree.map(lambda x: jnp.stack([x, x]), t.params)
  rows = (t.problem, Run(many, None, None, None, keys), t.train, t.queries)
  with pytest.raises(ValueError, match='run has a member axis.*ensemble'):
    method_lib.attribute(METHODS['grad_dot'], *rows)
  one = Run(t.params, None, None, None, keys[0])
  of_one = method_lib.ensemble(METHODS['grad_dot'])
  got, want = (
    method_lib.attribute(method, t.problem, one, t.train, t.queries)
    for method in (of_one, METHODS['grad_dot'])
  )
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_the_eigenbasis_gives_the_scores_of_the_solve(name):
  t = tiny.model(name)
  inner = ekfac.ekfac(0.1, labels='exact')
  fast, plain = (
    method_lib.attribute(
        influence.influence(inverse), t.problem, t.params, t.train, t.queries,
        batch_size=3,
    )
    for inverse in (inner, inner._replace(scale=None))
  )  # fmt: skip
  np.testing.assert_allclose(fast, plain, atol=1e-5 * np.abs(plain).max())


def ridge(n=40, d=4, l2=0.3):
  """Closed-form ridge regression; (tiny, leave-one-out effects [N, Q])."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(n + 5, d))
  y = x @ rng.normal(size=d) + 0.3 * rng.normal(size=n + 5)
  problem = problem_lib.regression(lambda p, x: x @ p['w'], l2)

  def solve(keep):
    # min mean (xw − y)² + ½ l2 ‖w‖²; the left-out row has weight 0 of 1/n.
    a = 2 * x[keep].T @ x[keep] / n + l2 * np.eye(d)
    return np.linalg.solve(a, 2 * x[keep].T @ y[keep] / n)

  everything = np.arange(n)
  w = solve(everything)
  rows = {'x': x.astype(np.float32), 'y': y.astype(np.float32)}
  train = rows_lib.take(rows, slice(0, n))
  queries = rows_lib.take(rows, slice(n, n + 5))
  t = tiny.Tiny(problem, {'w': jnp.asarray(w, jnp.float32)}, train, queries)
  measure = lambda w: -np.abs(x[n:] @ w - y[n:])
  effects = np.stack(
    [measure(w) - measure(solve(np.delete(everything, i))) for i in range(n)]
  )
  return t, effects


def test_ridge_influence_is_leave_one_out_with_its_sign_and_scale():
  t, effects = ridge()
  solver = exact.exact(0.0)  # l2 alone makes it regular
  scores = method_lib.attribute(
    influence.influence(solver), t.problem, t.params, t.train, t.queries
  )
  # First order: off by the leverage h_i of each row, exactly 1/(1 − h_i).
  x = np.asarray(t.train['x'], np.float64)
  n = len(x)
  system = 2 * x.T @ x / n + t.problem.l2 * np.eye(x.shape[1])
  leverage = 2 * np.einsum('ni,ij,nj->n', x, np.linalg.inv(system), x) / n
  assert 0.01 < leverage.max() < 0.5
  corrected = scores / (1 - leverage)[:, None]
  scale = np.abs(effects).max()
  np.testing.assert_allclose(corrected, effects, atol=1e-3 * scale)
  error = np.abs(scores - effects).max() / scale
  assert 1e-3 < error < 2 * leverage.max()
  assert np.corrcoef(scores.ravel(), effects.ravel())[0, 1] > 0.99


def test_a_training_row_supports_itself():
  t = tiny.classification()
  # Displaced influence weighs a row by its gradient elsewhere.
  for name in METHODS.keys() - {'displaced', 'random'}:
    for first in (0, 4, 7):  # as many queries as elsewhere
      rows = np.arange(first, first + 4)
      twin = t._replace(queries=rows_lib.take(t.train, rows))
      assert (np.diag(attribute(name, twin)[rows]) >= 0).all(), name


def test_bad_rows_are_refused_before_anything_is_computed():
  t = tiny.classification()
  empty = t._replace(queries=rows_lib.take(t.queries, slice(0, 0)))
  with pytest.raises(ValueError, match='queries is empty'):
    attribute('exact', empty)
  x = t.train['x'].copy()
  x[3, 1] = np.nan
  with pytest.raises(ValueError, match='train has 1 rows with NaN.*row 3'):
    attribute('exact', t._replace(train={**t.train, 'x': x}))
  with pytest.raises(ValueError, match='row 2 has label 7'):
    y = t.queries['y'].copy()
    y[2] = 7
    attribute('exact', t._replace(queries={**t.queries, 'y': y}))


def test_the_key_that_is_given_is_the_methods():
  t = tiny.classification()
  args = (METHODS['random'], t.problem, t.params, t.train, t.queries)
  for key in jax.random.split(jax.random.key(7), 2):
    got = method_lib.attribute(*args, key=key)
    np.testing.assert_array_equal(got, drawn(t, key))
  none = method_lib.attribute(*args)
  np.testing.assert_array_equal(none, drawn(t, jax.random.key(0)))


def drawn(t, key):
  """What baselines.random scores by a key."""
  keys = jax.random.split(key, len(t.queries['y']))
  return np.stack(
    [
      [jax.random.normal(jax.random.fold_in(k, i)) for k in keys]
      for i in range(len(t.train['y']))
    ]
  )


def test_members_have_keys_of_their_own():
  """Equal members differ only by what a method draws."""
  t = tiny.classification()
  same = jax.tree.map(lambda x: jnp.stack([x, x]), t.params)
  run, key = Run(same, None, None, None), jax.random.key(7)
  got = method_lib.attribute(
    method_lib.ensemble(METHODS['random']), t.problem, run, t.train, t.queries,
    key=key,
  )  # fmt: skip
  keys = jax.random.split(key, 2)
  want = [drawn(t, k) for k in keys]
  assert np.abs(want[0] - want[1]).max() > 1
  np.testing.assert_allclose(got, np.mean(want, 0), atol=1e-6)
  number = lambda problem, run, train, key: jax.random.normal(key, (3,))
  of_itself = method_lib.ensemble(
    METHODS['random']._replace(self_influence=number)
  ).self_influence
  want = [jax.random.normal(k, (3,)) for k in keys]
  np.testing.assert_allclose(
    of_itself(t.problem, run, t.train, key), np.mean(want, 0), atol=1e-6
  )


def test_the_cosine_of_a_zero_gradient_is_zero():
  problem = problem_lib.regression(lambda p, x: x @ p['w'])
  x = np.array([[1.0, 2], [0, 0], [3, -1]], np.float32)
  rows = {'x': x, 'y': np.array([5.0, 2, 1], np.float32)}
  params = {'w': jnp.ones(2)}
  got = method_lib.attribute(gradients.grad_cos(), problem, params, rows, rows)
  assert (got[1] == 0).all() and (got[:, 1] == 0).all()
  np.testing.assert_allclose(np.diag(got), [1, 0, 1], atol=1e-5)
  run = Run(params, None, None, None)
  own = gradients.grad_cos().self_influence(problem, run, rows, None)
  np.testing.assert_allclose(own, [1, 0, 1], atol=1e-5)
