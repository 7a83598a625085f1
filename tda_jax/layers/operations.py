"""Operations of the products in a model, counted in its jaxpr.

An addition and a multiplication are two. What is no product of matrices counts
nothing, and the body of a loop whose length is not known counts once.
"""

import math
from typing import Any

import jax
from jax.extend import core as jex

from tda_jax.layers import equations, taps
from tda_jax.problem import Problem
from tda_jax.trees import PyTree


def of_jaxpr(jaxpr: Any) -> int:
  """Operations of all products of a jaxpr, scans as often as they run."""
  return sum(map(_of_equation, jaxpr.eqns))


def of_row(
  problem: Problem, params: PyTree, example: PyTree
) -> tuple[int, int]:
  """Operations of a row: (forward, forward and back to every layer's outputs).

  Gradients of the parameters are not among them, as no statistic of layers needs
  them (`taps`).

  Args:
    params, example: their leaves may be `jax.ShapeDtypeStruct`.
  """
  forward = lambda p, e: problem.loss(problem.outputs(p, e), e)
  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), example
  )
  both = lambda layer, a, g, aux: (a.sum(), g.sum())

  def through(params, examples):
    given = problem.outputs, problem.loss, params, examples
    return taps.collect(both, *given, as_leaf=problem.as_leaf)

  traced = (
    jax.make_jaxpr(forward)(params, example),
    jax.make_jaxpr(through)(params, one),
  )
  return of_jaxpr(traced[0]), of_jaxpr(traced[1])


def _of_equation(e: jex.JaxprEqn) -> int:
  kind = equations.name(e)
  if kind == 'dot_general':
    (contracted, _), _ = e.params['dimension_numbers']
    shape = equations.shape_of(e.invars[0])
    depth = math.prod(shape[axis] for axis in contracted)
    return 2 * depth * math.prod(equations.shape_of(e.outvars[0]))
  if kind == 'conv_general_dilated':
    kernel = equations.shape_of(e.invars[1])
    places = e.params['dimension_numbers'].rhs_spec
    window = math.prod(kernel[axis] for axis in places[1:])
    return 2 * window * math.prod(equations.shape_of(e.outvars[0]))
  bodies = equations.within(e)
  if kind == 'cond':
    return max(of_jaxpr(body) for body in bodies)
  times = e.params['length'] if kind == 'scan' else 1
  return times * sum(of_jaxpr(body) for body in bodies)
