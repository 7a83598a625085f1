"""Computes statistics of every layer in one backward pass.

The model's jaxpr is replayed, vmapped over examples, with a tap on the output y
of every product: an identity on y whose unused argument, the slot, has the
wanted statistic of (a, δ = ∂loss/∂y) as its gradient. Differentiating with
respect to the slots gathers the statistics: autodiff sums them over the
applications of a layer and stacks them over a scan, also under remat, and XLA
sums them over devices. No gradient of an example is formed unless the statistic
forms it.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from tda_jax import parallel
from tda_jax.data.rows import Batch
from tda_jax.layers import equations, replay
from tda_jax.layers import find as layers_lib
from tda_jax.layers.find import Layer, Plan
from tda_jax.problem import Problem
from tda_jax.trees import Array, PyTree

Statistic = Callable[[Layer, jax.Array, jax.Array, PyTree], PyTree]


def collect(
  statistic: Statistic,
  outputs: Callable[[PyTree, PyTree], PyTree],
  loss: Callable[[PyTree, PyTree], jax.Array],
  params: PyTree,
  examples: PyTree,
  aux: dict[str, PyTree] | None = None,
  *,
  mask: Array | None = None,
  total: bool = False,
  as_leaf: str | Sequence[str] = (),
  changed: Callable[[Plan], Plan] = lambda plan: plan,
) -> PyTree:
  """The statistic of each layer, over B examples at once.

  Args:
    statistic: (layer, a, g, aux) -> tree of arrays. a [B, S, I] are the inputs
      of the layer (with a last 1 if it has a bias; row numbers [B, S] if
      `layer.kind` is 'embed'; 1 if it is 'leaf'), g [B, S, O] the gradients of
      the sum of the losses with respect to its outputs, in float32 (float64 if
      params are). It is summed over the applications of a layer, so it is right
      for a `layer.shared` only if it is linear in each application. It gets one
      entry of the layer's stack at a time. Its integers must be less than 2²⁴.
    outputs: (params, ONE example) -> tree of arrays.
    loss: (outputs, ONE example) -> scalar.
    examples: leaves [B, ...].
    aux: layer name -> tree of [*stack, ...], whose entry the statistic gets.
    mask: [B], 0 for padding rows: then a and g are 0, and row numbers are I, out
      of range. Padding positions inside an example are not known here (see
      `positions`): their g are 0, their a are not.
    total: sum over layers and their stacks; the statistic must then have the
      same shape for all.
    as_leaf: see `layers.find`.
    changed: applied to the model's plan before it is run.

  Returns:
    {layer name: the statistic [*stack, ...]}; if `total`, the statistic alone.
  """
  batch = {leaf.shape[0] for leaf in jax.tree.leaves(examples)}
  if len(batch) != 1:
    raise ValueError(f'leading axes of the examples differ: {sorted(batch)}')
  (size,) = batch
  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), examples
  )
  plan = changed(layers_lib.plan(outputs, params, one, as_leaf))
  mask = jnp.ones(size) if mask is None else jnp.asarray(mask)
  examples, mask = parallel.spread((examples, mask))
  aux = {name: (aux or {}).get(name) for name in plan.layers}
  shapes = _shapes(statistic, plan, params, size, aux, total)
  dtype = _dtype(params)

  def of_example(slots, example, mask):
    extra = replay.Extra(mask, aux, slots)
    outs = _tapped(statistic, plan, params, example, extra, dtype)
    value = loss(jax.tree.unflatten(plan.structure, outs), example)
    if jnp.shape(value):
      raise ValueError(
        f'loss of one example has the shape {jnp.shape(value)}: return one'
        ' number, the sum over its terms'
      )
    return value

  def of_batch(slots):
    return jax.vmap(of_example, (None, 0, 0))(slots, examples, mask).sum()

  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, dtype), shapes)
  sums = jax.grad(of_batch)(zeros)
  sums = jax.tree.map(lambda x, s: x.astype(s.dtype), sums, shapes)
  return sums[''] if total else parallel.held(sums)


def collect_rows(
  statistic: Statistic,
  problem: Problem,
  scalar: Callable[[PyTree, PyTree], jax.Array],
  params: PyTree,
  batch: Batch,
  aux: dict[str, PyTree] | None = None,
  *,
  total: bool = False,
  changed: Callable[[Plan], Plan] = lambda plan: plan,
) -> PyTree:
  """`collect` for the rows of a batch.

  Args:
    scalar: (outputs, row) -> number, as `problem.loss` or `problem.measure`; g are
      its gradients.
    statistic, params, aux, total, changed: see `collect`.
  """
  return collect(
    statistic,
    problem.outputs,
    scalar,
    params,
    batch.examples,
    aux,
    mask=batch.mask,
    total=total,
    as_leaf=problem.as_leaf,
    changed=changed,
  )


def collect_keyed_rows(
  statistic: Statistic,
  problem: Problem,
  scalar: Callable[..., jax.Array],
  params: PyTree,
  batch: Batch,
  key: jax.Array,
  aux: dict[str, PyTree] | None = None,
) -> dict[str, PyTree]:
  """`collect_rows` for a function that draws, with a key for every row.

  The key is folded by the row's global index, so it does not depend on the batch.

  Args:
    scalar: (outputs, row=row, key=key) -> number; g are its gradients.
    statistic, params, aux: see `collect`.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
  outputs = problem.outputs
  return collect_rows(
    statistic,
    problem._replace(outputs=lambda params, e: outputs(params, e['row'])),
    lambda outputs, example: scalar(outputs, **example),
    params,
    batch._replace(examples={'row': batch.examples, 'key': keys}),
    aux,
  )


def _dtype(params):
  """The type of a and g: float32, or wider if the parameters are."""
  return jnp.result_type(jnp.float32, *jax.tree.leaves(params))


def _shapes(statistic, plan, params, size, aux, total):
  """Shapes of the statistics, which are those of the slots."""
  dtype, shapes = _dtype(params), {}
  for name, layer in plan.layers.items():
    depth = len(layer.stack)
    ids = layer.kind == 'embed'
    a = (size, layer.positions, *(() if ids else (layer.num_in,)))
    entry = jax.tree.map(
      lambda x, depth=depth: jax.ShapeDtypeStruct(x.shape[depth:], x.dtype),
      aux[name],
    )
    shape = jax.eval_shape(
      functools.partial(statistic, layer),
      jax.ShapeDtypeStruct(a, jnp.int32 if ids else dtype),
      jax.ShapeDtypeStruct((size, layer.positions, layer.num_out), dtype),
      entry,
    )
    if total:
      shapes[''] = shape
    else:
      shapes[name] = jax.tree.map(
        lambda s, stack=layer.stack: jax.ShapeDtypeStruct(
          (*stack, *s.shape), s.dtype
        ),
        shape,
      )
  return shapes


# --- one tap ----------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(statistic, y, x, extra, slot):
  """y. The gradient of `slot` is statistic(x, ∂/∂y, extra)."""
  return y


def _tap_forward(statistic, y, x, extra, slot):
  return y, (x, extra)


def _tap_backward(statistic, residuals, g):
  x, extra = residuals
  return g, None, None, statistic(x, g, extra)


_tap.defvjp(_tap_forward, _tap_backward)


def _tap_example(statistic, y, x, mask, aux, slot):
  """A tap inside vmap over examples, which acts on the whole batch at once."""

  @jax.custom_batching.custom_vmap
  def identity(y, x, mask, aux, slot):
    return y

  @identity.def_vmap
  def of_batch(size, batched, y, x, mask, aux, slot):
    y, x = jax.tree.map(
      lambda value, axis: (
        value if axis else jnp.broadcast_to(value, (size, *value.shape))
      ),
      (y, x),
      tuple(batched[:2]),
    )
    y, x = parallel.spread((y, x))
    return _tap(statistic, y, x, (mask, aux), slot), True

  return identity(y, x, mask, aux, slot)


def _of_layer(statistic, layer, product, total, dtype):
  """(x, ∂/∂y, (mask, aux)) of an equation -> the statistic of its layer.

  Of a routed layer x is (x, numbers of the matrices chosen).
  """
  stacked, entries = bool(product.stack), product.entries

  def of_batch(x, g, extra):
    mask, aux = extra
    if entries:
      x, numbers = x
      numbers = jax.vmap(entries)(numbers)
    # a and g are [B, H, S, ...].
    a, g = jax.vmap(product.rows)(x), jax.vmap(product.columns)(g)
    real = mask.reshape(-1, 1, 1, 1) != 0
    if layer.kind == 'embed':
      real = real & (a < layer.num_in)[..., None]
      a = jnp.where(real[..., 0], a, layer.num_in)
    g = jnp.where(real, g.astype(dtype), 0)
    if layer.kind != 'embed':
      a = a.astype(dtype)
      if layer.bias is not None:
        a = jnp.concatenate([a, jnp.ones_like(a[..., :1])], -1)
      a = jnp.where(real, a, 0)
    of_entry = functools.partial(statistic, layer)
    if entries:

      def of_chosen(entry):
        here = (numbers == entry[0])[..., None]
        here_only = (jnp.where(here, v[:, 0], 0) for v in (a, g))
        return of_entry(*here_only, entry[1])

      # One at a time: a for every entry would be that much larger.
      value = jax.lax.map(
        of_chosen, (jnp.arange(product.stack[0], dtype=jnp.int32), aux)
      )
    elif stacked:
      value = jax.vmap(of_entry, (1, 1, 0))(a, g, aux)
    if stacked:
      if total:
        value = jax.tree.map(lambda v: v.sum(0), value)
    else:
      value = of_entry(a[:, 0], g[:, 0], aux)
    value = jax.tree.map(lambda v: v.astype(dtype), value)
    return value if total else parallel.held(value)

  return of_batch


# --- the model with taps ----------------------------------------------------


def _held(layer):
  """The product of a layer of kind 'leaf': y = W, of each block of its stack."""
  blocks = math.prod(layer.stack)
  return equations.Product(
    'leaf',
    (),
    layer.stack,
    lambda x: jnp.broadcast_to(x, (blocks, 1, 1)),
    lambda y: y.reshape(blocks, 1, -1),
    (),
  )


def _tapped(statistic, plan, params, example, extra, dtype):
  """The flat outputs of one example, with a tap at every layer."""
  total = '' in extra.slots

  def tap(name, y, x, extra, product):
    layer, slot = plan.layers[name], extra.slots['' if total else name]
    of = _of_layer(statistic, layer, product, total, dtype)
    return _tap_example(of, y, x, extra.mask, extra.aux[name], slot)

  def at_site(path, y, operands, extra):
    site, name = plan.sites[path]
    x = operands[site.operand]
    if site.route:
      x = x, extra.numbers[site.route]
    return tap(name, y, x, extra, site.product)

  leaves = list(jax.tree.leaves(params))
  for name, layer in plan.layers.items():
    if layer.kind == 'leaf':
      leaves[layer.leaf] = tap(
        name,
        leaves[layer.leaf],
        jnp.ones((), dtype),
        extra,
        _held(layer),
      )
  inputs = [*leaves, *jax.tree.leaves(example)]
  return replay.replayed(plan, inputs, extra, at_site)
