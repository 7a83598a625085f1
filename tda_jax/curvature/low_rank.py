"""Query vectors as low-rank factors, layer by layer.

A gradient of a layer over few positions is nearly of low rank, and so is what a
Kronecker inverse makes of it: V ≈ A B with A [I, r], B [r, O]. An inner product
with a row then takes S·r·(I + O) multiplications instead of S·I·O, and a query as
many numbers instead of I·O. Grosse et al. 2023, §3.2.2,
https://arxiv.org/abs/2308.03296.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class LowRank(NamedTuple):
  """Matrices V ≈ A B of Q queries."""

  a: jax.Array  # [*stack, Q, I, r]
  b: jax.Array  # [*stack, Q, r, O]


def approximated(
  matrices: dict[str, jax.Array], rank: int
) -> tuple[dict[str, jax.Array | LowRank], jax.Array]:
  """The best approximation of each matrix by one of rank `rank`, and its error.

  A matrix that would take no less as two factors stays as it is.

  Args:
    matrices: {layer: V [*stack, Q, I, O]}.

  Returns:
    ({layer: LowRank or V}, ‖V − A B‖ / ‖V‖ of each query over all layers [Q]).
  """
  kept, lost, whole = {}, 0.0, 0.0
  for name, v in matrices.items():
    others = (*range(v.ndim - 3), -2, -1)
    whole += jnp.sum(v**2, others)
    rows, columns = v.shape[-2:]
    if rank * (rows + columns) >= rows * columns:
      kept[name] = v
      continue
    flat = v.reshape(-1, rows, columns)
    factors, error = jax.lax.map(lambda m: _factors(m, rank), flat)
    kept[name] = jax.tree.map(
      lambda x, v=v: x.reshape(*v.shape[:-2], *x.shape[1:]), factors
    )
    error = error.reshape(-1, v.shape[-3])
    lost += jnp.sum(error, 0)
  return kept, jnp.sqrt(lost / jnp.where(whole == 0, 1.0, whole))


def whole(v: jax.Array | LowRank) -> jax.Array:
  """V, or A B [*stack, Q, I, O]."""
  return v.a @ v.b if isinstance(v, LowRank) else v


def _factors(v, rank):
  """(the factors of one matrix [I, O], ‖V − A B‖²)."""
  if v.shape[0] > v.shape[1]:
    (a, b), lost = _factors(v.T, rank)
    return LowRank(b.T, a.T), lost
  _, vectors = jnp.linalg.eigh(v @ v.T)  # ascending
  a = vectors[:, -rank:]
  b = a.T @ v
  return LowRank(a, b), jnp.sum((v - a @ b) ** 2)
