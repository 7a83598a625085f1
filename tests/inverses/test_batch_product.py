"""Products in the eigenbasis, whatever is formed and whatever is kept."""

import types

import jax
import numpy as np
import pytest
import tiny

from tda_jax.curvature import gram
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import coordinates, ekfac, inverse
from tda_jax.layers import find as layers_lib

KEY = jax.random.key(2)
FORMS = {'mlp': set(), 'conv': {'conv'}, 'scan': {'layers'}}


def preconditioner(inverse, t):
  state = inverse.fit(t.problem, t.params, t.train, KEY)
  return coordinates.preconditioner(inverse, state, t.problem)


def formed_layers(rows):
  return {
    name
    for name, row in rows.items()
    if not isinstance(row, coordinates.Positions)
  }


@pytest.mark.parametrize('kept', [0, coordinates.KEPT])
@pytest.mark.parametrize('formed', [0, gram.FORMED])
@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_products_are_those_of_the_dense_ggn(name, formed, kept, monkeypatch):
  monkeypatch.setattr(gram, 'FORMED', formed)
  monkeypatch.setattr(coordinates, 'KEPT', kept)
  monkeypatch.setattr(coordinates, '_rows_pay', lambda *_: True)
  t = tiny.model(name)
  v = tiny.vectors(t, q=5)
  basis = preconditioner(ekfac.kfac(0.1, batch_size=3), t)
  space = coordinates.coordinates(basis, t.problem, t.params, t.train)
  # Of 5 rows by 3: the last batch has padding.
  product = inverse.batch_product(space, t.train, 5, batch_size=3)
  got = jax.jit(inverse.damped(space, product, t.train, 3, 0.1))(
    space.to_coordinates(v)
  )
  v = tiny.flat(v)
  want = v @ tiny.dense_ggn(t, t.train) + 0.1 * v
  got = tiny.flat(space.from_coordinates(got))
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
  whole = rows_lib.whole(t.train)
  rows = jax.eval_shape(lambda batch: space.row_factors(batch, 5), whole)
  assert formed_layers(rows) == (FORMS[name] if formed else set())


@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_products_through_the_parameters_are_the_same(name, monkeypatch):
  monkeypatch.setattr(coordinates, '_rows_pay', lambda *_: False)
  t = tiny.model(name)
  v = tiny.vectors(t, q=5)
  basis = preconditioner(ekfac.kfac(0.1, batch_size=3), t)
  space = coordinates.coordinates(basis, t.problem, t.params, t.train)
  assert space.row_factors is None
  product = inverse.batch_product(space, t.train, 5, batch_size=3)
  got = jax.jit(inverse.damped(space, product, t.train, 3, 0.1))(
    space.to_coordinates(v)
  )
  v = tiny.flat(v)
  want = v @ tiny.dense_ggn(t, t.train) + 0.1 * v
  got = tiny.flat(space.from_coordinates(got))
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize(
  'k, pays', [(1, True), (10, True), (300, False), (50_000, False)]
)
def test_many_outputs_go_through_the_parameters(k, pays):
  layer = types.SimpleNamespace(
    num_in=100, num_out=50, positions=1, stack=(), kind='dense'
  )
  assert coordinates._rows_pay({'w': layer}, k, 64, 1000, 256) == pays


def test_rows_drawn_twice_count_twice(monkeypatch):
  monkeypatch.setattr(coordinates, '_rows_pay', lambda *_: True)
  t = tiny.model('conv')
  v = tiny.vectors(t, q=5)
  basis = preconditioner(ekfac.kfac(0.1), t)
  space = coordinates.coordinates(basis, t.problem, t.params, t.train)
  index = np.array([3, 0, 3, 1])
  batch = rows_lib.Batch(rows_lib.take(t.train, index), index, np.ones(4))
  product = inverse.batch_product(space, t.train, 5, 256)
  got = tiny.flat(
    space.from_coordinates(product(batch)(space.to_coordinates(v)))
  )
  want = tiny.flat(v) @ tiny.dense_ggn(t, batch.examples)
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_inner_products_are_the_same_with_gradients_formed(name, monkeypatch):
  t = tiny.model(name)
  v = tiny.vectors(t, q=7)
  example = rows_lib.take(t.train, 0)
  layers = layers_lib.find(t.problem.outputs, t.params, example)
  matrices = gram.layer_matrices(t.problem, t.params, example, v)
  factors = gram.factors(t.problem, t.params, tiny.batch(t.train), 'loss')
  found, used = [], []
  for limit in (0, gram.FORMED):
    monkeypatch.setattr(gram, 'FORMED', limit)
    used.append(
      [gram.forming_pays(w, 5, w.positions, 7) for w in layers.values()]
    )
    found.append(total(layers, factors, matrices))
  want = tiny.gradients(t.problem.loss, t, t.train) @ tiny.flat(v).T
  for got in found:
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  assert not any(used[0]) and any(used[1]) == bool(FORMS[name])


def total(layers, factors, matrices):
  """Sum over layers and their stacks."""
  out = 0.0
  for name, layer in layers.items():
    one = lambda a, g, v, layer=layer: gram.inner_products(layer, a, g, v)
    for _ in layer.stack:
      one = jax.vmap(one)
    found = one(factors[name].a, factors[name].g[0], matrices[name])
    out += np.asarray(found).sum(tuple(range(len(layer.stack))))
  return out
