import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax.curvature import products
from tda_jax.data import rows

PROBLEMS = {
  'classification': tiny.classification(),
  'regression': tiny.regression(),
  'ridge': tiny.regression(l2=0.3),
}


def columns(product, params):
  return tiny.flat(jax.jit(jax.vmap(product))(tiny.basis(params)))


@pytest.mark.parametrize('name', PROBLEMS)
def test_ggn_and_hessian_equal_the_dense_matrices(name):
  t = PROBLEMS[name]
  batch = tiny.batch(t.train)
  ggn = columns(products.ggn(t.problem, t.params, batch), t.params)
  np.testing.assert_allclose(ggn, tiny.dense_ggn(t, t.train), atol=2e-6)
  hessian = columns(products.hessian(t.problem, t.params, batch), t.params)
  dense = tiny.dense_hessian(t, t.train)
  np.testing.assert_allclose(hessian, dense, atol=2e-5)
  assert np.abs(dense - tiny.dense_ggn(t, t.train)).max() > 0.01


@pytest.mark.parametrize('size', [1, 4, 11])
def test_averaged_is_the_same_for_every_batch_size(size):
  t = tiny.classification(l2=0.1)
  stack = rows.stacked(t.train, size)
  mean = products.averaged(
    lambda b: products.ggn(t.problem, t.params, b), stack
  )
  got = columns(products.damped(mean, 0.5), t.params)
  want = tiny.dense_ggn(t, t.train)
  np.testing.assert_allclose(got, want + 0.5 * np.eye(len(want)), atol=2e-6)


@pytest.mark.parametrize('name', ['classification', 'regression'])
def test_fisher_is_the_ggn_in_expectation(name):
  t = PROBLEMS[name]
  batch = tiny.batch(t.train)
  v = jax.tree.map(lambda x: x[0], tiny.basis(t.params))
  draw = lambda key: products.fisher(t.problem, t.params, batch, key)(v)
  draws = tiny.flat(jax.vmap(draw)(jax.random.split(jax.random.key(3), 4000)))
  want = tiny.dense_ggn(t, t.train)[:, 0]

  error = np.abs(draws.mean(0) - want)
  assert (error < 5 * draws.std(0) / np.sqrt(len(draws)) + 1e-6).all()
  assert draws.std(0).max() > 1e-3


def test_sampled_labels_do_not_depend_on_the_batch_size():
  t = tiny.classification()
  key = jax.random.key(7)
  outputs = lambda b: jax.vmap(t.problem.outputs, (None, 0))(
    t.params, b.examples
  )
  whole = tiny.batch(t.train)
  drawn = products.sampled(t.problem, key, outputs(whole), whole)['y']
  parts = []
  for batch in rows.batches(t.train, 4):
    batch = jax.tree.map(jnp.asarray, batch)
    y = products.sampled(t.problem, key, outputs(batch), batch)['y']
    parts.append(np.asarray(y)[batch.mask > 0])
  np.testing.assert_array_equal(np.concatenate(parts), drawn)


def test_every_row_draws_a_label_of_its_own():
  t = tiny.classification()
  examples = {'x': np.zeros((40, 5)), 'y': np.zeros(40, np.int32)}  # alike
  batch = rows.Batch(examples, np.arange(40), np.ones(40))
  key, outputs = jax.random.key(3), jnp.zeros((40, 3))
  drawn = products.sampled(t.problem, key, outputs, batch)['y']
  assert {*drawn.tolist()} == {0, 1, 2}
