"""Walks a model's jaxpr, to see what it does with every parameter.

`walk` follows each leaf through equations that only rearrange or cut it, into
the functions that are called, and notes two things: the products y = a @ W that
a leaf takes part in (sites), and every other use of it (escapes). Each equation
has a path: its place in the jaxpr, after the path of the equation around it.
"""

import collections
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from tda_jax.layers import equations, multiplications
from tda_jax.layers.equations import Path, Product, Step


class View(NamedTuple):
  """A leaf of the parameters, rearranged or cut."""

  leaf: int  # in tree.leaves(params)
  shape: tuple[int, ...]
  steps: tuple[tuple[int, Step], ...] = ()  # (leading axes not touched, step)
  scans: tuple[tuple[Path, int], ...] = ()  # each took a leading axis: length
  repeats: int = 1  # how often the scans around it use it again


class Value(NamedTuple):
  """What is known about an intermediate value."""

  view: View | None = None  # the parameter that it is
  spread: tuple[View, tuple] | None = None  # the one it broadcasts; its sizes
  product: tuple[Path, tuple] | None = None  # the site of which it is y; axes
  chosen: tuple[Path, tuple] | None = None  # the gather of its matrices; axes
  on_params: bool = False  # depends on the parameters
  on_example: bool = False  # depends on the example

  @property
  def parameter(self) -> View | None:
    """The parameter that the value is or broadcasts."""
    return self.spread[0] if self.spread else self.view


class Site(NamedTuple):
  """One equation that multiplies by a parameter."""

  product: Product
  view: View  # as [*stack, I, O], without the scanned axes
  operand: int  # which input of the equation is `a`
  num_positions: int  # S
  bias: View | None = None  # as [*stack, 1, O]
  route: Path | None = None  # the gather that chooses a matrix per position


class Escape(NamedTuple):
  """A use of a leaf that is no product."""

  why: str
  cheap: bool  # its gradient per example is no larger than an activation
  blocks: int | None = (
    None  # of the one scan over its leading axis that it is in
  )


class Uses(NamedTuple):
  """The uses of parameters that a walk has noted."""

  sites: dict[Path, Site]  # products, by equation
  escapes: dict[int, list[Escape]]  # all other uses, by leaf
  gathers: dict[Path, tuple[int, Product]]  # (operand, as an embedding)
  closed: set[Path]  # equations whose inner values stay inside: remat


def with_steps(view: View, *steps: Step) -> View:
  """The view after some steps; those that do nothing are left out."""
  for step in steps:
    if not _is_idle(step, view.shape):
      view = view._replace(steps=(*view.steps, (len(view.scans), step)))
    view = view._replace(shape=step.shape)
  return view


def _is_idle(step, shape):
  if step.kind == 'transpose':
    return step.argument == tuple(range(len(shape)))
  return step.kind in ('reshape', 'slice') and step.shape == shape


def apply_steps(steps: tuple[tuple[int, Step], ...], x: jax.Array) -> jax.Array:
  """The array x after a view's steps."""
  for lead, (kind, argument, _) in steps:
    before = (slice(None),) * lead
    if kind == 'reshape':
      x = x.reshape(x.shape[:lead] + argument)
    elif kind == 'transpose':
      x = x.transpose(*range(lead), *(lead + axis for axis in argument))
    elif kind == 'reverse':
      back = [
        slice(None, None, -1 if i in argument else 1)
        for i in range(x.ndim - lead)
      ]
      x = x[(*before, *back)]
    else:
      x = x[(*before, *(slice(*cut) for cut in argument))]
  return x


def walk(
  jaxpr: jex.Jaxpr, values: list[Value], path: Path, uses: Uses
) -> list[Value]:
  """Follows the inputs `values` through a jaxpr to its outputs.

  Args:
    path: of the equation around the jaxpr; () for a model.
    uses: gets the products and other uses of parameters.
  """
  known = dict(zip(jaxpr.invars, values, strict=True))
  read = [*(v for e in jaxpr.eqns for v in e.invars), *jaxpr.outvars]
  counts = collections.Counter(
    v for v in read if not isinstance(v, jex.Literal)
  )

  def of(v):
    if isinstance(v, jex.Literal) or v not in known:
      return Value()  # a constant
    # If y has another use, its gradient is not that of y + bias.
    alone = counts[v] == 1
    return known[v] if alone else known[v]._replace(product=None, chosen=None)

  for i, e in enumerate(jaxpr.eqns):
    ins = [of(v) for v in e.invars]
    used = [counts[v] > 0 for v in e.outvars]
    outs = _equation(e, ins, used, (*path, i), uses)
    known.update(zip(e.outvars, outs, strict=True))
  return [of(v) for v in jaxpr.outvars]


def _equation(e, ins, used, path, uses) -> list[Value]:
  """What is known about the outputs of one equation; notes the uses in it."""
  name = equations.name(e)
  parameters = [v for v in ins if v.parameter]
  plain = Value(
    on_params=any(v.on_params for v in ins),
    on_example=any(v.on_example for v in ins),
  )
  outs = [plain] * len(e.outvars)
  if name in equations.CALLS and any(v.parameter or v.product for v in ins):
    if name in equations.REMAT:
      uses.closed.add(path)
    return walk(equations.inner(e)[0], ins, path, uses)
  if not parameters:
    return _without_parameters(e, ins, path, outs, uses)
  if not any(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in e.outvars):
    return [v._replace(on_params=False) for v in outs]  # no gradient passes
  if name == 'stop_gradient':
    return [plain._replace(on_params=False)]
  if name == 'scan':
    return _scan(e, ins, used, path, plain, uses)
  if name == 'cond':
    return _cond(e, ins, path, outs, uses)
  if name == 'while' or equations.is_unknown_call(e):
    raise ValueError(_refusal(e))
  result = _product(e, ins, path)
  if result:
    product, chosen, site = result
    uses.sites[path] = site
    if chosen:
      uses.gathers[path] = site.operand, product
    return [plain._replace(product=(path, product.axes), chosen=chosen)]
  rearranged = _rearranged(e, ins, plain)
  if rearranged:
    return rearranged
  if name in ('add', 'add_any'):
    bias = _bias(e, ins, uses.sites)
    if bias:
      site, view = bias
      uses.sites[site] = uses.sites[site]._replace(bias=view)
      return outs
  pointwise = name in ('add', 'add_any', 'sub', 'mul', 'div')
  for v in parameters:
    escape(uses, v, e, name, cheap=pointwise and plain.on_example)
  return outs


def _without_parameters(e, ins, path, outs, uses):
  """Of an equation none of whose inputs is a parameter."""
  routed = equations.name(e) == 'dot_general' and _routed(e, ins, path, uses)
  if routed:  # the gathered matrices are a layer there, no rows of a table
    gather, site = routed
    del uses.sites[gather]
    uses.sites[path] = site
    return outs
  for what in ('product', 'chosen'):
    if ins and getattr(ins[0], what):
      site, axes = getattr(ins[0], what)
      axes = equations.moved_axes(e, axes)
      outs[0] = outs[0]._replace(**{what: axes and (site, axes)})
  return outs


def escape(
  uses: Uses, value: Value, e: jex.JaxprEqn, why: str, cheap: bool = False
) -> None:
  """Notes a use that is no product; vectors are always cheap.

  Args:
    value: an input of the equation e; ignored if it is no parameter.
  """
  view = value.parameter
  if view:
    cheap = cheap or is_vector(view.shape)
    note = Escape(f'{why} at {equations.where(e)}', cheap, _blocks(view))
    uses.escapes.setdefault(view.leaf, []).append(note)


def _blocks(view):
  """The length of the one scan over a leaf that is cut before all other steps."""
  whole = len(view.scans) != 1 or any(depth == 0 for depth, _ in view.steps)
  return None if whole else view.scans[0][1]


def is_vector(shape: tuple[int, ...]) -> bool:
  """Whether at most one axis has more than one entry."""
  return sum(n > 1 for n in shape) < 2


def _product(e, ins, path):
  """(product, matrices it chooses, site) of a product with one parameter, or None."""
  for operand, other in multiplications.pairs(e):
    w, x = ins[operand], ins[other]
    given = x.on_example or not x.on_params  # else: a parameter's function
    if not w.view or x.parameter or not given:
      continue
    product = multiplications.product(e, operand)
    if product:
      view = with_steps(w.view, *product.steps)
      a = e.invars[other].aval
      a = jax.eval_shape(product.rows, jax.ShapeDtypeStruct(a.shape, a.dtype))
      site = Site(product, view, other, a.shape[1])
      return product, _chosen_matrices(e, product, path), site
  return None


def _chosen_matrices(e, product, path):
  """(path, axes) of matrices that a gather chooses; None if it chooses rows."""
  shape = e.outvars[0].aval.shape
  wide = [j for j, n in enumerate(shape) if n != 1]
  if (
    product.kind != 'embed'
    or sum(product.axes[j] is not None for j in wide) < 2
  ):
    return None
  positions = [j for j in wide if product.axes[j] is None]
  axes = [
    -1 - positions.index(j) if j in positions else product.axes[j]
    for j in range(len(shape))
  ]
  return path, tuple(axes)


def _routed(e, ins, path, uses) -> tuple[Path, Site] | None:
  """(the gather, site) of a product of an activation with gathered matrices, or None.

  The matrices are then a stack of layers, each applied where it was chosen.
  """
  for operand, other in multiplications.pairs(e):
    w, x = ins[operand], ins[other]
    if not w.chosen or not (x.on_example or not x.on_params):
      continue
    gather, axes = w.chosen
    site = uses.sites[gather]
    # Its numbers do not leave a remat.
    around = {gather[:i] for i in range(1, len(gather))} & uses.closed
    if any(path[: len(at)] != at for at in around):
      continue
    product = multiplications.of_gathered(e, operand, axes, site.view.shape[0])
    if product is None:
      continue
    view = with_steps(site.view, *product.steps)
    a = e.invars[other].aval
    a = jax.eval_shape(product.rows, jax.ShapeDtypeStruct(a.shape, a.dtype))
    return gather, Site(product, view, other, a.shape[1], None, gather)
  return None


def _rearranged(e, ins, plain):
  """The outputs if the equation rearranges, cuts or broadcasts one parameter."""
  if len([v for v in ins if v.parameter]) > 1 or not ins[0].parameter:
    return None
  if ins[0].spread:
    return [ins[0]] if equations.name(e) in equations.CASTS else None
  steps = equations.rearrangement(e)
  if steps:
    return [
      plain._replace(view=with_steps(ins[0].view, step)) for step in steps
    ]
  sizes = equations.broadcast_sizes(e)
  return [plain._replace(spread=(ins[0].view, sizes))] if sizes else None


def _bias(e, ins, sites) -> tuple[Path, View] | None:
  """(site, bias) if the equation adds a bias to the product of a site."""
  y, b = ins if ins[0].product else ins[::-1]
  if not y.product or not b.parameter or y.parameter:
    return None
  path, axes = y.product
  site, shape = sites[path], e.outvars[0].aval.shape
  view, sizes = b.spread or (b.view, b.view.shape)
  stack, num_out = site.product.stack, site.view.shape[-1]
  if len(sizes) != len(shape) or math.prod(sizes) != math.prod(stack) * num_out:
    return None
  # It is used in the same scans, as often ...
  if (view.scans, view.repeats) != (site.view.scans, site.view.repeats):
    return None
  # ... and is one number per output and head, the same at all positions.
  wanted = [
    1 if axis is None else n for n, axis in zip(shape, axes, strict=True)
  ]
  if [*sizes] != wanted:
    return None
  order = sorted(range(len(axes)), key=lambda j: (axes[j] is None, axes[j]))
  moved, end = tuple(sizes[j] for j in order), (*stack, 1, num_out)
  return path, with_steps(
    view,
    Step('reshape', sizes, sizes),
    Step('transpose', tuple(order), moved),
    Step('reshape', end, end),
  )


def _scan(e, ins, used, path, plain, uses):
  """Walks into a scan: constants are used in every step, the scanned lose an axis."""
  length = equations.scan_options(e)['length']
  constants, carried = equations.scan_split(e)
  inside = []
  for i, v in enumerate(ins):
    v = v._replace(product=None, chosen=None)
    if constants <= i < constants + carried:
      escape(uses, v, e, 'the carry of a scan')
      v = plain
    elif v.spread:
      escape(uses, v, e, 'broadcast into a scan')
      v = v._replace(spread=None)
    elif v.view and i < constants:
      v = v._replace(view=v.view._replace(repeats=v.view.repeats * length))
    elif v.view:
      scans = (*v.view.scans, (path, length))
      v = v._replace(view=v.view._replace(scans=scans, shape=v.view.shape[1:]))
    inside.append(v)
  results = walk(equations.inner(e)[0], inside, path, uses)
  for value, needed in zip(results, used, strict=True):
    if needed:
      escape(uses, value, e, 'the output of a scan')
  return [plain] * len(e.outvars)


def _cond(e, ins, path, outs, uses):
  """Walks into the branches of a cond."""
  before = len(uses.sites)
  for k, (branch, _) in enumerate(equations.branches(e)):
    inside = [v._replace(product=None, chosen=None) for v in ins[1:]]
    for value in walk(branch, inside, (*path, k), uses):
      escape(uses, value, e, 'the output of a cond')
  if ins[0].on_example and len(uses.sites) > before:
    raise ValueError(
      f'the cond at {equations.where(e)} chooses by the example which'
      ' parameters multiply it, so that products would count inputs which'
      ' were not used: list these parameters in as_leaf='
    )
  return outs


def _refusal(e):
  """Why the walk cannot enter an equation, and what to do about it."""
  if equations.name(e) == 'while':
    return (
      f'the while loop at {equations.where(e)} uses parameters, and JAX'
      ' cannot differentiate it: use jax.lax.scan, or jax.lax.fori_loop with'
      ' bounds that are plain numbers'
    )
  return (
    f'the equation {equations.name(e)!r} of JAX {jax.__version__} at'
    f' {equations.where(e)} uses parameters inside a function that the walk'
    ' does not know how to enter: list these parameters in as_leaf='
  )
