"""The curvature as an explicit P x P matrix, for small models."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from tda_jax import memory, trees
from tda_jax.curvature import products
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Damping, Inverse
from tda_jax.problem import Problem
from tda_jax.settings import kept
from tda_jax.trees import PyTree


@kept
def dense(
  damping: Damping,
  *,
  curvature: str = 'ggn',
  batch_size: int = 256,
  columns: int = 64,
  memory_limit: float = 8e9,
) -> Inverse:
  """(A + damping)⁻¹ v by Cholesky of the matrix, one step of refinement.

  If the damping does not make a Hessian positive definite, the factor is NaN and
  every query counts as diverged.

  Args:
    damping: a number above minus the smallest eigenvalue of A; of the GGN also
      'heuristic': 0.1 · trace / number of parameters.
    curvature: 'ggn' or 'hessian'.
    columns: products with unit vectors at once.
    memory_limit: bytes that the matrix and its factor may take; they must be
      free too.

  Raises:
    ValueError: they would take more; the sentence says how much.
  """
  coordinates_lib.check_curvature(curvature)
  if damping == 'heuristic' and curvature == 'hessian':
    raise ValueError(
      "damping='heuristic' is a share of the mean eigenvalue, which may be"
      ' negative for the Hessian: give a number'
    )

  def fit(problem, params, train, key):
    del key
    inverse_lib.check_damping(damping, problem.l2)
    size = trees.size(params)
    need = 3 * 4 * size**2  # the matrix, its factor, a copy in the making
    what = f'the curvature of {size} parameters, with its factor,'
    memory.check(need, memory_limit, what, 'use exact, cg or astra')
    a = matrix(problem, params, train, curvature, batch_size, columns)
    shift = jnp.asarray(
      0.1 * (jnp.trace(a) / size - problem.l2)
      if damping == 'heuristic'
      else damping,
      a.dtype,
    )
    a = a + shift * jnp.eye(size, dtype=a.dtype)
    return a, jnp.linalg.cholesky(a), shift

  def solve(state, problem, params, train, vectors, key):
    del problem, train, key
    a, factor, shift = state
    _, unravel = ravel_pytree(params)
    v = jax.vmap(lambda one: ravel_pytree(one)[0])(vectors)
    once = lambda b: jax.scipy.linalg.cho_solve((factor, True), b.T).T
    solution = inverse_lib.refined_solution(once, lambda x: x @ a, v, shift)
    return solution._replace(x=jax.vmap(unravel)(solution.x))

  return inverse_lib.inverse(fit, solve)


def matrix(
  problem: Problem,
  params: PyTree,
  train: PyTree,
  curvature: str,
  batch_size: int,
  columns: int = 64,
) -> jax.Array:
  """The curvature A [P, P], symmetrised, in the order of `ravel_pytree`.

  Args:
    curvature: 'ggn' or 'hessian'.
    columns: products with unit vectors at once.
  """
  flat, unravel = ravel_pytree(params)
  make = lambda b: coordinates_lib.CURVATURES[curvature](problem, params, b)
  stack = rows_lib.stacked(train, batch_size)
  product = products.averaged(make, stack)
  indices = jnp.arange(flat.size)

  def column(i):
    unit = (indices == i).astype(flat.dtype)
    return ravel_pytree(product(unravel(unit)))[0]

  a = jax.lax.map(column, indices, batch_size=min(columns, flat.size))
  return (a + a.T) / 2
