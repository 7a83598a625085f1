"""Statistics of every layer, taken by one backward pass.

The model's jaxpr is replayed, vmapped over examples, with a tap on the output y
of every product: an identity on y whose unused argument, the slot, has the
wanted statistic of (a, δ = ∂loss/∂y) as its gradient. Differentiating with
respect to the slots gathers the statistics: autodiff sums them over the
applications of a layer and stacks them over a scan, also under remat, and XLA
sums them over devices. No gradient of an example is formed unless the statistic
forms it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from tda_jax.curvature import equations
from tda_jax.curvature import layers as layers_lib
from tda_jax.curvature.layers import Layer, Plan

PyTree = Any
Statistic = Callable[[Layer, jax.Array, jax.Array, PyTree], PyTree]


class Extra(NamedTuple):
  """What is handed to the taps, through every function of the model."""

  mask: jax.Array  # of one example
  aux: dict[str, PyTree]  # by layer, [*stack, ...]
  slots: dict[str, PyTree]  # by layer, [*stack, ...]; or one for all, at ''


def collect(
  statistic: Statistic,
  outputs: Callable,
  loss: Callable,
  params: PyTree,
  examples: PyTree,
  aux: dict[str, PyTree] | None = None,
  *,
  mask: jax.Array | None = None,
  total: bool = False,
  as_leaf=(),
) -> dict[str, PyTree] | PyTree:
  """The statistic of each layer, of B examples at once.

  Args:
    statistic: (layer, a, g, aux) -> tree of arrays. a [B, S, I] are the inputs
      of the layer (with a last 1 if it has a bias; row numbers [B, S] if
      `layer.kind` is 'embed'; 1 if it is 'leaf'), g [B, S, O] the gradients of
      the sum of the losses with respect to its outputs, in float32 (float64 if
      params are). It is summed over the applications of a layer, so of a
      `layer.shared` only what is linear in each application is right. It sees
      one entry of the layer's stack at a time. Its integers must be less than
      2²⁴.
    outputs: (params, ONE example) -> tree of arrays.
    loss: (outputs, ONE example) -> scalar.
    examples: leaves [B, ...].
    aux: layer name -> tree of [*stack, ...], whose entry the statistic gets.
    mask: [B], 0 for padding: then a and g are 0, and row numbers are I, out of
      range. Padding of positions inside an example is not known here; its a
      count, its g are 0 if the loss leaves it out.
    total: sum over layers and their stacks; the statistic must then have the
      same shape for all.
    as_leaf: see `layers.find`.

  Returns:
    layer name -> [*stack, ...], the statistic; only the statistic if `total`.
  """
  batch = {leaf.shape[0] for leaf in jax.tree.leaves(examples)}
  if len(batch) != 1:
    raise ValueError(f'leading axes of the examples differ: {sorted(batch)}')
  (size,) = batch
  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), examples
  )
  plan = layers_lib.plan(outputs, params, one, as_leaf)
  mask = jnp.ones(size) if mask is None else jnp.asarray(mask)
  aux = {name: (aux or {}).get(name) for name in plan.layers}
  shapes = _shapes(statistic, plan, params, size, aux, total)
  dtype = _dtype(params)

  def of_example(slots, example, mask):
    extra = Extra(mask, aux, slots)
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
  return sums[''] if total else sums


def of_rows(statistic, problem, of, params, batch, aux=None, *, total=False):
  """`collect` for the rows of a batch.

  Args:
    of: (outputs, row) -> scalar, as the problem's `loss` and `measure`.
    Others: see `collect`.
  """
  return collect(
    statistic,
    problem.outputs,
    of,
    params,
    batch.examples,
    aux,
    mask=batch.mask,
    total=total,
    as_leaf=problem.as_leaf,
  )


def of_keyed_rows(
  statistic, problem, of, params, batch, key, aux=None, *, total=False
):
  """`of_rows` for `of` (outputs, row, key), every row with a key of its own.

  It is that of the row's global index, whatever the batch.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
  outputs = problem.outputs
  return of_rows(
    statistic,
    problem._replace(outputs=lambda params, e: outputs(params, e['row'])),
    lambda outputs, example: of(outputs, **example),
    params,
    batch._replace(examples={'row': batch.examples, 'key': keys}),
    aux,
    total=total,
  )


def _dtype(params):
  """Of a and g: float32, or more if the parameters have more."""
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
    y, x = (
      value if axis else jnp.broadcast_to(value, (size, *value.shape))
      for value, axis in zip((y, x), batched[:2], strict=True)
    )
    return _tap(statistic, y, x, (mask, aux), slot), True

  return identity(y, x, mask, aux, slot)


def _of_layer(statistic, layer, rows, columns, stacked, total, dtype):
  """(x, ∂/∂y, (mask, aux)) of an equation -> the statistic of its layer."""

  def of_batch(x, g, extra):
    mask, aux = extra
    a, g = jax.vmap(rows)(x), jax.vmap(columns)(g)  # [B, H, S, ...]
    real = mask.reshape(-1, 1, 1, 1) != 0
    g = jnp.where(real, g.astype(dtype), 0)
    if layer.kind == 'embed':
      a = jnp.where(real[..., 0], a, layer.num_in)
    else:
      a = a.astype(dtype)
      if layer.bias is not None:
        a = jnp.concatenate([a, jnp.ones_like(a[..., :1])], -1)
      a = jnp.where(real, a, 0)
    of_entry = functools.partial(statistic, layer)
    if stacked:
      value = jax.vmap(of_entry, (1, 1, 0))(a, g, aux)
      if total:
        value = jax.tree.map(lambda v: v.sum(0), value)
    else:
      value = of_entry(a[:, 0], g[:, 0], aux)
    return jax.tree.map(lambda v: v.astype(dtype), value)

  return of_batch


# --- the model with taps ----------------------------------------------------


def _tapped(statistic, plan, params, example, extra, dtype):
  """The flat outputs of one example, with a tap at every layer."""
  total = '' in extra.slots

  def tap(name, y, x, extra, rows, columns, stacked):
    layer, slot = plan.layers[name], extra.slots['' if total else name]
    of = _of_layer(statistic, layer, rows, columns, stacked, total, dtype)
    return _tap_example(of, y, x, extra.mask, extra.aux[name], slot)

  def at_site(path, y, operands, extra):
    site, name = plan.sites[path]
    product = site.product
    functions = product.rows, product.columns, bool(product.stack)
    return tap(name, y, operands[site.operand], extra, *functions)

  leaves = list(jax.tree.leaves(params))
  for name, layer in plan.layers.items():
    if layer.kind == 'leaf':
      leaves[layer.leaf] = tap(
        name,
        leaves[layer.leaf],
        jnp.ones((), dtype),
        extra,
        lambda x: x.reshape(1, 1, 1),
        lambda y: y.reshape(1, 1, -1),
        False,
      )
  inputs = [*leaves, *jax.tree.leaves(example)]
  return replayed(plan, inputs, extra, at_site)


def replayed(plan: Plan, inputs, extra: Extra, at_site: Callable) -> list:
  """The flat outputs of the model, from the leaves of (params, example).

  Args:
    at_site: (path, y, operands, extra) -> what stands for the output y of the
      equation at `path` of `plan.sites`.
    extra: its `aux` and `slots` of layers in a scan are cut for each step.
  """
  jaxpr, consts = plan.jaxpr.jaxpr, plan.jaxpr.consts
  return _replay(jaxpr, consts, inputs, extra, (), plan, at_site)


def _replay(jaxpr, consts, inputs, extra, path, plan: Plan, at_site):
  """Evaluates a jaxpr, with at_site applied to the output of every site."""
  known = dict(zip(jaxpr.constvars, consts, strict=True))
  known.update(zip(jaxpr.invars, inputs, strict=True))

  def of(v):
    return v.val if isinstance(v, jex.Literal) else known[v]

  for i, e in enumerate(jaxpr.eqns):
    here = (*path, i)
    operands = [of(v) for v in e.invars]
    if here in plan.entered:
      enter = ENTER.get(equations.name(e), _enter_call)
      outs = enter(e, operands, extra, here, plan, at_site)
    else:
      outs = _evaluated(jaxpr, e, operands)
    if here in plan.sites:
      outs = [at_site(here, outs[0], operands, extra)]
    known.update(zip(e.outvars, outs, strict=True))
  return [of(v) for v in jaxpr.outvars]


def _evaluated(jaxpr, e, operands):
  """One equation as JAX itself evaluates it."""
  given = {
    v: value
    for v, value in zip(e.invars, operands, strict=True)
    if not isinstance(v, jex.Literal)
  }
  wanted = [v for v in e.outvars if not isinstance(v, jex.DropVar)]
  alone = jaxpr.replace(constvars=[], invars=[*given], outvars=wanted, eqns=[e])
  function = jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, ()))
  outs = iter(function(*given.values()))
  return [None if isinstance(v, jex.DropVar) else next(outs) for v in e.outvars]


def _enter_call(e, operands, extra, path, plan, at_site):
  jaxpr, consts = equations.inner(e)

  def call(operands, extra):
    return _replay(jaxpr, consts, operands, extra, path, plan, at_site)

  if equations.name(e) in equations.REMAT:
    call = jax.checkpoint(call, **equations.remat_options(e))
  return call(operands, extra)


def _enter_cond(e, operands, extra, path, plan, at_site):
  def branch(k, jaxpr, consts):
    def call(operands, extra):
      inside = (*path, k)
      return _replay(jaxpr, consts, operands, extra, inside, plan, at_site)

    return call

  calls = [branch(k, *of) for k, of in enumerate(equations.branches(e))]
  return jax.lax.switch(operands[0], calls, operands[1:], extra)


def _enter_scan(e, operands, extra, path, plan, at_site):
  """The layers that the scan stacks get their slices of aux and slot."""
  jaxpr, consts = equations.inner(e)
  constants, carried = equations.scan_split(e)
  given, carry, scanned = (
    operands[:constants],
    operands[constants : constants + carried],
    operands[constants + carried :],
  )
  sites = plan.sites.values()
  stacked = {
    name for site, name in sites if path in [at for at, _ in site.view.scans]
  }
  # A slot for the total is one for all steps.
  slices = [
    {name: tree[name] for name in stacked if name in tree}
    for tree in (extra.aux, extra.slots)
  ]

  def body(carry, slices):
    scanned, aux, slots = slices
    inside = extra._replace(
      aux={**extra.aux, **aux}, slots={**extra.slots, **slots}
    )
    inputs = [*given, *carry, *scanned]
    outs = _replay(jaxpr, consts, inputs, inside, path, plan, at_site)
    return outs[:carried], outs[carried:]

  options = equations.scan_options(e)
  carry, outs = jax.lax.scan(body, carry, (scanned, *slices), **options)
  return [*carry, *outs]


ENTER = {'scan': _enter_scan, 'cond': _enter_cond}
