"""Which positions of a layer count: all but padding.

A row's loss may leave positions out, and so may the model: a mask of the
example multiplies them, or chooses something else. Such a position has a
gradient of zero, whatever the parameters are, and adds nothing to Σ_s a_s δ_sᵀ.
But averages of its a alone would depend on how much padding there is. So it is
dropped from a and δ alike, and T is the number of the others.

Padding is read off the problem's loss and outputs; the user does not state it
again. That takes two steps. The jaxprs are searched for a value of the example
alone that meets a value of the model: if there is none, all positions count, and
nothing more is computed. Otherwise one backward pass shows where a or δ is zero.
In it every choice by the model's values (relu, max pooling) is replaced by
something smooth: a unit that is off, or a pixel that is not the largest, has a
zero too, but is no padding. Nor is the first position of a causal model, which
attends to itself alone: its query has a gradient of zero, or of what rounding
leaves, but its key and value, which read the same array, have not. So a position
counts for all layers that read one array if it counts for one of them.
"""

import jax
import jax.numpy as jnp

from tda_jax.data import rows
from tda_jax.layers import dependence, equations, taps
from tda_jax.layers import find as layers_lib
from tda_jax.problem import Problem
from tda_jax.trees import PyTree


def counted(
  problem: Problem, params: PyTree, batch: rows.Batch
) -> dict[str, jax.Array]:
  """1 for the positions of each layer that count, else 0: [*stack, B, S].

  Padding rows have none. For a routed layer those count that were sent to it.
  """
  example = rows.take(batch.examples, 0)
  plan = layers_lib.plan(problem.outputs, params, example, problem.as_leaf)
  read, mask = dependence.of_model(plan, params), jnp.asarray(batch.mask)
  counts = {}
  some = read.masks or _loss_masks(problem, params, example)
  if some or any(layer.routed for layer in plan.layers.values()):
    counts = taps.collect_rows(
      _alive,
      problem,
      problem.loss,
      params,
      batch,
      changed=lambda plan: layers_lib.replacing(plan, read.choices),
    )
    counts = {**counts, **_together(plan, counts)}
  for name, layer in plan.layers.items():
    if layer.positions == 1 and not layer.routed or name not in counts:
      shape = (*layer.stack, len(mask), layer.positions)
      counts[name] = jnp.broadcast_to(mask[:, None] != 0, shape)
  return {name: counts[name].astype(mask.dtype) for name in plan.layers}


def _together(plan, counts):
  """The counts of layers that read one array: of each position, whether any has it."""
  found = {}
  for names in layers_lib.readers(plan):
    alike = {counts[name].shape for name in names if name in counts}
    if len(names) > 1 and len(alike) == 1 and names <= {*counts}:
      some = sum(counts[name] != 0 for name in names) != 0
      found |= dict.fromkeys(names, some)
  return found


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
