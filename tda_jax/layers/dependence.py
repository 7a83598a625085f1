"""Searches a model's jaxpr for masks and choices, by what its values depend on.

A jaxpr is followed from its inputs: every value depends on the parameters, on
the example, on both or on neither.
"""

from typing import NamedTuple

import jax
from jax.extend import core as jex

from tda_jax.layers import equations, multiplications
from tda_jax.layers.find import Plan
from tda_jax.layers.walk import Path
from tda_jax.trees import PyTree


class On(NamedTuple):
  """What a value depends on."""

  params: bool = False
  example: bool = False


class Read(NamedTuple):
  """The equations that a search has noted, by their path."""

  masks: set[Path]  # in which the example may leave positions out
  choices: dict[Path, tuple[int, ...]]  # see `equations.chosen_from`
  promised: dict[
    Path, tuple
  ]  # gathers of parameters without a check; values ()


def of_model(plan: Plan, params: PyTree) -> Read:
  """Searches the jaxpr of a model's outputs (params, example)."""
  jaxpr, count = plan.jaxpr.jaxpr, len(jax.tree.leaves(params))
  given = [On(params=True)] * count
  given += [On(example=True)] * (len(jaxpr.invars) - count)
  return search(jaxpr, given, equations.MASKS)


def search(jaxpr: jex.Jaxpr, inputs: list[On], masks: tuple[str, ...]) -> Read:
  """Searches a jaxpr.

  Args:
    inputs: what each of its inputs depends on.
    masks: names of the equations that may mask.
  """
  read = Read(set(), {}, {})
  _follow(jaxpr, inputs, (), read, masks)
  return read


def _follow(jaxpr, given, path, read, masks):
  """What the outputs of a jaxpr depend on; notes equations in `read`."""
  known = dict(zip(jaxpr.invars, given, strict=True))

  def of(v):
    return On() if isinstance(v, jex.Literal) else known.get(v, On())

  for i, e in enumerate(jaxpr.eqns):
    here, ins = (*path, i), [of(v) for v in e.invars]
    both = On(any(v.params for v in ins), any(v.example for v in ins))
    outs = [both] * len(e.outvars)
    alone = any(v.example and not v.params for v in ins)
    if equations.name(e) in masks and alone and On(True, True) in ins:
      read.masks.add(here)
    chosen = equations.chosen_from(e, [v.params for v in ins])
    if chosen:
      read.choices[here] = chosen
    if ins and ins[0].params and multiplications.is_promised(e):
      read.promised[here] = ()
    bodies = equations.bodies(e)
    for place, body, inputs in bodies:
      inside = [of(v) for v in inputs]
      if equations.name(e) == 'scan':
        constants, carried = equations.scan_split(e)
        inside[constants : constants + carried] = [both] * carried
      results = _follow(body, inside, (*here, *place), read, masks)
      if len(bodies) == 1 and equations.name(e) != 'scan':
        outs = results
    known.update(zip(e.outvars, outs, strict=True))
  return [of(v) for v in jaxpr.outvars]
