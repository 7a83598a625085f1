"""Statistics by taps against gradients of single examples."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import layer_cases
import numpy as np
import pytest
from layer_cases import B, normal

from tda_jax.layers import equations, taps
from tda_jax.layers import find as layers

Q = 3
# Programs run once on tiny arrays: the time is the compiler's.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def gradients(layer, a, g, aux):
  """The gradient of each example, [B, I, O]."""
  return jnp.einsum('bsi,bso->bio', inputs(layer, a), g)


def inputs(layer, a):
  return jax.nn.one_hot(a, layer.num_in) if layer.kind == 'embed' else a


def moments(layer, a, g, aux):
  a = inputs(layer, a)
  return jnp.einsum('bsi,bsj->ij', a, a), jnp.einsum('bso,bsp->op', g, g)


def scores(layer, a, g, queries):
  return jnp.einsum('bsi,qio,bso->bq', inputs(layer, a), queries, g)


def squares(layer, a, g, bases):
  left, right = bases
  rotated = left.T @ gradients(layer, a, g, None) @ right
  return jnp.sum(rotated**2, 0)


def collect(case, statistic, aux=None, params=None, examples=None, **kwargs):
  return jit(
    lambda params, examples, aux: taps.collect(
      statistic,
      case.outputs,
      layer_cases.loss,
      params,
      examples,
      aux,
      **kwargs,
    )
  )(
    case.params if params is None else params,
    case.examples if examples is None else examples,
    aux,
  )


def find(case):
  example = jax.tree.map(lambda x: x[0], case.examples)
  return layers.find(case.outputs, case.params, example)


@functools.partial(jit, static_argnums=0)
def of_examples(outputs, params, examples):
  """The oracle: gradient of each example's loss, leaves [B, ...]."""
  value = lambda p, e: layer_cases.loss(outputs(p, e), e)
  return jax.vmap(jax.grad(value), (None, 0))(params, examples)


def queries(case, found):
  """Q random vectors, as trees and as matrices [*stack, Q, I, O]."""
  trees = jax.tree.map(lambda p: normal(p.size, Q, *p.shape), case.params)
  each = {
    name: jax.vmap(lambda t, v=layer: layers.matrix(v, t))(trees)
    for name, layer in found.items()
  }
  aux = {n: jnp.moveaxis(v, 0, len(found[n].stack)) for n, v in each.items()}
  return trees, aux


def assert_near(got, want, tolerance, what=''):
  got, want = (np.asarray(v, np.float64) for v in (got, want))
  assert got.shape == want.shape, what
  size = np.abs(want).max()
  assert size > 0, f'{what}: a reference of zeros shows nothing'
  error = np.abs(got - want).max() / size
  assert error <= tolerance, f'{what}: {error:.1e}'


def gradients_by_taps(case, found, params, examples):
  """Σ over layers of their gradients, as a tree of [B, ...]."""
  each = taps.collect(
    gradients, case.outputs, layer_cases.loss, params, examples
  )
  total = jax.tree.map(lambda p: jnp.zeros((B, *p.shape)), params)
  for name, layer in found.items():
    back = lambda w, layer=layer: layers.unmatrix(layer, w, params)
    part = jax.vmap(back, len(layer.stack))(each[name])
    total = jax.tree.map(jnp.add, total, part)
  return total


def check_gradients(make):
  """Layers must add up to the gradient of an example, in every entry."""
  case = make()
  by_taps = jit(functools.partial(gradients_by_taps, case, find(case)))
  got = by_taps(case.params, case.examples)
  want = of_examples(case.outputs, case.params, case.examples)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want))
  leaves = jax.tree_util.tree_leaves_with_path(want)
  for (path, leaf), sums in zip(leaves, jax.tree.leaves(got), strict=True):
    name = jax.tree_util.keystr(path)
    if "['key']['bias']" in name:  # moves no softmax: nothing but rounding
      assert np.abs(sums).max() < 1e-7 * largest, name
    elif 'frozen' not in name:
      assert_near(sums, leaf, case.tolerance, name)


@pytest.mark.parametrize('make', layer_cases.FAST)
def test_gradients(make):
  check_gradients(make)


@pytest.mark.slow
@pytest.mark.parametrize('make', layer_cases.SLOW)
def test_gradients_of_more_models(make):
  check_gradients(make)


# --- statistics -------------------------------------------------------------


@pytest.mark.parametrize(
  'make',
  [
    layer_cases.dict_experts,
    pytest.param(layer_cases.transformer_scan_remat, marks=pytest.mark.slow),
  ],
)
def test_scores_are_inner_products(make):
  case = make()
  trees, aux = queries(case, find(case))
  got = collect(case, scores, aux, total=True)
  each = of_examples(case.outputs, case.params, case.examples)
  pairs = zip(jax.tree.leaves(each), jax.tree.leaves(trees), strict=True)
  want = sum(
    jnp.reshape(g, (B, -1)) @ jnp.reshape(t, (Q, -1)).T for g, t in pairs
  )
  assert_near(got, want, 2e-6)
  by_layer = collect(case, scores, aux)
  total = sum(v.reshape(-1, B, Q).sum(0) for v in by_layer.values())
  assert_near(total, want, 2e-6)


def rotations(layer):
  """Orthogonal bases [*stack, I, I] and [*stack, O, O], another each entry."""
  return tuple(
    jnp.linalg.qr(normal(layer.num_out, *layer.stack, n, n))[0]
    for n in (layer.num_in, layer.num_out)
  )


@pytest.mark.parametrize(
  'make', [layer_cases.dict_nested_scan, layer_cases.dict_experts]
)
def test_aux_goes_to_its_place_in_the_stack(make):
  case = make()
  found = find(case)
  bases = {name: rotations(layer) for name, layer in found.items()}
  got = collect(case, squares, bases)
  each = of_examples(case.outputs, case.params, case.examples)
  for name, layer in found.items():
    g = jax.vmap(lambda t, v=layer: layers.matrix(v, t))(each)
    left, right = bases[name]
    want = jnp.sum((jnp.swapaxes(left, -1, -2) @ g @ right) ** 2, 0)
    assert_near(got[name], want, 1e-5, name)


def test_moments_of_a_shared_layer_are_sums_over_untied_copies():
  params = {'w': normal(3, 4, 4), 'b': normal(4, 4)}
  names = ('first', 'second', 'third')
  apply = lambda p, x: jnp.tanh(x @ p['w'] + p['b'])

  def tied(p, e):
    return jax.lax.fori_loop(0, 3, lambda i, x: apply(p, x), e['x'])

  def untied(p, e):
    return apply(p['third'], apply(p['second'], apply(p['first'], e['x'])))

  examples = layer_cases.examples(4)
  case = layer_cases.Case(tied, params, examples, 1)
  copies = layer_cases.Case(untied, dict.fromkeys(names, params), examples, 3)
  got = collect(case, moments)['w']
  each = collect(copies, moments)
  for k in range(2):
    want = sum(each[f'{name}/w'][k] for name in names)
    assert_near(got[k], want, 1e-6)
    assert not np.allclose(got[k], each['first/w'][k])


def test_inputs_and_gradients_are_those_an_interceptor_sees():
  """flax's own hook gives a, and a shift of each output gives ∂loss/∂y."""
  module = layer_cases.MLP()
  case = layer_cases.mlp()

  def run(shifts, example):
    seen = {}

    def intercept(call, args, kwargs, context):
      y = call(*args, **kwargs)
      name = context.module.name
      if not isinstance(context.module, nn.Dense):
        return y
      seen[name] = args[0][0]
      return y + shifts.get(name, 0)

    with nn.intercept_methods(intercept):
      y = module.apply(case.params, example['x'][None])[0]
    return layer_cases.loss(y, example), seen

  shifts = {f'Dense_{i}': jnp.zeros(n) for i, n in enumerate((6, 5, 3))}
  g, a = jit(jax.vmap(jax.grad(run, has_aux=True), (None, 0)))(
    shifts, case.examples
  )
  got = collect(case, lambda layer, a, g, aux: (a, g))
  for name in shifts:
    inputs, outs = got[f'params/{name}/kernel']
    if name != 'Dense_1':
      assert (inputs[..., -1] == 1).all()
      inputs = inputs[..., :-1]
    assert_near(inputs[:, 0], a[name], 1e-6, name)
    assert_near(outs[:, 0], g[name], 1e-6, name)


# --- masks, members, devices ------------------------------------------------


@pytest.mark.parametrize(
  'make',
  [
    layer_cases.dict_tied,
    pytest.param(layer_cases.transformer_scan_remat, marks=pytest.mark.slow),
  ],
)
def test_masked_rows_count_for_nothing(make):
  case = make()
  mask = jnp.array([1, 0, 1, 0])
  whole = collect(case, moments, mask=mask)
  kept = jax.tree.map(lambda x: x[::2], case.examples)
  part = collect(case, moments, examples=kept)
  compare = functools.partial(assert_near, tolerance=1e-5)
  jax.tree.map(compare, whole, part)


def test_masked_rows_may_be_not_a_number():
  case = layer_cases.mlp()
  x = case.examples['x'].at[1].set(jnp.nan)
  mask = jnp.array([True, False, True, True])
  got = collect(case, moments, examples={**case.examples, 'x': x}, mask=mask)
  want = collect(case, moments, mask=mask)
  jax.tree.map(lambda a, b: assert_near(a, b, 1e-6), got, want)


def test_row_numbers_come_back_as_integers_out_of_range_if_masked():
  case = layer_cases.dict_tied()
  mask = jnp.array([1, 1, 1, 0])
  ids = collect(case, lambda layer, a, g, aux: a, mask=mask)['embed']
  assert ids.dtype == jnp.int32
  np.testing.assert_array_equal(ids[:3], case.examples['x'][:3])
  assert (ids[3] == layer_cases.V).all()


def test_members_by_vmap():
  case = layer_cases.dict_nested_scan()
  members = jax.tree.map(lambda p: jnp.stack([p, p + 0.1, -p]), case.params)
  one = lambda p: taps.collect(
    moments, case.outputs, layer_cases.loss, p, case.examples
  )
  got = jit(jax.vmap(one))(members)
  last = collect(case, moments, params=jax.tree.map(jnp.negative, case.params))
  jax.tree.map(lambda a, b: assert_near(a[2], b, 1e-5), got, last)


def test_remat_stays():
  case = layer_cases.transformer_scan_remat()
  program = jax.make_jaxpr(
    functools.partial(taps.collect, moments, case.outputs, layer_cases.loss)
  )(case.params, case.examples)
  assert any(f' {name}[' in str(program) for name in equations.REMAT)


def test_batches_by_scan():
  case = layer_cases.mlp()
  collected = lambda e: taps.collect(
    moments, case.outputs, layer_cases.loss, case.params, e
  )
  stack = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), case.examples)

  def step(total, e):
    return jax.tree.map(jnp.add, total, collected(e)), None

  first = jax.tree.map(lambda x: x[0], stack)
  zero = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(collected, first)
  )
  got = jit(lambda s: jax.lax.scan(step, zero, s)[0])(stack)
  want = collect(case, moments)
  jax.tree.map(lambda a, b: assert_near(a, b, 1e-5), got, want)


@pytest.mark.parametrize(
  'make',
  [
    layer_cases.dict_nested_scan,
    pytest.param(layer_cases.transformer_scan_remat, marks=pytest.mark.slow),
  ],
)
def test_losses_by_vmap_leave_the_inputs_alone(make):
  """As for the exact Fisher: one backward pass per output, a not repeated."""
  case = make()

  def column(k):
    return taps.collect(
      lambda layer, a, g, aux: {'a': a, 'g': g},
      case.outputs,
      lambda outputs, e: outputs.reshape(-1)[k],
      case.params,
      case.examples,
    )

  found = find(case)
  axes = {name: {'a': None, 'g': 0} for name in found}
  # vmap raises if an `a` depends on k.
  got = jit(jax.vmap(column, out_axes=axes))(jnp.arange(3))
  value = lambda p, e, k: case.outputs(p, e).reshape(-1)[k]
  each = jit(
    jax.vmap(jax.vmap(jax.grad(value), (None, 0, None)), (None, None, 0))
  )(case.params, case.examples, jnp.arange(3))
  for name, layer in found.items():
    a = inputs(layer, got[name]['a'])
    by_taps = jnp.einsum('...bsi,k...bso->kb...io', a, got[name]['g'])
    matrices = jax.vmap(jax.vmap(lambda t, v=layer: layers.matrix(v, t)))(each)
    assert_near(by_taps, matrices, 1e-5, name)


def test_sharded_batch():
  case = layer_cases.dict_nested_scan()
  examples = {'x': normal(1, 16, 4), 'y': jnp.arange(16)}
  want = collect(case, moments, examples=examples)
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  place = jax.sharding.NamedSharding(mesh, jax.P('data'))
  whole = jax.sharding.NamedSharding(mesh, jax.P())
  got = collect(
    case,
    moments,
    params=jax.device_put(case.params, whole),
    examples=jax.device_put(examples, place),
  )
  jax.tree.map(lambda a, b: assert_near(a, b, 1e-5), got, want)


def test_float64():
  with jax.enable_x64(True):
    case = layer_cases.dict_lora()
    wide = lambda t: jax.tree.map(lambda x: x.astype(jnp.float64), t)
    examples = {**case.examples, 'x': case.examples['x'].astype(jnp.float64)}
    case = case._replace(params=wide(case.params), examples=examples)
    got = collect(case, gradients)
    assert got['a'].dtype == jnp.float64
    want = of_examples(case.outputs, case.params, case.examples)
    # The loss computes its logarithms in float32.
    assert_near(got['a'], want['a'], 1e-6)


# --- bad input --------------------------------------------------------------


def test_examples_of_different_length():
  case = layer_cases.mlp()
  examples = {**case.examples, 'y': jnp.arange(3)}
  with pytest.raises(ValueError, match='leading axes of the examples differ'):
    collect(case, moments, examples=examples)


def test_loss_that_is_not_one_number():
  case = layer_cases.mlp()
  with pytest.raises(ValueError, match=r'has the shape \(3,\): return one'):
    taps.collect(
      moments, case.outputs, lambda y, e: y, case.params, case.examples
    )
