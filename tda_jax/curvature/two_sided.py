"""Projection of each layer's gradient on both of its sides.

The gradient Σ_s a_s δ_sᵀ of a layer is only used between two matrices, U [I, r]
and V [O, r'],

  γ = Σ_s (Uᵀ a_s)(Vᵀ δ_s)ᵀ   [r, r'],

so that the I x O gradient is never formed. With weights w [I, O] it is
Uᵀ (w ∘ Σ_s a_s δ_sᵀ) V, which forms it, of one layer and one batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import compiler
from tda_jax.curvature import ekfac, projections
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib
from tda_jax.layers import taps
from tda_jax.layers.find import Layer
from tda_jax.problem import Problem
from tda_jax.trees import PyTree


class Sides(NamedTuple):
  """What a layer's gradient is projected by; a matrix None is the identity."""

  inputs: jax.Array | None  # U [*stack, I, r]
  outputs: jax.Array | None  # V [*stack, O, r']
  weights: jax.Array | None = None  # w [*stack, I, O]; None: ones


def check_rank(rank: tuple[int, int]) -> None:
  """Raises ValueError unless the rank is two whole numbers from 1."""
  pair = isinstance(rank, (tuple, list)) and len(rank) == 2
  if not pair or not all(isinstance(r, int) and r >= 1 for r in rank):
    raise ValueError(
      f'rank={rank}: give two whole numbers of at least 1, for example (16, 16)'
    )


def layers_of(
  problem: Problem, params: PyTree, train: PyTree
) -> dict[str, Layer]:
  """The layers of a model.

  Raises:
    ValueError: one parameter belongs to two layers.
  """
  example = rows_lib.take(train, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  projections.check_apart(layers, params)
  return layers


def random(
  layers: dict[str, Layer], key: jax.Array, rank: tuple[int, int]
) -> dict[str, Sides]:
  """Orthonormal bases of random subspaces.

  Args:
    rank: (r, r'); a side that is no larger is taken whole.
  """
  sides = {}
  orthonormal = compiler.one_by_one(lambda x: jnp.linalg.qr(x)[0])
  for i, (name, layer) in enumerate(layers.items()):
    sizes = zip((layer.num_in, layer.num_out), rank, strict=True)
    keys = jax.random.split(jax.random.fold_in(key, i))
    bases = [
      orthonormal(jax.random.normal(k, (*layer.stack, size, r)))
      if r < size
      else None
      for k, (size, r) in zip(keys, sizes, strict=True)
    ]
    sides[name] = Sides(*bases)
  return sides


def gradients(
  problem: Problem,
  scalar: Callable[[PyTree, PyTree], jax.Array],
  params: PyTree,
  batch: rows_lib.Batch,
  sides: dict[str, Sides],
) -> dict[str, jax.Array]:
  """γ of a function's gradient at each row, {layer: [*stack, B, r·r']}.

  Args:
    scalar: (outputs, example) -> number, as `problem.loss` or `problem.measure`.
  """
  return taps.collect_rows(projected, problem, scalar, params, batch, sides)


def autocorrelation(gradients: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Σ γ γᵀ over rows, [*stack, r·r', r·r'], of γ [*stack, B, r·r']."""
  outer = lambda x: jnp.einsum('...bi,...bj->...ij', x, x)
  return {name: outer(x) for name, x in gradients.items()}


def fisher(
  problem: Problem,
  params: PyTree,
  stack: rows_lib.Batch,
  key: jax.Array,
  labels: str,
  sides: dict[str, Sides],
) -> dict[str, jax.Array]:
  """Σ γ γᵀ of the loss over a stack of batches, [*stack, r·r', r·r'].

  Args:
    labels: 'sampled' from the model, or 'data', those of the rows.
  """
  loss = ekfac.LOSSES[labels](problem)

  def of_batch(batch):
    return autocorrelation(
      taps.collect_keyed_rows(
        projected, problem, loss, params, batch, key, sides
      )
    )

  return rows_lib.total(of_batch, stack)


def projected(
  layer: Layer, a: jax.Array, g: jax.Array, sides: Sides
) -> jax.Array:
  """γ, [B, r·r']; a statistic of `taps.collect`, linear in each application."""
  u, v, w = sides
  if layer.kind == 'embed':
    if w is not None:
      g = g * w.at[a].get(mode='fill', fill_value=0)
    u = jnp.eye(layer.num_in, dtype=g.dtype) if u is None else u
    a = u.at[a].get(mode='fill', fill_value=0)
  elif w is not None:
    return _between(u, w * jnp.einsum('bsi,bso->bio', a, g), v)
  elif u is not None:
    a = a @ u
  g = g if v is None else g @ v
  return jnp.einsum('bsi,bso->bio', a, g).reshape(len(g), -1)


def lifted(layer: Layer, x: jax.Array, sides: Sides) -> jax.Array:
  """U X Vᵀ [*stack, Q, I, O] of X [*stack, Q, r·r']: γ · x = ⟨∇W, U X Vᵀ⟩."""
  u, v, w = sides
  rank = layer.num_in if u is None else u.shape[-1]
  x = x.reshape(*x.shape[:-1], rank, -1)
  x = x if u is None else jnp.einsum('...ir,...qrp->...qip', u, x)
  x = x if v is None else jnp.einsum('...op,...qip->...qio', v, x)
  return x if w is None else w[..., None, :, :] * x


def _between(u, full, v):
  """Uᵀ M V of a batch of matrices, flat."""
  full = full if v is None else full @ v
  full = full if u is None else jnp.einsum('ir,bio->bro', u, full)
  return full.reshape(len(full), -1)
