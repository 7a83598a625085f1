"""Restricts a problem to the parameters that rows are scored by.

These are the parameters that fit `only` and do not fit `leave_out`. Methods get
the problem as a function of them alone; the others are constants inside it, as
if the user had closed over them. No method or inverse then has a layer,
gradient, curvature or damping of a constant.
"""

import fnmatch
import glob
from typing import Any

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.trees import PyTree


def restricted(problem: Any, params: PyTree) -> tuple[Any, PyTree]:
  """(problem in the parameters that rows are scored by, those parameters).

  All other parameters become constants: no layer, gradient or curvature has
  them, nor has ½·l2·‖θ‖². A parameter is scored by if it fits `only` (when that
  is given) and fits no pattern of `leave_out`.
  """
  if not problem.only and not problem.leave_out:
    return problem, params
  scored, constants = split(problem, params)
  return part(problem, scored, constants), scored


def split(problem: Any, params: PyTree) -> tuple[PyTree, PyTree]:
  """Splits params into (scored by, constants): trees like params, None elsewhere.

  Raises:
    ValueError: a pattern fits no parameter; nothing is left.
  """
  names = trees.names(params)
  scored_places = set(range(len(names)))
  if problem.only:
    scored_places = trees.fitting(names, problem.only, 'only')
  scored_places = scored_places - trees.fitting(
    names, problem.leave_out, 'leave_out'
  )
  if not scored_places:
    raise ValueError(
      f'only={problem.only} and leave_out={problem.leave_out} leave no parameter'
      f' to score rows by: keep one of {names}'
    )
  leaves, structure = jax.tree.flatten(params)
  scored = [x if i in scored_places else None for i, x in enumerate(leaves)]
  constants = [None if i in scored_places else x for i, x in enumerate(leaves)]
  return structure.unflatten(scored), structure.unflatten(constants)


def join(scored: PyTree, constants: PyTree) -> PyTree:
  """The inverse of `split`: one tree from both parts."""
  return jax.tree.map(
    lambda x, y: y if x is None else x,
    scored,
    constants,
    is_leaf=lambda x: x is None,
  )


def part(problem: Any, scored: PyTree, constants: PyTree) -> Any:
  """The problem as a function of `scored` alone, with `constants` inside it.

  Its outputs take other constants as a third argument, for example those of
  another checkpoint (`problem.bound`).
  """
  names = trees.names(join(scored, constants))
  trees.fitting(names, problem.as_leaf, 'as_leaf')
  scored_names = trees.names(scored)
  leaves = [
    glob.escape(name)
    for name in scored_names
    if any(fnmatch.fnmatch(name, pattern) for pattern in problem.as_leaf)
  ]

  def outputs(params, example, constants=constants):
    return problem.outputs(join(params, constants), example)

  return problem._replace(
    outputs=outputs, as_leaf=tuple(leaves), only=(), leave_out=()
  )


def precise(problem: Any, params: PyTree) -> Any:
  """The problem as a function of `trees.widened` parameters, with wide outputs.

  The model still computes with parameters of their given type, for example
  bfloat16; everything derived from its outputs, and every vector, has at least
  float32.
  """
  dtypes = jax.tree.map(lambda leaf: jnp.result_type(leaf), params)
  wide = jax.eval_shape(trees.widened, params)
  dtype = jnp.result_type(*jax.tree.leaves(wide))

  def outputs(params, example, *frozen):
    narrow = jax.tree.map(lambda leaf, kind: leaf.astype(kind), params, dtypes)
    return problem.outputs(narrow, example, *frozen).astype(dtype)

  return problem._replace(outputs=outputs)
