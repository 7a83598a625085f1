"""Preconditioned conjugate gradients, all queries at once."""

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.descent import system_damping
from tda_jax.inverses.inverse import Inverse, Solution


def cg(
  damping,
  *,
  precondition: Inverse | None = None,
  tolerance: float = 1e-3,
  max_steps: int = 100,
  batch_size: int = 256,
) -> Inverse:
  """(G + damping)⁻¹ v by CG on all rows (Hestenes & Stiefel 1952).

  Args:
    damping: a number, or 'heuristic' (needs a Kronecker preconditioner).
    precondition: KFAC, EKFAC or a diagonal; None: plain CG.
    tolerance: a query is frozen once its relative residual is below it.
    max_steps: a query that takes more is returned with converged False.
  """

  def fit(problem, params, train, key):
    inverse_lib.positive(damping, problem.l2)
    if precondition is None:
      return None
    return precondition.fit(problem, params, train, key)

  def solve(state, problem, params, train, vectors, key):
    del key
    shift = system_damping(damping, state)
    space = coordinates_lib.coordinates(state, problem, params, train)
    system = inverse_lib.damped_ggn(space, train, batch_size, shift)
    vectors = space.enter(vectors)
    norms = trees.norms(vectors)
    limit = tolerance * norms

    def advance(carry):
      x, r, z, p, rz, step, trace = carry
      active = trees.norms(r) > limit
      ap = system(p)
      curvature = trees.dots(p, ap)
      # A query whose search direction vanished is done; 0/0 must not spread.
      go = active & (curvature > 0)
      alpha = jnp.where(go, rz / jnp.where(go, curvature, 1.0), 0.0)
      x = trees.add(x, p, alpha)
      r = trees.add(r, ap, -alpha)
      z = space.precondition(r)
      new = trees.dots(r, z)
      beta = jnp.where(go, new / jnp.where(rz == 0, 1.0, rz), 0.0)
      p = trees.add(z, p, beta)
      trace = trace.at[step].set(trees.norms(r) / jnp.maximum(norms, 1e-38))
      return x, r, z, p, jnp.where(go, new, rz), step + 1, trace

    def unfinished(carry):
      _, r, *_, step, _ = carry
      return (step < max_steps) & jnp.any(trees.norms(r) > limit)

    z = space.precondition(vectors)
    zero = jax.tree.map(jnp.zeros_like, vectors)
    trace = jnp.full((max_steps, len(norms)), jnp.nan)
    start = (zero, vectors, z, z, trees.dots(vectors, z), 0, trace)
    x, *_, step, trace = jax.lax.while_loop(unfinished, advance, start)
    # The recursion's residual drifts from the true one in float32.
    final = inverse_lib.relative_residual(system, x, vectors)
    done = jnp.where(jnp.arange(max_steps)[:, None] < step, trace, final)
    steps = jnp.minimum(jnp.arange(1, max_steps + 1), step)
    return Solution(
      space.leave(x),
      residuals=jnp.concatenate([done, final[None]]),
      steps=jnp.append(steps, step),
      converged=final <= 2 * tolerance,
      diverged=~jnp.isfinite(final) | (final > 10),
      damping=jnp.asarray(shift, jnp.float32),
    )

  return inverse_lib.inverse(fit, solve)
