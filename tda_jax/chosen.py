"""The parameters that rows are scored by: those of `only` without `leave_out`.

A method is given the problem in these alone. The others are constants inside
it, as if the user had closed over them: every method and inverse, of the
library or not, then has no layer, gradient, curvature or damping of them.
"""

import fnmatch
import glob
from typing import Any

import jax
import jax.numpy as jnp

from tda_jax import trees

PyTree = Any


def restricted(problem: Any, params: PyTree) -> tuple[Any, PyTree]:
  """(problem in the parameters that rows are scored by, those parameters).

  The others are constants to it, so that no layer, gradient or curvature has
  them, and ½·l2·‖θ‖² neither. Those that rows are scored by fit `only`, if it
  is given, and fit nothing of `leave_out`.
  """
  if not problem.only and not problem.leave_out:
    return problem, params
  kept, held = split(problem, params)
  return part(problem, kept, held), kept


def split(problem: Any, params: PyTree) -> tuple[PyTree, PyTree]:
  """(what rows are scored by, the others): trees like params, None elsewhere.

  Raises:
    ValueError: a pattern fits no parameter; nothing is left.
  """
  names = trees.names(params)
  own = set(range(len(names)))
  if problem.only:
    own = trees.fitting(names, problem.only, 'only')
  own = own - trees.fitting(names, problem.leave_out, 'leave_out')
  if not own:
    raise ValueError(
      f'only={problem.only} and leave_out={problem.leave_out} leave no parameter'
      f' to score rows by: keep one of {names}'
    )
  leaves, structure = jax.tree.flatten(params)
  kept = [x if i in own else None for i, x in enumerate(leaves)]
  held = [None if i in own else x for i, x in enumerate(leaves)]
  return structure.unflatten(kept), structure.unflatten(held)


def join(kept: PyTree, held: PyTree) -> PyTree:
  """The tree that `split` made two of."""
  return jax.tree.map(
    lambda x, y: y if x is None else x,
    kept,
    held,
    is_leaf=lambda x: x is None,
  )


def part(problem: Any, kept: PyTree, held: PyTree) -> Any:
  """The problem in the parameters `kept`, the others being constants.

  Its outputs take others in the place of `held` as a third argument, as those
  of another checkpoint (`bound`).
  """
  every = trees.names(join(kept, held))
  trees.fitting(every, problem.as_leaf, 'as_leaf')
  own = trees.names(kept)
  leaves = [
    glob.escape(name)
    for name in own
    if any(fnmatch.fnmatch(name, pattern) for pattern in problem.as_leaf)
  ]

  def outputs(params, example, held=held):
    return problem.outputs(join(params, held), example)

  return problem._replace(
    outputs=outputs, as_leaf=tuple(leaves), only=(), leave_out=()
  )


def precise(problem, params: PyTree):
  """The problem as a function of `trees.widened` parameters, outputs as wide.

  The model itself still computes with parameters of their own type, as bfloat16;
  what is derived from its outputs, and every vector, is float32 at least.
  """
  dtypes = jax.tree.map(lambda leaf: jnp.result_type(leaf), params)
  wide = jax.eval_shape(trees.widened, params)
  dtype = jnp.result_type(*jax.tree.leaves(wide))

  def outputs(params, example, *frozen):
    own = jax.tree.map(lambda leaf, kind: leaf.astype(kind), params, dtypes)
    return problem.outputs(own, example, *frozen).astype(dtype)

  return problem._replace(outputs=outputs)
