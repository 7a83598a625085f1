"""The coordinates in which an iterative solver works.

Without a preconditioner: parameters, and products by `curvature.products`. With
one: the eigenbasis of its Kronecker blocks, X = Q_Aᵀ V Q_S per layer. There P⁻¹
is a division, and the GGN needs no rotation of the Q vectors either, because
the inputs and output gradients of a batch can be rotated instead:

  (Gx)_q = (1/B) Σ_{b,k} u_qbk · (a_b Q_A)ᵀ(δ_bk Q_S),
  u_qbk  = Σ_layers (a_b Q_A) X_q (δ_bk Q_S)ᵀ,

δ_bk the rows of Sᵀ∂outputs/∂y (`curvature.gram`), taken once for all queries.
The Hessian has no such rows: its products leave the coordinates and come back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.curvature import gram, products
from tda_jax.curvature import layers as layers_lib
from tda_jax.data import rows as rows_lib
from tda_jax.problem import Problem

PyTree = Any

CURVATURES = {'ggn': products.ggn, 'hessian': products.hessian}


class Fitted(NamedTuple):
  """State of a Kronecker inverse."""

  blocks: dict[str, blocks_lib.Block]
  damping: dict[str, jax.Array]  # of each layer


class Coordinates(NamedTuple):
  """Attributes, all on stacks of Q vectors:
  enter: parameter trees -> coordinates.
  leave: coordinates -> parameter trees.
  product: batch -> (x -> Ax), A the mean curvature of the batch's rows plus l2.
  precondition: r -> P⁻¹ r.
  """

  enter: Callable
  leave: Callable
  product: Callable
  precondition: Callable


def check_curvature(curvature: str) -> None:
  """Raises ValueError unless it is one of CURVATURES."""
  if curvature not in CURVATURES:
    raise ValueError(
      f'curvature={curvature!r} is unknown: use one of {[*CURVATURES]}'
    )


def coordinates(
  fitted: Fitted | None,
  problem: Problem,
  params: PyTree,
  train: PyTree,
  curvature: str = 'ggn',
) -> Coordinates:
  """Those of a fitted preconditioner, or of the parameters if None.

  Args:
    curvature: 'ggn' or 'hessian'.
  """

  def plain(batch):
    return jax.vmap(CURVATURES[curvature](problem, params, batch))

  if fitted is None:
    return Coordinates(lambda v: v, lambda x: x, plain, lambda r: r)
  example = rows_lib.take(train, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  blocks = fitted.blocks

  def enter(vectors):
    return jax.vmap(lambda v: blocks_lib.rotated(blocks, layers, v))(vectors)

  def leave(x):
    back = lambda one: blocks_lib.unrotated(blocks, layers, one, params)
    return jax.vmap(back)(x)

  def precondition(r):
    return {
      name: r[name] / (block.eigenvalues + problem.l2 + fitted.damping[name])
      for name, block in blocks.items()
    }

  def product(batch):
    if curvature == 'ggn':
      return _rotated_ggn(problem, params, batch, layers, blocks)
    inside = plain(batch)
    return lambda x: enter(inside(leave(x)))

  return Coordinates(enter, leave, product, precondition)


def _rotated_ggn(problem, params, batch, layers, blocks):
  factors = gram.factors(problem, params, batch, 'curvature')
  rotated = {
    name: gram.Factor(
      f.a if blocks[name].inputs is None else _times(f.a, blocks[name].inputs),
      f.g
      if blocks[name].outputs is None
      else _times(f.g, blocks[name].outputs),
    )
    for name, f in factors.items()
  }
  count = batch.mask.sum()

  def one(x):
    u = sum(_along(layers[n], f, x[n]) for n, f in rotated.items()) / count
    back = {n: _back(layers[n], f, u) for n, f in rotated.items()}
    return jax.tree.map(lambda g, x: g + problem.l2 * x, back, x)

  rows = batch.mask.shape[0] * sum(b.eigenvalues.size for b in blocks.values())
  together = max(1, gram.AT_ONCE // rows)
  return lambda x: jax.lax.map(one, x, batch_size=together)


def _times(values, basis):
  """[..., *stack, B, S, I] @ [*stack, I, J]."""
  return jnp.einsum('...bsi,...ij->...bsj', values, basis)


def _along(layer, factor, x):
  """u_bk of one layer and query, [B, K]; x [*stack, I, O]."""
  if layer.kind == 'embed':
    y = x.at[factor.a].get(mode='fill', fill_value=0)
    return jnp.einsum('bso,kbso->bk', y, factor.g)
  a, g = _one_stack(layer, factor)
  x = x.reshape(-1, *x.shape[-2:])
  y = jnp.einsum('hbsi,hio->hbso', a, x)
  return jnp.einsum('hbso,khbso->bk', y, g)


def _back(layer, factor, u):
  """Σ_bk u_bk a_bᵀ δ_bk of one layer and query, [*stack, I, O]."""
  if layer.kind == 'embed':
    y = jnp.einsum('bk,kbso->bso', u, factor.g)
    zero = jnp.zeros((layer.num_in, layer.num_out), y.dtype)
    return zero.at[factor.a].add(y, mode='drop')
  a, g = _one_stack(layer, factor)
  y = jnp.einsum('bk,khbso->hbso', u, g)
  x = jnp.einsum('hbsi,hbso->hio', a, y)
  return x.reshape(*layer.stack, layer.num_in, layer.num_out)


def _one_stack(layer, factor):
  """The factor with its stack axes made one axis H."""
  depth = len(layer.stack)
  a = factor.a.reshape(-1, *factor.a.shape[depth:])
  g = factor.g.reshape(len(factor.g), -1, *factor.g.shape[1 + depth :])
  return a, g
