"""Which positions of a layer count: those that padding is not.

A row's loss may leave positions out, and so may the model: a mask of the
example multiplies them, or chooses something else. Such a position has a
gradient of zero, whatever the parameters are, and adds nothing to Σ_s a_s δ_sᵀ.
But averages of its a alone would depend on how much padding there is. So it is
dropped from a and δ alike, and T is the number of the others.

What padding is, the problem says itself, by its loss and its outputs; there is
nothing to state a second time. It is read in two steps. The jaxprs are searched
for a value of the example alone that meets one of the model: without any, all
positions count, and nothing more is computed. Else one backward pass tells
where a or δ is zero. In it every choice by the model's own values (relu, max
pooling) is replaced by something smooth: a unit that is off, or a pixel that is
not the largest, has a zero too, but is no padding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from tda_jax.curvature import equations, taps
from tda_jax.curvature import layers as layers_lib
from tda_jax.curvature.layers import Plan
from tda_jax.curvature.walk import Path
from tda_jax.data import rows
from tda_jax.problem import Problem

PyTree = Any


class _On(NamedTuple):
  """What a value depends on."""

  params: bool = False
  example: bool = False


class _Read(NamedTuple):
  """What a search of the model fills in."""

  masks: set[Path]  # equations in which the example may leave positions out
  choices: dict[Path, tuple[int, ...]]  # see `equations.chosen_from`


def counted(
  problem: Problem, params: PyTree, batch: rows.Batch
) -> dict[str, jax.Array]:
  """1 for the positions that count, else 0, of each layer: [*stack, B, S].

  Rows of padding have none. A routed layer has those that were sent to it.
  """
  example = rows.take(batch.examples, 0)
  plan = layers_lib.plan(problem.outputs, params, example, problem.as_leaf)
  read, mask = _search(plan, params), jnp.asarray(batch.mask)
  found = {}
  some = read.masks or _loss_masks(problem, params, example)
  if some or any(layer.routed for layer in plan.layers.values()):
    found = taps.of_rows(
      _alive,
      problem,
      problem.loss,
      params,
      batch,
      changed=lambda plan: _smooth(plan, read.choices),
    )
  for name, layer in plan.layers.items():
    if layer.positions == 1 and not layer.routed or name not in found:
      shape = (*layer.stack, len(mask), layer.positions)
      found[name] = jnp.broadcast_to(mask[:, None] != 0, shape)
  return {name: found[name].astype(mask.dtype) for name in plan.layers}


def _alive(layer, a, g, _):
  """Where neither a nor δ is zero, [B, S]; a statistic of `taps.collect`."""
  inside = a < layer.num_in if layer.kind == 'embed' else (a != 0).any(-1)
  return inside & (g != 0).any(-1)


def _smooth(plan: Plan, choices) -> Plan:
  """The plan with choices by the model's values replaced."""
  around = {path[:i] for path in choices for i in range(1, len(path))}
  return plan._replace(smooth=choices, entered=plan.entered | around)


def _search(plan, params):
  jaxpr, count = plan.jaxpr.jaxpr, len(jax.tree.leaves(params))
  given = [_On(params=True)] * count
  given += [_On(example=True)] * (len(jaxpr.invars) - count)
  read = _Read(set(), {})
  _follow(jaxpr, given, (), read, equations.MASKS)
  return read


def _loss_masks(problem, params, example):
  """Whether the loss may leave out positions of the outputs."""
  outputs = jax.eval_shape(problem.outputs, params, example)
  if all(x.size in x.shape for x in jax.tree.leaves(outputs)):
    return False  # one position
  jaxpr = jax.make_jaxpr(problem.loss)(outputs, example).jaxpr
  count = len(jax.tree.leaves(outputs))
  given = [_On(True, True)] * count
  given += [_On(example=True)] * (len(jaxpr.invars) - count)
  read = _Read(set(), {})
  _follow(jaxpr, given, (), read, equations.FACTORS)
  return bool(read.masks)


def _follow(jaxpr, given, path, read, masks):
  """What the outputs of a jaxpr depend on; fills in `read`."""
  known = dict(zip(jaxpr.invars, given, strict=True))

  def of(v):
    return _On() if isinstance(v, jex.Literal) else known.get(v, _On())

  for i, e in enumerate(jaxpr.eqns):
    here, ins = (*path, i), [of(v) for v in e.invars]
    both = _On(any(v.params for v in ins), any(v.example for v in ins))
    outs = [both] * len(e.outvars)
    alone = any(v.example and not v.params for v in ins)
    if equations.name(e) in masks and alone and _On(True, True) in ins:
      read.masks.add(here)
    chosen = equations.chosen_from(e, [v.params for v in ins])
    if chosen:
      read.choices[here] = chosen
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
