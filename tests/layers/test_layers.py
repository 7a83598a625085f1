"""What is found in a model, and what is refused."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import layer_cases
import numpy as np
import pytest
from layer_cases import normal

from tda_jax.layers import equations, multiplications
from tda_jax.layers import find as layers


def find(case, **kwargs):
  example = jax.tree.map(lambda x: x[0], case.examples)
  return layers.find(case.outputs, case.params, example, **kwargs)


@pytest.mark.parametrize('make', (*layer_cases.FAST, *layer_cases.SLOW))
def test_number_of_layers_found(make):
  # A call that is no longer entered, or a product that is no longer known,
  # would make leaves of vectors and would be missed in no other way.
  case = make()
  found = find(case).values()
  kinds = collections.Counter(layer.kind for layer in found)
  assert kinds['dense'] == case.dense
  assert kinds['embed'] == case.embed
  assert kinds['leaf'] == case.leaf
  assert sum(layer.bias is not None for layer in found) == case.biases
  assert any(layer.shared for layer in found) == case.shared


def test_shapes_and_names_of_a_scanned_transformer():
  found = find(layer_cases.transformer_scan_remat())
  block = 'params/ScanCheckpointBlock_0/'
  query = found[f'{block}MultiHeadDotProductAttention_0/query/kernel']
  assert (query.stack, query.num_in, query.num_out) == ((2,), 5, 4)
  out = found[f'{block}MultiHeadDotProductAttention_0/out/kernel']
  assert (out.stack, out.num_in, out.num_out, out.positions) == ((2,), 5, 4, 3)
  embed = found['params/Embed_0/embedding']
  assert (embed.kind, embed.num_in, embed.num_out) == ('embed', 7, 4)
  position = found['params/position']
  assert (position.kind, position.num_out) == ('leaf', 12)
  assert 'add at' in position.why and 'layer_cases.py' in position.why


def test_matrix_is_what_the_model_multiplies_by():
  case = layer_cases.dict_transformer()
  found, p = find(case), case.params
  w = layers.matrix(found['in'], p)
  np.testing.assert_array_equal(w, jnp.vstack([p['in'].T, p['in_bias']]))
  w = layers.matrix(found['stack#2'], p)
  rows = [p['stack'][1].T, p['stack_bias'][1]]
  np.testing.assert_array_equal(w, jnp.vstack(rows))
  w = layers.matrix(found['qkv'], p)
  np.testing.assert_array_equal(w, p['qkv'].reshape(4, 12))


def test_matrix_of_groups_is_the_kernel_of_each():
  case = layer_cases.cnn()
  layer = find(case)['params/Conv_1/kernel']
  assert (layer.stack, layer.num_in, layer.num_out) == ((2,), 13, 2)
  kernel = case.params['params']['Conv_1']['kernel']  # [2, 3, I, G·O]
  second = jnp.moveaxis(kernel[..., 2:], 2, 0).reshape(12, 2)
  got = layers.matrix(layer, case.params)[1, :-1]
  np.testing.assert_array_equal(got, second)


def test_batch_axes_of_a_product_are_the_stack():
  case = layer_cases.dict_experts()
  found = find(case)
  assert (found['w'].stack, found['w'].num_out) == ((), 15)
  assert (found['v'].stack, found['v'].num_out) == ((3,), 3)
  want = jnp.concatenate([case.params['v'], case.params['c'][:, None]], 1)
  got = layers.matrix(found['v'], case.params)
  np.testing.assert_array_equal(got, want)


def test_unmatrix_puts_a_matrix_back_and_nothing_else():
  case = layer_cases.dict_nested_scan()
  layer = find(case)['w']
  assert layer.stack == (2, 2)
  w = layers.matrix(layer, case.params)
  tree = layers.unmatrix(layer, w, case.params)
  np.testing.assert_array_equal(tree['w'], case.params['w'])
  np.testing.assert_array_equal(tree['b'], case.params['b'])
  assert not tree['head'].any()


@pytest.mark.parametrize('make', layer_cases.FAST)
def test_coverage_counts_every_parameter(make):
  case = make()
  if case.shared:
    pytest.skip('entries are in several layers')
  table = layers.coverage(find(case), case.params)
  size = sum(leaf.size for leaf in jax.tree.leaves(case.params))
  assert sum(row.parameters for row in table) == size
  np.testing.assert_allclose(sum(row.fraction for row in table), 1)


def test_coverage_names_what_no_gradient_reaches():
  case = layer_cases.dict_lora()
  table = layers.coverage(find(case), case.params)
  rest = [row for row in table if row.kind == 'none']
  assert [(row.name, row.parameters) for row in rest] == [('frozen', 15)]


def test_coverage_names_the_rest_of_a_leaf():
  p = {'w': normal(0, 3, 3), 'b': normal(1, 3)}
  found = layers.find(lambda p, x: x @ p['w'][:2] + p['b'], p, normal(2, 2))
  sizes = {(v.name, v.kind): v.parameters for v in layers.coverage(found, p)}
  assert sizes == {('w', 'dense'): 9, ('w', 'none'): 3}


def test_example_may_be_shapes():
  case = layer_cases.mlp()
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), case.examples
  )
  assert layers.find(case.outputs, case.params, shapes) == find(case)


def test_leaves_of_the_same_shape_seen_twice_are_shared():
  p = {'w': normal(0, 3, 3)}
  x = normal(1, 3)
  slices = lambda p, x: jnp.tanh(x[:2] @ p['w'][:2]) @ p['w'][1:].T
  assert all(v.shared for v in layers.find(slices, p, x).values())
  apart = lambda p, x: jnp.tanh(x[:2] @ p['w'][:2]) @ p['w'][2:].T
  assert not any(v.shared for v in layers.find(apart, p, x).values())
  loop = lambda p, x: jax.lax.fori_loop(0, 3, lambda i, h: h @ p['w'], x)
  assert layers.find(loop, p, x)['w'].shared


# --- what is refused --------------------------------------------------------


@jax.custom_vjp
def own_product(x, w):
  return x @ w


own_product.defvjp(
  lambda x, w: (x @ w, (x, w)),
  lambda saved, g: (g @ saved[1].T, jnp.outer(saved[0], g)),
)


@pytest.mark.parametrize(
  ('outputs', 'use'),
  [
    (lambda p, x: x @ (2 * p['w']), 'mul'),
    (lambda p, x: x @ (p['w'] + p['w'].T), 'add'),
    (lambda p, x: x @ p['w'] @ jnp.tanh(p['w']), 'tanh'),
    (lambda p, x: x * (jnp.tanh(p['s']) @ p['w']), 'dot_general'),
    (lambda p, x: own_product(x, p['w']), 'custom_vjp'),
    (lambda p, x: x @ jnp.concatenate([p['w'], p['w']], 1), 'concatenate'),
    (lambda p, x: x @ p['w'] + jnp.sum(p['w']), 'reduce_sum'),
    (
      lambda p, x: jax.lax.fori_loop(
        0, 2, lambda i, h: (h[0] @ h[1], -h[1]), (x, p['w'])
      )[0],
      'the carry of a scan',
    ),
  ],
)
def test_a_use_that_is_no_product_is_refused(outputs, use):
  p, x = {'inner': {'w': normal(0, 3, 3), 's': normal(2, 3)}}, normal(1, 3)
  inside = lambda p, x: outputs(p['inner'], x)
  with pytest.raises(ValueError) as error:
    layers.find(inside, p, x)
  text = str(error.value)
  assert "as_leaf=('inner/w',) to hold" in text
  assert use in text and 'test_layers.py' in text
  held = layers.find(inside, p, x, as_leaf='inner/w')['inner/w']
  assert (held.kind, held.num_out) == ('leaf', 9)


def test_a_while_loop_is_refused():
  p, x = {'w': normal(0, 3, 3)}, normal(1, 3)
  model = lambda p, x: jax.lax.while_loop(
    lambda h: h.sum() < 3, lambda h: h @ p['w'], x
  )
  with pytest.raises(ValueError, match='while loop at .*test_layers.py.*scan'):
    layers.find(model, p, x)


def test_a_branch_chosen_by_the_example_is_refused():
  p, x = {'w': normal(0, 3, 3)}, normal(1, 3)
  model = lambda p, x: jax.lax.cond(x[0] > 0, lambda x: x @ p['w'], jnp.tanh, x)
  with pytest.raises(ValueError, match='cond at .*test_layers.py.*as_leaf'):
    layers.find(model, p, x)
  assert layers.find(model, p, x, as_leaf=('w',))['w'].kind == 'leaf'


def test_as_leaf_must_fit_a_parameter():
  with pytest.raises(ValueError, match="as_leaf='kernle' fits no parameter"):
    find(layer_cases.dict_lora(), as_leaf=('kernle',))


def test_a_renamed_parameter_of_an_equation_is_named(monkeypatch):
  case = layer_cases.dict_lora()

  def renamed(e, operand, shape):
    return e.params['dimension_digits']

  monkeypatch.setitem(multiplications.PRODUCTS, 'dot_general', renamed)
  with pytest.raises(RuntimeError, match="JAX .* changed .*'dot_general'"):
    find(case)


def test_a_renamed_call_is_refused(monkeypatch):
  case = layer_cases.transformer_scan_remat()
  calls = {k: v for k, v in equations.CALLS.items() if k not in equations.REMAT}
  monkeypatch.setattr(equations, 'CALLS', calls)
  with pytest.raises(ValueError, match='does not know how to enter'):
    find(case)


# --- examples that interact -------------------------------------------------


class BatchNorm(nn.Module):
  train: bool

  @nn.compact
  def __call__(self, x):
    h = nn.BatchNorm(use_running_average=not self.train)(nn.Dense(3)(x))
    return nn.Dense(2)(nn.relu(h))


@pytest.mark.parametrize('train', [True, False])
def test_batch_statistics_are_refused(train):
  model, x = BatchNorm(train), normal(0, 5, 4)
  params = model.init(jax.random.key(0), x)

  def apply(params, x):
    return model.apply(params, x, mutable=['batch_stats'])[0]

  if not train:
    layers.check_independent(apply, params, x)
  else:
    with pytest.raises(ValueError, match='running averages'):
      layers.check_independent(apply, params, x)
