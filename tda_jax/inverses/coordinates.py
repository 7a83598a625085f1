"""The coordinates in which an iterative solver works.

Without a preconditioner these are the parameters, with products by
`curvature.products`. With one they are the eigenbasis of its Kronecker blocks,
X = Q_Aᵀ V Q_S per layer. There P⁻¹ is a division, and the GGN needs no rotation
of the Q vectors either, because the inputs and output gradients of a batch can be
rotated instead:

  (Gx)_q = (1/B) Σ_{b,k} u_qbk · (a_b Q_A)ᵀ(δ_bk Q_S),
  u_qbk  = Σ_layers (a_b Q_A) X_q (δ_bk Q_S)ᵀ,

δ_bk the rows of Sᵀ∂outputs/∂y (`curvature.gram`). They are computed once for all
queries, and once for all steps of a solver where those of all data fit into
memory. But they are K a row, for K outputs: where these are many, as in language
models, the product goes through the parameters (rotate back, `products.ggn`,
rotate), whose cost does not grow with K beyond the model's own. `_rows_pay` counts
the multiplications of both. The Hessian has no such rows: it always goes through
the parameters.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.curvature import gram, products
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib
from tda_jax.problem import Problem, num_outputs
from tda_jax.trees import PyTree

# batch -> (x -> Ax), on stacks of Q vectors.
BatchProduct = Callable[[rows_lib.Batch], products.Product]

# Entries of all rows' factors that a solver may keep: 512 MB in float32.
KEPT = 2**27
# Products that a solver takes about, over which what is computed once is spread.
PRODUCTS = 20

CURVATURES = {'ggn': products.ggn, 'hessian': products.hessian}


class Fitted(NamedTuple):
  """The state of a Kronecker inverse, the same for any damping."""

  blocks: dict[str, blocks_lib.Block]


class Preconditioner(NamedTuple):
  """P, a Kronecker inverse: its eigenbasis, and P⁻¹ in it."""

  blocks: dict[str, blocks_lib.Block]
  factors: dict[str, jax.Array]  # layer -> what multiplies each eigendirection


def preconditioner(
  inverse: Any, state: Fitted | None, problem: Problem
) -> Preconditioner | None:
  """The preconditioner by an Inverse, whose state is given; None: by None.

  Raises:
    ValueError: it is no Kronecker inverse.
  """
  if inverse is None:
    return None
  if inverse.scale is None:
    raise ValueError(
      'precondition is an inverse without Kronecker factors: give kfac, ekfac or'
      ' diagonal'
    )
  assert state is not None  # of such an inverse
  return Preconditioner(state.blocks, inverse.scale(state, problem).factors)


class RowFactors(Protocol):
  """What the curvature needs of each row of a batch, for Q vectors."""

  def __call__(self, batch: rows_lib.Batch, queries: int) -> PyTree:
    """A tree of [B, ...]."""
    ...


class Coordinates(NamedTuple):
  """Coordinates of parameter trees, and the curvature in them.

  Attributes, all on stacks of Q vectors:
    to_coordinates: parameter trees -> coordinates.
    from_coordinates: coordinates -> parameter trees.
    row_factors: (batch, Q) -> what `product` needs of each row for Q vectors, a
      tree of [B, ...]; None: `product` needs nothing, and is in the parameters.
    product: (batch, row factors) -> (x -> Ax), where A is the mean curvature of
      the batch's rows plus l2; (batch) -> that, if `row_factors` is None.
    precondition: r -> P⁻¹ r.
    inside: a product, or a mean of products, as `product` makes them -> that of
      the coordinates: one rotation in and out, whatever the number of rows.
  """

  to_coordinates: products.Product
  from_coordinates: products.Product
  row_factors: RowFactors | None
  product: Callable[..., products.Product]
  precondition: products.Product
  inside: Callable[[products.Product], products.Product]


def check_curvature(curvature: str) -> None:
  """Raises ValueError unless it is one of CURVATURES."""
  if curvature not in CURVATURES:
    raise ValueError(
      f'curvature={curvature!r} is unknown: use one of {[*CURVATURES]}'
    )


def coordinates(
  basis: Preconditioner | None,
  problem: Problem,
  params: PyTree,
  train: PyTree,
  curvature: str = 'ggn',
  *,
  queries: int = 1,
  batch_size: int = 256,
) -> Coordinates:
  """The eigenbasis of a preconditioner; without one, the parameters.

  Args:
    basis: the preconditioner, or None.
    curvature: 'ggn' or 'hessian'.
    queries: Q, by which the cheaper form of the product is chosen.
    batch_size: rows of a product at once, likewise.
  """

  def in_parameters(batch):
    return jax.vmap(CURVATURES[curvature](problem, params, batch))

  if basis is None:
    same = lambda x: x
    return Coordinates(same, same, None, in_parameters, same, same)
  example = rows_lib.take(train, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  eigenbasis = _eigenbasis(basis, layers, problem, params)
  if curvature == 'ggn' and _rows_pay(
    layers,
    num_outputs(problem, params, example),
    queries,
    rows_lib.count(train),
    batch_size,
  ):
    return eigenbasis
  there, back = eigenbasis.to_coordinates, eigenbasis.from_coordinates
  return eigenbasis._replace(
    row_factors=None,
    product=in_parameters,
    inside=lambda product: lambda x: there(product(back(x))),
  )


def _eigenbasis(
  basis: Preconditioner, layers, problem: Problem, params: PyTree
) -> Coordinates:
  """The eigenbasis of a preconditioner, with products by row factors."""
  blocks = basis.blocks

  def to_eigenbasis(vectors):
    return jax.vmap(lambda v: blocks_lib.rotated(blocks, layers, v))(vectors)

  def from_eigenbasis(x):
    unrotate = lambda one: blocks_lib.unrotated(blocks, layers, one, params)
    return jax.vmap(unrotate)(x)

  def row_factors(batch, queries):
    factors = gram.factors(problem, params, batch, 'curvature')
    return {
      name: _row(
        layers[name], _rotated_factor(layers[name], f, blocks[name]), queries
      )
      for name, f in factors.items()
    }

  def product(batch, factors):
    return _rotated_ggn(layers, factors, batch.mask, problem.l2)

  def precondition(r):
    return {name: factor * r[name] for name, factor in basis.factors.items()}

  return Coordinates(
    to_eigenbasis,
    from_eigenbasis,
    row_factors,
    product,
    precondition,
    inside=lambda product: product,
  )


def _rows_pay(layers, k, queries, count, batch_size) -> bool:
  """Whether products by row factors cost less than those through the parameters.

  Multiplications a row, of a product with Q vectors, for a layer I x O at S
  positions and K outputs:

    by row factors        2·Q·S·O(I + K), or 2·Q·K·I·O where they are formed;
                          K backward passes, S·I·O each, and the root of the
                          loss's Hessian, K³, once where they are kept, else in
                          every product
    through the parameters  Q·(4·S·I·O) forwards and backwards, and the rotations
                          2·Q·I·O(I + O), once for all rows of a product
  """
  by_factors, through, passes, entries = 0.0, 0.0, float(k) ** 3, 0.0
  for layer in layers.values():
    i, o, s = layer.num_in, layer.num_out, layer.positions
    h = math.prod(layer.stack)
    if layer.kind == 'embed':
      i = 1
    formed = gram.forming_pays(layer, h * batch_size, s, queries, k)
    product = k * i * o if formed else s * o * (i + k)
    by_factors += 2 * queries * h * product
    passes += k * h * s * i * o
    entries += h * (k * i * o if formed else s * (i + k * o))
    rotations = 2 * i * o * (i + o) / min(batch_size, count)
    through += queries * h * (4 * s * i * o + rotations)
  once = count * entries <= KEPT
  return by_factors + passes / (PRODUCTS if once else 1) <= through


class Positions(NamedTuple):
  """Inputs and output gradients of B rows at S positions, row axis first."""

  a: jax.Array  # [B, H, S, I], or ids [B, S]
  g: jax.Array  # [B, K, H, S, O], or [B, K, S, O]


def _rotated_ggn(layers, rows, mask, l2):
  """x -> Gx + l2·x in the eigenbasis, from the row factors of a batch."""
  count = jnp.maximum(mask.sum(), 1)  # 1: padding alone

  def one(x):
    u = sum(_products_with(layers[n], row, x[n]) for n, row in rows.items())
    u = u * (mask / count)[:, None]
    parts = {n: _weighted_sum(layers[n], row, u) for n, row in rows.items()}
    return jax.tree.map(lambda g, x: g + l2 * x, parts, x)

  def product(x):
    size = len(mask) * sum(leaf[0].size for leaf in x.values())
    return jax.lax.map(one, x, batch_size=max(1, gram.AT_ONCE // size))

  return product


def _rotated_factor(layer, factor, block):
  """The factor in the block's eigenbasis, its stack axes one axis H."""
  a, g = factor
  a = a if block.inputs is None else _times(a, block.inputs)
  g = g if block.outputs is None else _times(g, block.outputs)
  if layer.kind == 'embed':
    return gram.Factor(a, g)
  depth = len(layer.stack)
  return gram.Factor(
    a.reshape(-1, *a.shape[depth:]),
    g.reshape(len(g), -1, *g.shape[1 + depth :]),
  )


def _row(layer, factor, queries):
  """Σ_s a_bs δ_bksᵀ, [B, K, H, I, O], where forming it pays; else Positions."""
  a, g = factor
  if layer.kind == 'embed':
    return Positions(a, jnp.moveaxis(g, 1, 0))
  k, h, b, s, _ = g.shape
  if gram.forming_pays(layer, h * b, s, queries, k):
    return jnp.einsum('hbsi,khbso->bkhio', a, g)
  return Positions(jnp.moveaxis(a, 1, 0), jnp.moveaxis(g, 2, 0))


def _times(values, basis):
  """[..., *stack, B, S, I] @ [*stack, I, J]."""
  return jnp.einsum('...bsi,...ij->...bsj', values, basis)


def _products_with(layer, row, x):
  """u_bk of one layer and query, [B, K]; x [*stack, I, O]."""
  if layer.kind == 'embed':
    y = x.at[row.a].get(mode='fill', fill_value=0)
    return jnp.einsum('bso,bkso->bk', y, row.g)
  x = x.reshape(-1, *x.shape[-2:])
  if not isinstance(row, Positions):
    return jnp.einsum('bkhio,hio->bk', row, x)
  y = jnp.einsum('bhsi,hio->bhso', row.a, x)
  return jnp.einsum('bhso,bkhso->bk', y, row.g)


def _weighted_sum(layer, row, u):
  """Σ_bk u_bk a_bᵀ δ_bk of one layer and query, [*stack, I, O]."""
  if layer.kind == 'embed':
    y = jnp.einsum('bk,bkso->bso', u, row.g)
    zero = jnp.zeros((layer.num_in, layer.num_out), y.dtype)
    return zero.at[row.a].add(y, mode='drop')
  if isinstance(row, Positions):
    y = jnp.einsum('bk,bkhso->bhso', u, row.g)
    x = jnp.einsum('bhsi,bhso->hio', row.a, y)
  else:
    x = jnp.einsum('bk,bkhio->hio', u, row)
  return x.reshape(*layer.stack, layer.num_in, layer.num_out)
