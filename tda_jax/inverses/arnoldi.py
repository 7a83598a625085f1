"""Arnoldi: the inverse on the leading eigenvectors of a Krylov space.

Schioppa et al. 2022, https://arxiv.org/abs/2112.03052.
"""

from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from tda_jax import trees
from tda_jax.curvature import ekfac
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse
from tda_jax.settings import kept

# Lengths and eigenvalues below this share of the largest are rounding.
ROUNDING = 1e-6


@kept
def arnoldi(
  damping: float = 0.0,
  *,
  rank: int = 50,
  steps: int = 200,
  batch_size: int = 256,
  curvature: str = 'ggn',
) -> Inverse:
  """Σ_j ⟨v, e_j⟩ e_j / (λ_j + damping), over the `rank` Ritz values of largest |λ|.

  (λ_j, e_j) are the Ritz pairs of A in the Krylov space of a random start; every
  product uses all rows. Directions outside are dropped, not damped: x has no
  component of low curvature and does not solve the system (`with_residual`
  measures how far it is from that). The paper has no damping.

  A space that closes early (fewer directions in the data than steps) ends the
  recursion; the pairs it has are exact then, the rest are left out.

  Args:
    rank: eigenvectors kept.
    steps: products with A; dimensions of the Krylov space.
    curvature: 'ggn' or 'hessian', whose negative eigenvalues are kept too.

  Raises:
    ValueError: a negative damping; more eigenvectors than steps.
  """
  coordinates_lib.check_curvature(curvature)
  traced = isinstance(damping, jax.core.Tracer)
  if not traced and (isinstance(damping, str) or not damping >= 0):
    raise ValueError(
      f'damping={damping!r} of arnoldi: give a number, 0 or above'
    )
  if not isinstance(rank, int) or not 0 < rank <= steps:
    raise ValueError(f'rank={rank} of {steps} steps: give 1 to {steps}')

  def fit(problem, params, train, key):
    space = coordinates_lib.coordinates(None, problem, params, train, curvature)
    system = inverse_lib.damped(space, space.product, train, batch_size, 0.0)
    start, unravel = ravel_pytree(params)
    one = lambda v: jax.tree.map(lambda leaf: leaf[None], unravel(v))
    product = lambda v: ravel_pytree(trees.row(system(one(v)), 0))[0]
    start = jax.random.normal(key, start.shape, start.dtype)
    basis, projected = krylov(product, start, min(steps, start.size))
    values, vectors = ekfac.eigh(projected)
    top = jnp.argsort(-jnp.abs(values))[:rank]
    return values[top], vectors[:, top].T @ basis

  def solve(state, problem, params, train, vectors, key):
    del problem, train, key
    values, e = state
    _, unravel = ravel_pytree(params)
    v = jax.vmap(lambda one: ravel_pytree(one)[0])(vectors)
    kept = jnp.abs(values) > ROUNDING * jnp.abs(values[0])
    scale = jnp.where(kept, 1 / jnp.where(kept, values + damping, 1.0), 0.0)
    # NaN in A must not pass as "nothing is kept".
    scale = jnp.where(jnp.isnan(values[0]), jnp.nan, scale)
    return inverse_lib.closed_form(
      jax.vmap(unravel)((v @ e.T * scale) @ e), damping
    )

  return inverse_lib.inverse(fit, solve)


def krylov(
  product: Callable[[jax.Array], jax.Array], start: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
  """An orthonormal basis Q of span{b, Ab, …}, and QAQᵀ, for a symmetric A.

  In Arnoldi's recursion every vector is made orthogonal to all before it, twice.
  Rows after a breakdown are 0.

  Args:
    product: x -> Ax, vectors [P].
    start: b [P].
    steps: dimensions of the space, at most P.

  Returns:
    (Q [steps, P], QAQᵀ [steps, steps]).
  """

  def step(carry, j):
    basis, largest = carry
    w = product(basis[j])
    overlaps = basis @ w  # q_i·Aq_j
    largest = jnp.maximum(largest, jnp.linalg.norm(w))
    w = w - overlaps @ basis
    w = w - (basis @ w) @ basis
    length = jnp.linalg.norm(w)
    closed = length <= ROUNDING * largest
    following = jnp.where(closed, 0.0, w / jnp.where(closed, 1.0, length))
    # Past the last row, nothing is written.
    return (basis.at[j + 1].set(following, mode='drop'), largest), overlaps

  basis = jnp.zeros((steps, start.size), start.dtype)
  basis = basis.at[0].set(start / jnp.linalg.norm(start))
  carry = (basis, jnp.zeros((), start.dtype))
  (basis, _), overlaps = jax.lax.scan(step, carry, jnp.arange(steps))
  # overlaps[j, i] = q_i·Aq_j, for the q_i known in step j: i ≤ j.
  lower = jnp.tril(overlaps)
  return basis, lower + jnp.tril(overlaps, -1).T
