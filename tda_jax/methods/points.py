"""The points of a fine-tuning at which influence is taken: checkpoints and base."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax.methods.method import check_base, check_snapshots
from tda_jax.problem import Problem, bound
from tda_jax.run import Run
from tda_jax.trees import PyTree


class Points(NamedTuple):
  """Parameters at which influence is taken, and its weights.

  Attributes:
    params: leaves [P, ...].
    held: what they hold beside the parameters that rows are scored by, leaves
      [P, ...]; None: nothing.
    weights: [P].
  """

  params: PyTree
  held: PyTree
  weights: jax.Array


def points(
  run: Run, beta: float | jax.Array, denoise: bool, name: str
) -> list[Points]:
  """Where influence is taken: the checkpoints, or the final model, and the base.

  In one group, or in two where one holds something and the other does not.

  Args:
    run: in the parameters that rows are scored by (`method.attributed`).
    beta: minus the weight of the base; 0: it is left out.
    denoise: whether all checkpoints are taken; False: the final parameters.
    name: of the method, for errors.

  Raises:
    ValueError: the run has no checkpoints, or no base.
  """
  if denoise:
    count = check_snapshots(run, name)
    mean = jnp.full(count, 1 / count)
    groups = [Points(run.checkpoints, run.frozen, mean)]
  else:
    one = jax.tree.map(lambda x: jnp.asarray(x)[None], run.params)
    groups = [Points(one, None, jnp.ones(1))]
  if isinstance(beta, (int, float)) and beta == 0:
    return groups
  check_base(run, name, beta)
  params, held = jax.tree.map(lambda x: jnp.asarray(x)[None], run.base)
  weight = -jnp.asarray(beta, jnp.float32)[None]
  groups.append(Points(params, held, weight))
  if len({jax.tree.structure(group) for group in groups}) == 1:
    join = lambda *x: jnp.concatenate([*map(jnp.asarray, x)])
    return [jax.tree.map(join, *groups)]
  return groups


def mapped(
  function: Callable,
  problem: Problem,
  run: Run,
  group: Points,
  rows: PyTree,
  of_point: PyTree,
) -> PyTree:
  """`function(problem, run, rows, of_point)` at each point, one at a time, [P, ...]."""

  def at(point):
    params, held, of_point = point
    part, one = bound(problem, held), run._replace(params=params)
    return function(part, one, rows, of_point)

  return jax.lax.map(at, (group.params, group.held, of_point))
