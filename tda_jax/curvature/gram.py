"""Inner products of gradients, layer by layer, without forming a Jacobian.

For a layer y_s = W a_s the gradient of an output is Σ_s a_s δ_sᵀ, so

  ⟨∇W_i, ∇W_j⟩ = Σ_{s,t} (a_is · a_jt)(δ_is · δ_jt),

a product of two small Gram matrices. `factors` returns the pairs (a, δ), with K
of the δ per row; `gram` sums the products over layers.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from tda_jax import chosen, parallel, trees
from tda_jax.curvature import ekfac
from tda_jax.curvature.low_rank import LowRank, whole
from tda_jax.data import rows
from tda_jax.layers import find as layers_lib
from tda_jax.layers import taps
from tda_jax.layers.find import Layer
from tda_jax.problem import Problem, num_outputs
from tda_jax.trees import PyTree

# Rows × parameters × queries of one product: enough to fill the machine, and
# small enough that intermediate results stay in the cache.
AT_ONCE = 2**28
# Entries of the gradients of one layer at a batch that may be formed: 256 MB in
# float32.
FORMED = 2**26


class Factor(NamedTuple):
  """Inputs and output gradients of one layer at B rows."""

  a: jax.Array  # [*stack, B, S, I], or ids [B, S]
  g: jax.Array  # [K, *stack, B, S, O]


def factors(
  problem: Problem, params: PyTree, batch: rows.Batch, kind: str
) -> dict[str, Factor]:
  """The factors of each layer, at each row of the batch.

  Args:
    kind: 'loss' or 'measure' (K = 1: the factors of its gradient), or
      'curvature': those of the K rows of Sᵀ J, S Sᵀ = ∂²loss/∂outputs², whose
      outer products add up to the GGN.

  Raises:
    ValueError: a layer is applied more than once.
  """
  example = rows.take(batch.examples, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  for layer in layers.values():
    if layer.shared:
      raise ValueError(
        f'{layer.name} is applied more than once, and the inputs and gradients'
        f' of its applications cannot be told apart here: {layers_lib.remedies(layer)};'
        ' or use plain cg or neumann'
      )

  def collect(loss):
    factor = lambda layer, a, g, aux: Factor(a, g)
    return taps.collect_rows(factor, problem, loss, params, batch)

  if kind != 'curvature':
    single = collect(getattr(problem, kind))
    return {n: f._replace(g=f.g[None]) for n, f in single.items()}

  def column(k):
    def loss(outputs, example):
      fixed = jax.lax.stop_gradient(outputs)
      root = ekfac.loss_hessian_root(problem, fixed, example)
      return jnp.vdot(root[:, k], outputs.ravel())

    return collect(loss)

  k = num_outputs(problem, params, example)
  axes = {name: _axes(None, 0) for name in layers}
  return jax.vmap(column, out_axes=axes)(jnp.arange(k))


def _axes(a: int | None, g: int) -> Any:
  """Axes of a factor's arrays, in the structure that `jax.vmap` takes."""
  return Factor(cast(Any, a), cast(Any, g))


def gram(
  layers: dict[str, Layer], first: dict[str, Factor], second: dict[str, Factor]
) -> jax.Array:
  """[B, K, C, L]: inner products of B·K gradients with C·L gradients."""
  of_layers = (_pairs(layers[n], first[n], second[n]) for n in layers)
  return cast(jax.Array, sum(of_layers))


def _pairs(layer, first, second):
  """`gram` of one layer, by the cheapest of three ways."""
  if layer.stack:
    return _pairs_of_stack(layer, first, second)
  if first.g.shape[2] == second.g.shape[2] == 1:
    # Rows are put before outputs here, not in the product, which is larger.
    g, h = (f.g[:, :, 0].swapaxes(0, 1) for f in (first, second))
    alike = _similarity(layer, first.a, second.a)[:, :, :, 0, None]
    return alike * jnp.einsum('bko,clo->bkcl', g, h)
  if layer.kind == 'embed' or _cheaper_by_position(layer, first.g, second.g):
    alike = _similarity(layer, first.a, second.a)
    return jnp.einsum(
      'bsct,kbso,lcto->bkcl', alike, first.g, second.g, optimize=True
    )
  gradients = [jnp.einsum('bsi,kbso->bkio', f.a, f.g) for f in (first, second)]
  return jnp.einsum('bkio,clio->bkcl', *gradients)


def _pairs_of_stack(layer, first, second):
  """The sum over a stack's entries, one at a time: none is materialised."""
  depth = len(layer.stack)
  flat = lambda x, at: x.reshape(x.shape[:at] + (-1,) + x.shape[at + depth :])
  entries = [
    Factor(flat(f.a, 0), jnp.moveaxis(flat(f.g, 1), 1, 0))
    for f in (first, second)
  ]
  alone = layer._replace(stack=())
  return jax.lax.map(lambda pair: _pairs(alone, *pair), tuple(entries)).sum(0)


def _cheaper_by_position(layer, g, h):
  """Whether inner products of gradients cost less without forming them.

  Args:
    g, h: [K, B, S, O] and [L, C, T, O].
  """
  (k, b, s, _), (other_k, c, t, _) = g.shape, h.shape
  by_position = b * c * s * t * (layer.num_in + k * other_k * layer.num_out)
  size = layer.num_in * layer.num_out
  by_gradient = size * (k * b * s + other_k * c * t + k * b * other_k * c)
  return by_position < by_gradient


def _similarity(layer, a, b):
  """a_is · b_jt, [B, S, C, T]; ids are equal or not."""
  if layer.kind == 'embed':
    inside = (a < layer.num_in)[:, :, None, None]  # padding is out of range
    return (inside & (a[:, :, None, None] == b)).astype(jnp.float32)
  return jnp.einsum('bsi,cti->bsct', a, b)


def norms(layers: dict[str, Layer], gradients: dict[str, Factor]) -> jax.Array:
  """Norms of B gradients (K = 1), [B].

  Where those of a row's positions cancel, rounding can make the square negative:
  then the norm is 0.
  """
  return jnp.sqrt(jnp.maximum(row_products(layers, gradients, gradients), 0))


def formed(
  layers: dict[str, Layer], gradients: dict[str, Factor]
) -> dict[str, jax.Array]:
  """B gradients (K = 1) as {layer: [*stack, B, I, O]}."""

  def of_entry(layer, a, g):
    if layer.kind != 'embed':
      return jnp.einsum('bsi,bso->bio', a, g)
    zero = jnp.zeros((layer.num_in, layer.num_out), g.dtype)
    return jax.vmap(lambda a, g: zero.at[a].add(g, mode='drop'))(a, g)

  matrices = {}
  for name, layer in layers.items():
    one = functools.partial(of_entry, layer)
    for _ in layer.stack:
      one = jax.vmap(one)
    matrices[name] = one(gradients[name].a, gradients[name].g[0])
  return matrices


def row_products(
  layers: dict[str, Layer], first: dict[str, Factor], second: dict[str, Factor]
) -> jax.Array:
  """The inner product of each row's two gradients (K = L = 1), [B]."""

  def of_row(first, second):
    return gram(layers, first, second)[0, 0, 0, 0]

  # The axis of the rows B in each layer's a and g.
  axes = {
    n: _axes(len(layer.stack), 1 + len(layer.stack))
    for n, layer in layers.items()
  }

  def with_one_row(factors):
    """The factors with an axis of one row behind that of the rows."""
    return {
      n: Factor(
        jnp.expand_dims(f.a, axes[n].a + 1), jnp.expand_dims(f.g, axes[n].g + 1)
      )
      for n, f in factors.items()
    }

  single = with_one_row(first), with_one_row(second)
  return jax.vmap(of_row, in_axes=(axes, axes))(*single)


def weighted_row_products(
  layers: dict[str, Layer],
  first: dict[str, Factor],
  second: dict[str, Factor],
  blocks: dict[str, ekfac.Block],
) -> jax.Array:
  """`row_products` with a weight for each eigendirection, [B].

  Args:
    blocks: as for `weighted_products`.
  """
  total: Any = 0.0
  for name, layer in layers.items():
    one = functools.partial(weighted_products, layer)
    for _ in layer.stack:
      one = jax.vmap(one)
    value = one(
      first[name].a, first[name].g[0], second[name].g[0], blocks[name]
    )
    total += value.sum(tuple(range(len(layer.stack))))
  return total


# --- with vectors: statistics of `taps.collect` ------------------------------


def layer_matrices(
  problem: Problem, params: PyTree, example: PyTree, vectors: PyTree
) -> dict[str, jax.Array]:
  """A stack of Q vectors as {layer: [*stack, Q, I, O]}, for `inner_products`."""
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  matrices = {}
  for name, layer in layers.items():
    w = jax.vmap(lambda v, layer=layer: layers_lib.matrix(layer, v))(vectors)
    matrices[name] = jnp.moveaxis(w, 0, len(layer.stack))
  return matrices


def vectors_of(
  problem: Problem,
  params: PyTree,
  example: PyTree,
  matrices: Mapping[str, jax.Array | LowRank],
) -> PyTree:
  """The stack of Q vectors, leaves [Q, ...], whose `layer_matrices` these are.

  Raises:
    ValueError: approximations of layers that share a parameter, which are those
      of no one vector.
  """
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  total = count = None
  for name, w in matrices.items():
    layer = layers[name]
    if isinstance(w, LowRank) and layer.shared:
      raise ValueError(
        f'{name} is applied more than once, and queries of low rank are no one'
        ' vector there: give query_rank=None'
      )
    back = lambda w, layer=layer: layers_lib.unmatrix(layer, w, params)
    full = whole(w)
    one = jnp.ones((*layer.stack, layer.num_in, layer.num_out), full.dtype)
    stack = jax.vmap(back, len(layer.stack))(full)
    total = stack if total is None else trees.add(total, stack)
    count = back(one) if count is None else trees.add(count, back(one))
  # What is in several layers came to each of them.
  return jax.tree.map(lambda v, n: v / jnp.maximum(n, 1), total, count)


def forming_pays(
  layer: Layer, rows: int, positions: int, queries: int, k: int = 1
) -> bool:
  """Whether it costs less to form the gradients that are multiplied by vectors.

  These are K gradients Σ_s a_s δ_sᵀ of each of B rows, multiplied by Q vectors.
  Formed, they cost K·I·O(S + Q) multiplications a row; position by position it is
  Q·S·O(I + K). Forming costs less for a convolution, whose kernel is small beside
  its positions, and never for S = 1. It must also fit into FORMED entries, on each
  of the devices that divide them.

  Args:
    rows: B, times the entries of the layer's stack that are at work together.
    positions: S.
    queries: Q.
    k: K.
  """
  size, most = layer.num_in * layer.num_out, FORMED * parallel.parts()
  if layer.kind == 'embed' or positions == 1 or rows * k * size > most:
    return False
  by_position = queries * positions * layer.num_out * (layer.num_in + k)
  return k * size * (positions + queries) < by_position


def inner_products(
  layer: Layer, a: jax.Array, g: jax.Array, queries: jax.Array | LowRank
) -> jax.Array:
  """⟨∇W_b, V_q⟩ = Σ_s a_bsᵀ V_q δ_bs, [B, Q]; a statistic of `taps.collect`.

  Args:
    queries: V [Q, I, O], or its factors.
  """
  if isinstance(queries, LowRank):
    return _with_low_rank(layer, a, g, queries)
  if layer.kind == 'embed':
    return jnp.einsum(
      'bso,qbso->bq', g, queries.at[:, a].get(mode='fill', fill_value=0)
    )
  rows, positions = a.shape[:2]
  if forming_pays(
    layer, rows * math.prod(layer.stack[layer.scans :]), positions, len(queries)
  ):
    # Rounded once more than position by position.
    with jax.default_matmul_precision('highest'):
      full = parallel.held(jnp.einsum('bsi,bso->bio', a, g))
    return jnp.einsum('bio,qio->bq', full, queries)  # divided in the same way
  # Query by query: a V_q stays in the cache.
  one = lambda v: jnp.einsum('bso,bso->b', a @ v, g)
  together = max(1, AT_ONCE // (a.size * layer.num_out))
  return jax.lax.map(one, queries, batch_size=together).T


def _with_low_rank(layer, a, g, queries):
  """Σ_s (a_bs A_q) · (B_q δ_bs), [B, Q]; A [Q, I, r] and B [Q, r, O]."""

  def one(query):
    if layer.kind == 'embed':
      inner = query.a.at[a].get(mode='fill', fill_value=0)
    else:
      inner = a @ query.a
    return jnp.einsum('bsr,bsr->b', inner, g @ query.b.T)

  rank = queries.a.shape[-1]
  cost = math.prod(a.shape[:2]) * rank * (layer.num_in + layer.num_out)
  together = max(1, AT_ONCE // cost)
  return jax.lax.map(one, queries, batch_size=together).T


def squared_norms(
  layer: Layer, a: jax.Array, g: jax.Array, _: None = None
) -> jax.Array:
  """‖∇W_b‖², [B]; a statistic of `taps.collect`."""
  alone = layer._replace(stack=())

  def one(a, g):
    single = Factor(a[None], g[None, None])
    return _pairs(alone, single, single)[0, 0, 0, 0]

  return jax.vmap(one)(a, g)


def weighted_products(
  layer: Layer,
  a: jax.Array,
  first: jax.Array,
  second: jax.Array,
  block: ekfac.Block,
) -> jax.Array:
  """Σ_io (Q_Aᵀ Σ_s a_s f_sᵀ Q_S)_io (Q_Aᵀ Σ_s a_s h_sᵀ Q_S)_io w_io, [B].

  With f = h = δ it is the weighted squared norm of each row's gradient.

  Args:
    first, second: f and h [B, S, O], gradients with respect to the layer's
      outputs.
    block: a `curvature.ekfac.Block` with w [I, O] for its eigenvalues.
  """
  with jax.default_matmul_precision('highest'):
    (a, first), (_, second) = (
      ekfac.rotated_factors(a, g, block) for g in (first, second)
    )
    if layer.kind == 'embed':
      # Positions with the same id add up before they are multiplied.
      same = (a[:, :, None] == a[:, None, :]).astype(first.dtype)
      w = block.eigenvalues.at[a].get(mode='fill', fill_value=0)
      return jnp.einsum('bst,bso,bto,bso->b', same, first, second, w)
    if layer.positions == 1:
      a, first, second = a[:, 0], first[:, 0], second[:, 0]
      return jnp.einsum('bi,bo,io->b', a**2, first * second, block.eigenvalues)
    both = [jnp.einsum('bsi,bso->bio', a, g) for g in (first, second)]
    return jnp.einsum('bio,bio,io->b', *both, block.eigenvalues)


def weighted_sums(
  layer: Layer, a: jax.Array, g: jax.Array, weights: jax.Array
) -> jax.Array:
  """Σ_b weights_bq ∇W_b, [Q, I, O], from weights [B, Q]."""
  if layer.kind == 'embed':
    rows_of = jnp.einsum('bq,bso->bsqo', weights, g)
    zero = jnp.zeros((layer.num_in, *rows_of.shape[2:]), g.dtype)
    return zero.at[a].add(rows_of, mode='drop').swapaxes(0, 1)
  return jnp.einsum('bsi,bq,bso->qio', a, weights, g)


def mean_square_gradient(
  problem: Problem, params: PyTree, train: PyTree
) -> float:
  """The mean over rows and parameters of the squared entries of ∇loss_i.

  Some papers state dampings in this unit (Grosse et al. 2023,
  https://arxiv.org/abs/2308.03296). It is rounded to 6 digits, so that a resumed
  run gets the same number.
  """
  problem, params = chosen.restricted(problem, params)
  example = rows.take(train, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)

  @jax.jit
  def squares(batch):
    lengths = norms(layers, factors(problem, params, batch, 'loss'))
    return jnp.sum(batch.mask * lengths**2)

  batches = rows.batches(train, 256)
  total = sum(float(squares(jax.tree.map(jnp.asarray, b))) for b in batches)
  mean = total / (rows.count(train) * trees.size(params))
  return float(f'{mean:.6g}')
