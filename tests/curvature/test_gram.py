import types

import jax
import numpy as np
import pytest
import tiny

from tda_jax.curvature import ekfac, gram
from tda_jax.layers import find as layers_lib


@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_inner_products_equal_those_of_per_example_gradients(name):
  t = tiny.model(name)
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
  t = tiny.model(name)
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


def test_weighted_products_of_two_gradients():
  """Of a layer with positions, by its dense gradients."""
  rng = np.random.default_rng(0)
  a, left, right = (
    rng.standard_normal((2, 3, n)).astype(np.float32) for n in (4, 5, 5)
  )
  w = rng.standard_normal((4, 5)).astype(np.float32)
  layer = types.SimpleNamespace(kind='dense', positions=3, stack=())
  block = ekfac.Block(np.eye(4), np.eye(5), w)
  got = gram.weighted_products(layer, a, left, right, block)
  of = lambda g: np.einsum('bsi,bso->bio', a, g)
  want = (of(left) * of(right) * w).sum((1, 2))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_norms_are_numbers_where_positions_cancel():
  """Two positions of opposite gradients: of many rows, some squares are negative."""
  random = np.random.default_rng(0)
  shape = tiny.classification(n=2)
  example = jax.tree.map(lambda x: x[0], shape.train)
  layers = layers_lib.find(shape.problem.outputs, shape.params, example)
  layer = layers['layer0/w']._replace(positions=2, num_in=5)
  a = np.repeat(random.normal(size=(500, 1, 5)), 2, 1)
  g = random.normal(size=(500, 1, 4)) * [[1], [-1 - 1e-7]]
  gradient = {'w': gram.Factor(*map(np.float32, (a, g[None])))}
  square = gram.row_products({'w': layer}, gradient, gradient)
  norms = gram.norms({'w': layer}, gradient)
  assert (square < 0).any() and np.isfinite(norms).all()
  assert (norms >= 0).all()
