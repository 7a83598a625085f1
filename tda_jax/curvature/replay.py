"""A model's jaxpr evaluated again, with something in the place of its products."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core as jex

from tda_jax.curvature import equations, multiplications
from tda_jax.curvature.layers import Plan

PyTree = Any


class Extra(NamedTuple):
  """What is handed to the taps, through every function of the model."""

  mask: jax.Array  # of one example
  aux: dict[str, PyTree]  # by layer, [*stack, ...]
  slots: dict[str, PyTree]  # by layer, [*stack, ...]; or one for all, at ''
  numbers: dict = {}  # of matrices that gathers chose, by their path


def replayed(plan: Plan, inputs, extra: Extra, at_site: Callable) -> list:
  """The flat outputs of the model, from the leaves of (params, example).

  Args:
    at_site: (path, y, operands, extra) -> what stands for the output y of the
      equation at `path` of `plan.sites`.
    extra: its `aux` and `slots` of layers in a scan are cut for each step.
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
  """A choice made smooth, or a read that drops what is outside."""
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
