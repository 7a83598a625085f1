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

from typing import Any

import jax
import jax.numpy as jnp

from tda_jax.curvature import dependence, equations, taps
from tda_jax.curvature import layers as layers_lib
from tda_jax.data import rows
from tda_jax.problem import Problem

PyTree = Any


def counted(
  problem: Problem, params: PyTree, batch: rows.Batch
) -> dict[str, jax.Array]:
  """1 for the positions that count, else 0, of each layer: [*stack, B, S].

  Rows of padding have none. A routed layer has those that were sent to it.
  """
  example = rows.take(batch.examples, 0)
  plan = layers_lib.plan(problem.outputs, params, example, problem.as_leaf)
  read, mask = dependence.of_model(plan, params), jnp.asarray(batch.mask)
  found = {}
  some = read.masks or _loss_masks(problem, params, example)
  if some or any(layer.routed for layer in plan.layers.values()):
    found = taps.of_rows(
      _alive,
      problem,
      problem.loss,
      params,
      batch,
      changed=lambda plan: layers_lib.replacing(plan, read.choices),
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


def _loss_masks(problem, params, example):
  """Whether the loss may leave out positions of the outputs."""
  outputs = jax.eval_shape(problem.outputs, params, example)
  if all(x.size in x.shape for x in jax.tree.leaves(outputs)):
    return False  # one position
  jaxpr = jax.make_jaxpr(problem.loss)(outputs, example).jaxpr
  count = len(jax.tree.leaves(outputs))
  given = [dependence.On(True, True)] * count
  given += [dependence.On(example=True)] * (len(jaxpr.invars) - count)
  return bool(dependence.search(jaxpr, given, equations.FACTORS).masks)
