"""Preconditioned conjugate gradients, all queries at once."""

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.descent import system_damping
from tda_jax.inverses.inverse import Inverse, Solution
from tda_jax.settings import kept


@kept
def cg(
  damping,
  *,
  precondition: Inverse | None = None,
  tolerance: float = 1e-3,
  max_steps: int = 100,
  batch_size: int = 256,
  curvature: str = 'ggn',
) -> Inverse:
  """(A + damping)⁻¹ v by CG on all rows (Hestenes & Stiefel 1952).

  CG needs a positive definite system. The damped GGN is one; of the Hessian, a
  query that meets a direction of negative curvature stops there and has
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
    inverse_lib.positive(damping, problem.l2)
    if precondition is None:
      return None
    return precondition.fit(problem, params, train, key)

  def solve(state, problem, params, train, vectors, key):
    del key
    shift = system_damping(damping, state)
    space = coordinates_lib.coordinates(
      state, problem, params, train, curvature
    )
    queries = trees.count(vectors)
    product = inverse_lib.linearised(space, train, queries, batch_size)
    system = inverse_lib.damped(product, train, batch_size, shift)
    vectors = space.enter(vectors)
    norms = trees.norms(vectors)
    limit = tolerance * norms

    def advance(carry):
      x, r, z, p, rz, negative, step, trace = carry
      active = (trees.norms(r) > limit) & ~negative
      ap = system(p)
      along = trees.dots(p, ap)
      # Of the GGN, a sign that is not positive is rounding, and passes.
      negative |= active & (along < 0) & indefinite
      # A query whose search direction vanished is done; 0/0 must not spread.
      go = active & (along > 0)
      alpha = jnp.where(go, rz / jnp.where(go, along, 1.0), 0.0)
      x = trees.add(x, p, alpha)
      r = trees.add(r, ap, -alpha)
      z = space.precondition(r)
      new = trees.dots(r, z)
      beta = jnp.where(go, new / jnp.where(rz == 0, 1.0, rz), 0.0)
      p = trees.add(z, p, beta)
      trace = trace.at[step].set(trees.norms(r) / jnp.maximum(norms, 1e-38))
      rz = jnp.where(go, new, rz)
      return x, r, z, p, rz, negative, step + 1, trace

    def unfinished(carry):
      _, r, *_, negative, step, _ = carry
      active = (trees.norms(r) > limit) & ~negative
      return (step < max_steps) & jnp.any(active)

    z = space.precondition(vectors)
    zero = jax.tree.map(jnp.zeros_like, vectors)
    trace = jnp.full((max_steps, len(norms)), jnp.nan)
    none = jnp.zeros(len(norms), bool)
    start = (zero, vectors, z, z, trees.dots(vectors, z), none, 0, trace)
    x, *_, negative, step, trace = jax.lax.while_loop(
      unfinished, advance, start
    )
    # The recursion's residual drifts from the true one in float32.
    final = inverse_lib.relative_residual(system, x, vectors)
    done = jnp.where(jnp.arange(max_steps)[:, None] < step, trace, final)
    steps = jnp.minimum(jnp.arange(1, max_steps + 1), step)
    return Solution(
      space.leave(x),
      residuals=jnp.concatenate([done, final[None]]),
      steps=jnp.append(steps, step),
      converged=final <= 2 * tolerance,
      diverged=~jnp.isfinite(final) | (final > 10) | negative,
      damping=jnp.asarray(shift, jnp.float32),
    )

  return inverse_lib.inverse(fit, solve)
