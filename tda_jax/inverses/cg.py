"""Preconditioned conjugate gradients, all queries at once.

Hestenes & Stiefel 1952, https://doi.org/10.6028/jres.049.044.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.descent import system_damping
from tda_jax.inverses.inverse import Damping, Inverse, Solution
from tda_jax.settings import kept
from tda_jax.trees import PyTree


class State(NamedTuple):
  """Where the recursion stands, for Q queries; vectors are stacks [Q, ...]."""

  solution: PyTree  # x
  residual: PyTree  # r = v − (A + damping)x, up to rounding
  preconditioned: PyTree  # z = P⁻¹ r
  direction: PyTree  # p, along which the next step goes
  rz: jax.Array  # [Q] inner products r·z
  negative: jax.Array  # [Q] whether negative curvature was met
  step: int | jax.Array  # number of steps done
  trace: jax.Array  # [max_steps, Q] relative residual after each step


@kept
def cg(
  damping: Damping,
  *,
  precondition: Inverse | None = None,
  tolerance: float = 1e-3,
  max_steps: int = 100,
  batch_size: int = 256,
  curvature: str = 'ggn',
) -> Inverse:
  """(A + damping)⁻¹ v by conjugate gradients over all rows.

  CG needs a positive definite system. The damped GGN is one. With the Hessian, a
  query that meets a direction of negative curvature stops there and counts as
  diverged.

  Args:
    damping: a number, or 'heuristic' (needs a Kronecker preconditioner).
    precondition: KFAC, EKFAC or a diagonal; None: plain CG.
    tolerance: a query is frozen once its relative residual is below it.
    max_steps: a query that takes more is returned with converged False.
    curvature: 'ggn' or 'hessian'.
  """
  coordinates_lib.check_curvature(curvature)
  indefinite = curvature == 'hessian'

  def fit(problem, params, train, key):
    inverse_lib.check_damping(damping, problem.l2)
    if precondition is None:
      return None
    return precondition.fit(problem, params, train, key)

  def solve(state, problem, params, train, vectors, key):
    del key
    shift = system_damping(damping, state)
    queries = trees.count(vectors)
    space = coordinates_lib.coordinates(
      coordinates_lib.preconditioner(precondition, state, problem),
      problem,
      params,
      train,
      curvature,
      queries=queries,
      batch_size=batch_size,
    )
    product = inverse_lib.batch_product(space, train, queries, batch_size)
    system = inverse_lib.damped(space, product, train, batch_size, shift)
    solution = solved(
      system,
      space.precondition,
      space.to_coordinates(vectors),
      shift,
      tolerance=tolerance,
      max_steps=max_steps,
      indefinite=indefinite,
    )
    return solution._replace(x=space.from_coordinates(solution.x))

  made = inverse_lib.inverse(fit, solve)
  return made._replace(fits_as=precondition)


def solved(
  system: Callable[[PyTree], PyTree],
  precondition: Callable[[PyTree], PyTree],
  vectors: PyTree,
  shift: float | jax.Array,
  *,
  tolerance: float,
  max_steps: int,
  indefinite: bool = False,
) -> Solution:
  """The Solution by conjugate gradients, whose last residual is the true one.

  Args:
    system, precondition, indefinite: see `_iterate`.
    shift: the damping that is in the system.
    tolerance, max_steps: see `cg`.
  """
  end = _iterate(
    system,
    precondition,
    vectors,
    tolerance=tolerance,
    max_steps=max_steps,
    indefinite=indefinite,
  )
  # The recursion's residual drifts from the true one in float32.
  final = inverse_lib.relative_residual(system, end.solution, vectors)
  taken = jnp.arange(max_steps)[:, None] < end.step
  residuals = jnp.where(taken, end.trace, final)
  steps = jnp.minimum(jnp.arange(1, max_steps + 1), end.step)
  return Solution(
    end.solution,
    residuals=jnp.concatenate([residuals, final[None]]),
    steps=jnp.append(steps, end.step),
    converged=final <= 2 * tolerance,
    diverged=~jnp.isfinite(final) | (final > 10) | end.negative,
    damping=jnp.asarray(shift, jnp.float32),
  )


def _iterate(
  system: Callable[[PyTree], PyTree],
  precondition: Callable[[PyTree], PyTree],
  vectors: PyTree,
  *,
  tolerance: float,
  max_steps: int,
  indefinite: bool,
) -> State:
  """Conjugate gradients from x = 0 until every query is done.

  Args:
    system: x -> (A + damping)x.
    precondition: r -> P⁻¹ r.
    indefinite: whether negative curvature is possible. Where it is not, a
      direction without positive curvature can only be rounding and is ignored.
  """
  norms = trees.norms(vectors)
  limit = tolerance * norms

  def active(state):
    return (trees.norms(state.residual) > limit) & ~state.negative

  def advance(state):
    running = active(state)
    ap = system(state.direction)
    curved = trees.dots(state.direction, ap)  # p·(A + damping)p
    negative = state.negative | running & (curved < 0) & indefinite
    # A query whose search direction vanished is done; 0/0 must not spread.
    go = running & (curved > 0)
    alpha = jnp.where(go, state.rz / jnp.where(go, curved, 1.0), 0.0)
    x = trees.add(state.solution, state.direction, alpha)
    r = trees.add(state.residual, ap, -alpha)
    z = precondition(r)
    rz = trees.dots(r, z)
    beta = jnp.where(go, rz / jnp.where(state.rz == 0, 1.0, state.rz), 0.0)
    p = trees.add(z, state.direction, beta)
    relative = trees.norms(r) / jnp.maximum(norms, 1e-38)
    trace = state.trace.at[state.step].set(relative)
    rz = jnp.where(go, rz, state.rz)
    return State(x, r, z, p, rz, negative, state.step + 1, trace)

  def unfinished(state):
    running = active(state)
    return (state.step < max_steps) & jnp.any(running)

  z = precondition(vectors)
  zero = jax.tree.map(jnp.zeros_like, vectors)
  trace = jnp.full((max_steps, len(norms)), jnp.nan)
  negative = jnp.zeros(len(norms), bool)
  start = State(
    solution=zero,
    residual=vectors,
    preconditioned=z,
    direction=z,
    rz=trees.dots(vectors, z),
    negative=negative,
    step=0,
    trace=trace,
  )
  return jax.lax.while_loop(unfinished, advance, start)
