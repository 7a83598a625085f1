import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax.curvature import gram
from tda_jax.curvature import layers as layers_lib

KEY = jax.random.key(0)


def conv_apply(params, x):  # [B, 6, 6, 2]
  x = jax.lax.conv_general_dilated(
    x,
    params['conv'],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return jnp.tanh(x).mean((1, 2)) @ params['out']


def scan_apply(params, x):  # ids [B, T]
  x = params['embed'][x]
  x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params['layers'])
  return x.mean(1) @ params['out']


def model(name):
  keys = jax.random.split(KEY, 4)
  y = np.arange(5) % 3
  if name == 'mlp':
    t = tiny.classification(n=5)
    return t
  if name == 'conv':
    params = {
      'conv': jax.random.normal(keys[0], (3, 3, 2, 4)),
      'out': jax.random.normal(keys[1], (4, 3)),
    }
    x = np.asarray(jax.random.normal(keys[2], (5, 6, 6, 2)))
    apply = conv_apply
  else:
    params = {
      'embed': jax.random.normal(keys[0], (7, 4)),
      'layers': jax.random.normal(keys[1], (2, 4, 4)),
      'out': jax.random.normal(keys[2], (4, 3)),
    }
    x = np.array([[0, 1, 1], [2, 3, 4], [5, 6, 0], [1, 1, 1], [6, 2, 3]])
    apply = scan_apply
  rows = {'x': x, 'y': y}
  return tiny.Tiny(problem_lib.classification(apply), params, rows, rows)


@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_inner_products_equal_those_of_per_example_gradients(name):
  t = model(name)
  batch = tiny.batch(t.train)
  example = jax.tree.map(lambda x: x[0], t.train)
  layers = layers_lib.find(t.problem.outputs, t.params, example)
  loss = gram.factors(t.problem, t.params, batch, 'loss')
  measure = gram.factors(t.problem, t.params, batch, 'measure')
  g = tiny.gradients(t.problem.loss, t, t.train)
  m = tiny.gradients(t.problem.measure, t, t.train)
  got = gram.gram(layers, loss, measure)[:, 0, :, 0]
  np.testing.assert_allclose(got, g @ m.T, atol=1e-5 * np.abs(g @ m.T).max())
  norms = gram.norms(layers, loss)
  np.testing.assert_allclose(norms, np.linalg.norm(g, axis=1), rtol=1e-5)


@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_curvature_rows_give_the_ggn(name):
  t = model(name)
  batch = tiny.batch(t.train)
  example = jax.tree.map(lambda x: x[0], t.train)
  layers = layers_lib.find(t.problem.outputs, t.params, example)
  rows = gram.factors(t.problem, t.params, batch, 'curvature')
  dual = np.asarray(gram.gram(layers, rows, rows), np.float64)
  n, k = dual.shape[:2]
  values = np.linalg.eigvalsh(dual.reshape(n * k, n * k)) / n
  want = np.linalg.eigvalsh(tiny.dense_ggn(t, t.train))
  size = min(len(values), len(want))
  np.testing.assert_allclose(values[-size:], want[-size:], atol=2e-6 * want[-1])
