"""Inner products of gradients, layer by layer, no Jacobian formed.

For a layer y_s = W a_s the gradient of an output is Σ_s a_s δ_sᵀ, so

  ⟨∇W_i, ∇W_j⟩ = Σ_{s,t} (a_is · a_jt)(δ_is · δ_jt),

a product of two small Gram matrices. `factors` holds the pairs (a, δ), K of the
δ per row; `gram` sums the products over layers.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tda_jax.curvature import ekfac, taps
from tda_jax.curvature import layers as layers_lib
from tda_jax.data import rows
from tda_jax.problem import Problem, num_outputs

PyTree = Any

# Rows × parameters × queries of one product: enough to fill the machine, and no
# more, so that what is between two layers stays in the cache.
AT_ONCE = 2**28
# Entries of the gradients of one layer at a batch that may be formed: 256 MB in
# float32.
FORMED = 2**26


class Factor(NamedTuple):
  """Inputs and output gradients of one layer at B rows."""

  a: jax.Array  # [*stack, B, S, I], or ids [B, S]
  g: jax.Array  # [K, *stack, B, S, O]


def factors(
  problem: Problem, params: PyTree, batch: rows.Batch, of: str
) -> dict[str, Factor]:
  """The factors of what `of` names, at each row of the batch.

  Args:
    of: 'loss' or 'measure' (K = 1: its gradient), or 'curvature': the K rows of
      Sᵀ J, S Sᵀ = ∂²loss/∂outputs², so that the GGN is their outer products'
      sum.

  Raises:
    ValueError: a layer is applied more than once.
  """
  example = rows.take(batch.examples, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  for layer in layers.values():
    if layer.shared:
      raise ValueError(
        f'{layer.name} is applied more than once, and the inputs and gradients'
        ' of its applications cannot be told apart here: use plain cg or'
        ' neumann, and influence functions instead of grad_dot'
      )

  def collect(loss):
    factor = lambda layer, a, g, aux: Factor(a, g)
    return taps.of_rows(factor, problem, loss, params, batch)

  if of != 'curvature':
    only = collect(getattr(problem, of))
    return {n: f._replace(g=f.g[None]) for n, f in only.items()}

  def column(k):
    def loss(outputs, example):
      fixed = jax.lax.stop_gradient(outputs)
      root = ekfac.loss_hessian_root(problem, fixed, example)
      return jnp.vdot(root[:, k], outputs.ravel())

    return collect(loss)

  k = num_outputs(problem, params, example)
  axes = {name: Factor(None, 0) for name in layers}
  return jax.vmap(column, out_axes=axes)(jnp.arange(k))


def gram(
  layers: dict[str, layers_lib.Layer],
  left: dict[str, Factor],
  right: dict[str, Factor],
) -> jax.Array:
  """[B, K, C, L]: inner products of B·K gradients with C·L gradients."""
  return sum(_pairs(layers[name], left[name], right[name]) for name in layers)


def _pairs(layer, left, right):
  if layer.stack:
    # Stack axes are summed over one entry at a time: none is materialised.
    depth = len(layer.stack)
    flat = lambda x, at: x.reshape(x.shape[:at] + (-1,) + x.shape[at + depth :])
    entries = [
      Factor(flat(f.a, 0), jnp.moveaxis(flat(f.g, 1), 1, 0))
      for f in (left, right)
    ]
    alone = layer._replace(stack=())
    return jax.lax.map(lambda pair: _pairs(alone, *pair), tuple(entries)).sum(0)
  s, t = left.g.shape[2], right.g.shape[2]
  if s == t == 1:
    return _similarity(layer, left.a, right.a)[:, :, :, 0, None] * jnp.einsum(
      'kbo,lco->bkcl', left.g[:, :, 0], right.g[:, :, 0]
    )
  sides = [(f.g.shape[0] * f.g.shape[1], f.g.shape[2]) for f in (left, right)]
  (rows_l, s), (rows_r, t) = sides
  alike_cost = left.g.shape[1] * right.g.shape[1] * s * t * layer.num_in
  by_position = alike_cost + rows_l * rows_r * s * t * layer.num_out
  size = layer.num_in * layer.num_out
  by_gradient = size * (rows_l * s + rows_r * t + rows_l * rows_r)
  if layer.kind == 'embed' or by_position < by_gradient:
    alike = _similarity(layer, left.a, right.a)
    return jnp.einsum(
      'bsct,kbso,lcto->bkcl', alike, left.g, right.g, optimize=True
    )
  full = [jnp.einsum('bsi,kbso->bkio', f.a, f.g) for f in (left, right)]
  return jnp.einsum('bkio,clio->bkcl', *full)


def _similarity(layer, a, b):
  """a_is · b_jt, [B, S, C, T]; ids are equal or not."""
  if layer.kind == 'embed':
    inside = (a < layer.num_in)[:, :, None, None]  # padding is out of range
    return (inside & (a[:, :, None, None] == b)).astype(jnp.float32)
  return jnp.einsum('bsi,cti->bsct', a, b)


def norms(
  layers: dict[str, layers_lib.Layer], of: dict[str, Factor]
) -> jax.Array:
  """Norms of B gradients (K = 1), [B]."""
  return jnp.sqrt(own(layers, of, of))


def own(
  layers: dict[str, layers_lib.Layer],
  left: dict[str, Factor],
  right: dict[str, Factor],
) -> jax.Array:
  """Inner product of each row's two gradients (K = L = 1), [B]."""

  def of_row(left, right):
    return gram(layers, left, right)[0, 0, 0, 0]

  axes = {
    n: Factor(len(layer.stack), 1 + len(layer.stack))
    for n, layer in layers.items()
  }
  single = lambda of: {
    n: Factor(
      jnp.expand_dims(f.a, axes[n].a + 1), jnp.expand_dims(f.g, axes[n].g + 1)
    )
    for n, f in of.items()
  }
  return jax.vmap(of_row, in_axes=(axes, axes))(single(left), single(right))


def weighted_own(
  layers: dict[str, layers_lib.Layer],
  left: dict[str, Factor],
  right: dict[str, Factor],
  blocks: dict[str, ekfac.Block],
) -> jax.Array:
  """`own` with a weight for each eigendirection (`weighted_products`), [B]."""
  total = 0.0
  for name, layer in layers.items():
    one = functools.partial(weighted_products, layer)
    for _ in layer.stack:
      one = jax.vmap(one)
    value = one(left[name].a, left[name].g[0], right[name].g[0], blocks[name])
    total += value.sum(tuple(range(len(layer.stack))))
  return total


# --- with vectors: statistics of `taps.collect` ------------------------------


def by_layer(problem, params, example, vectors):
  """A stack of Q vectors as {layer: [*stack, Q, I, O]}, for `inner_products`."""
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  matrices = {}
  for name, layer in layers.items():
    w = jax.vmap(lambda v, layer=layer: layers_lib.matrix(layer, v))(vectors)
    matrices[name] = jnp.moveaxis(w, 0, len(layer.stack))
  return matrices


def pays(layer, rows: int, positions: int, queries: int, k: int = 1) -> bool:
  """Whether products of Q vectors with K gradients Σ_s a_s δ_sᵀ of each of B rows
  are less work with these gradients formed, and they fit into FORMED.

  K·I·O(S + Q) products a row, against Q·S·O(I + K) position by position: less for
  a convolution, whose kernel is small beside its positions. Never for S = 1.
  """
  size = layer.num_in * layer.num_out
  if layer.kind == 'embed' or positions == 1 or rows * k * size > FORMED:
    return False
  by_position = queries * positions * layer.num_out * (layer.num_in + k)
  return k * size * (positions + queries) < by_position


def inner_products(layer, a, g, queries):
  """⟨∇W_b, V_q⟩ = Σ_s a_bsᵀ V_q δ_bs, [B, Q]; a statistic of `taps.collect`."""
  if layer.kind == 'embed':
    return jnp.einsum(
      'bso,qbso->bq', g, queries.at[:, a].get(mode='fill', fill_value=0)
    )
  rows, positions = a.shape[:2]
  if pays(layer, rows * math.prod(layer.stack), positions, len(queries)):
    # Rounded once more than position by position.
    with jax.default_matmul_precision('highest'):
      full = jnp.einsum('bsi,bso->bio', a, g)
    return jnp.einsum('bio,qio->bq', full, queries)
  # Query by query: a V_q stays in the cache.
  one = lambda v: jnp.einsum('bso,bso->b', a @ v, g)
  together = max(1, AT_ONCE // (a.size * layer.num_out))
  return jax.lax.map(one, queries, batch_size=together).T


def squared_norms(layer, a, g, _=None):
  """‖∇W_b‖², [B]; a statistic of `taps.collect`."""
  alone = layer._replace(stack=())

  def one(a, g):
    single = Factor(a[None], g[None, None])
    return _pairs(alone, single, single)[0, 0, 0, 0]

  return jax.vmap(one)(a, g)


def weighted_products(layer, a, left, right, block):
  """Σ_io (Q_Aᵀ Σ_s a_s l_sᵀ Q_S)_io (Q_Aᵀ Σ_s a_s r_sᵀ Q_S)_io w_io, [B].

  With left = right = δ, of a row's gradient, a statistic of `taps.collect`.

  Args:
    left, right: [B, S, O], gradients with respect to the layer's outputs.
    block: a `curvature.ekfac.Block` with w [I, O] for its eigenvalues.
  """
  with jax.default_matmul_precision('highest'):
    (a, left), (_, right) = (ekfac.turned(a, g, block) for g in (left, right))
    if layer.kind == 'embed':
      # Positions with the same id add up before they are multiplied.
      same = (a[:, :, None] == a[:, None, :]).astype(left.dtype)
      w = block.eigenvalues.at[a].get(mode='fill', fill_value=0)
      return jnp.einsum('bst,bso,bto,bso->b', same, left, right, w)
    if layer.positions == 1:
      a, left, right = a[:, 0], left[:, 0], right[:, 0]
      return jnp.einsum('bi,bo,io->b', a**2, left * right, block.eigenvalues)
    both = [jnp.einsum('bsi,bso->bio', a, g) for g in (left, right)]
    return jnp.einsum('bio,bio,io->b', *both, block.eigenvalues)


def combined(layer, a, g, weights):
  """Σ_b weights_bq ∇W_b, [Q, I, O], from weights [B, Q]."""
  if layer.kind == 'embed':
    rows_of = jnp.einsum('bq,bso->bsqo', weights, g)
    zero = jnp.zeros((layer.num_in, *rows_of.shape[2:]), g.dtype)
    return zero.at[a].add(rows_of, mode='drop').swapaxes(0, 1)
  return jnp.einsum('bsi,bq,bso->qio', a, weights, g)
