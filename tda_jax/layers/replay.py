"""Evaluates a model's jaxpr again, with replacements for some of its equations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.extend import core as jex

from tda_jax.layers import equations, multiplications
from tda_jax.layers.find import Plan
from tda_jax.trees import PyTree


class Extra(NamedTuple):
  """What the taps get, handed through every function of the model."""

  mask: jax.Array | None  # of one example; None: there are no taps
  aux: dict[str, PyTree]  # by layer, [*stack, ...]
  slots: dict[str, PyTree]  # by layer, [*stack, ...]; or one for all, at ''
  numbers: dict = {}  # path of a gather -> numbers of the matrices it chose


def replayed(
  plan: Plan, inputs: Sequence, extra: Extra, at_site: Callable | None
) -> list:
  """The flat outputs of the model, from the leaves of (params, example).

  Args:
    at_site: (path, y, operands, extra) -> the replacement of the output y of the
      equation at `path` of `plan.sites`; None for a plan without sites.
    extra: `aux` and `slots` of layers in a scan are cut for each step.
  """
  jaxpr, consts = plan.jaxpr.jaxpr, plan.jaxpr.consts
  extra = extra._replace(numbers={})
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
    if here in plan.replaced:
      outs = [_replacement(e, plan.replaced[here], operands)]
    elif here in plan.entered:
      enter = ENTER.get(equations.name(e), _enter_call)
      outs = enter(e, operands, extra, here, plan, at_site)
    else:
      outs = _evaluated(jaxpr, e, operands)
    if here in plan.gathers:
      # Into the one dict of this scope, which functions called share.
      operand, gather = plan.gathers[here]
      extra.numbers[here] = gather.rows(operands[operand])[0]
    if here in plan.sites:
      outs = [at_site(here, outs[0], operands, extra)]
    known.update(zip(e.outvars, outs, strict=True))
  return [of(v) for v in jaxpr.outvars]


def _replacement(e, argument, operands):
  """A smooth choice, or a read that drops indices outside the table."""
  if equations.name(e) in equations.CHOICES:
    return equations.unchosen(e, argument, operands)
  return multiplications.dropping(e, operands)


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
  """A scan whose layers get their slices of aux and slots in each step."""
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
