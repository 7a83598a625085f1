"""Influence functions: one solve per query, one inner product per training row.

  score[i, q] = −(1/N) ∇measure_qᵀ (G + damping)⁻¹ ∇loss_i

Koh & Liang 2017, https://arxiv.org/abs/1703.04730; with the GGN for the Hessian
as in the ASTRA paper (Wang et al. 2025, https://arxiv.org/abs/2507.14740), Eq. 6,
whose τ is the effect of removal times N: score = −τ/N. The inner products with
all training gradients are computed layer by layer in one backward pass.
"""

import functools

import jax
import jax.numpy as jnp

from tda_jax import door, parallel, trees
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.curvature import gram, low_rank, products
from tda_jax.data import rows
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse, Solution
from tda_jax.layers import taps
from tda_jax.methods.gradients import self_products
from tda_jax.methods.method import Fit, Method, Prepared
from tda_jax.problem import Problem
from tda_jax.settings import kept
from tda_jax.trees import PyTree


@kept
def influence(inverse: Inverse, *, query_rank: int | None = None) -> Method:
  """Influence functions with the given inverse of the curvature.

  The score is in the measure's unit, for the removal of a row; positive supports.

  Args:
    query_rank: the rank of each layer's matrix of a solved query, by which scoring
      is cheaper and a query smaller (`curvature.low_rank`); what that leaves out
      is in facts.json of `score`. None: they are kept whole.
  """
  door.check_inverse(inverse)
  if inverse.scale is not None:
    return _in_the_eigenbasis(inverse, query_rank)

  fit = fit_of(inverse)

  def prepare(problem, run, train, queries, key, fitted=None):
    fitted = fit(problem, run, train, key) if fitted is None else fitted
    params = run.params
    vectors = products.gradients(problem.measure, problem, params, queries)
    solution = solved(inverse, fitted, problem, params, train, vectors, key)
    scaled = trees.scaled(-1 / rows.count(train), solution.x)
    example = rows.take(train, 0)
    matrices = gram.layer_matrices(problem, params, example, scaled)
    return _kept(matrices, solution._replace(x=()), query_rank)

  def score(problem, run, prepared, batch):
    return inner_products(problem, run.params, prepared.state, batch)

  return Method(prepare, score, fit=fit, fits_as=inverse, vectors=_vectors)


def _vectors(problem, run, prepared, batch):
  """Of solved queries, from their layers' matrices; see `Method.vectors`."""
  example = rows.take(batch.examples, 0)
  state, params = prepared.state, run.params
  return params, gram.vectors_of(problem, params, example, state)


def _kept(matrices, solution, query_rank):
  """What is kept of solved queries {layer: [*stack, Q, I, O]}."""
  if query_rank is None:
    return Prepared(matrices, solution)
  factors, lost = low_rank.approximated(matrices, query_rank)
  return Prepared(factors, solution, lost)


def _in_the_eigenbasis(inverse: Inverse, query_rank: int | None) -> Method:
  """Influence functions with a Kronecker inverse.

  We rotate layer inputs and output gradients, which are much smaller than a
  query's gradient: Q_Aᵀ(Σ_s a_s δ_sᵀ)Q_S = Σ_s (a_s Q_A)ᵀ(δ_s Q_S).
  """
  scale = inverse.scale
  assert scale is not None  # of a Kronecker inverse

  fit = fit_of(inverse)

  def prepare(problem, run, train, queries, key, fitted=None):
    state = fit(problem, run, train, key) if fitted is None else fitted
    factors, damping = scale(state, problem)
    share = trees.scaled(-1 / rows.count(train), factors)
    aux = {name: (state.blocks[name], share[name]) for name in share}
    x, norms = _rotated_queries(problem, run.params, queries, aux)
    solution = inverse_lib.closed_form(norms, damping)
    solution = solution._replace(x=(), diverged=~jnp.isfinite(norms))
    kept = _kept(x, solution, query_rank)
    pairs = {n: (state.blocks[n], v) for n, v in kept.state.items()}
    return kept._replace(state=pairs)

  def score(problem, run, prepared, batch):
    with jax.default_matmul_precision('highest'):
      return taps.collect_rows(
        _rotated_products,
        problem,
        problem.loss,
        run.params,
        batch,
        prepared.state,
        total=True,
      )

  def self_influence(problem, run, train, key):
    state = fit(problem, run, train, key)
    factors = scale(state, problem).factors
    share = trees.scaled(-1 / rows.count(train), factors)
    blocks = {
      name: block._replace(eigenvalues=share[name])
      for name, block in state.blocks.items()
    }
    product = functools.partial(gram.weighted_row_products, blocks=blocks)
    return self_products(problem, run.params, train, product)

  return Method(
    prepare,
    score,
    self_influence=self_influence,
    fit=fit,
    fits_as=inverse,
    vectors=_vectors_turned_back,
  )


def _rotated_queries(problem, params, queries, aux):
  """({layer: [*stack, Q, I, O]} of `_rotated_gradients`, their norms [Q]).

  Each device computes its share of the queries.
  """

  def of_share(batch):
    x = taps.collect_rows(
      _rotated_gradients, problem, problem.measure, params, batch, aux
    )
    return {n: jnp.moveaxis(v, v.ndim - 3, 0) for n, v in x.items()}

  batch = jax.tree.map(jnp.asarray, rows.whole(queries))
  with jax.default_matmul_precision('highest'):
    entries = parallel.apart(of_share, batch)
  x = {n: jnp.moveaxis(v, 0, v.ndim - 3) for n, v in entries.items()}
  return parallel.held(x), trees.norms(entries)


def _vectors_turned_back(problem, run, prepared, batch):
  """`_vectors` of matrices in the eigenbasis."""
  example, params = rows.take(batch.examples, 0), run.params
  blocks = {name: block for name, (block, _) in prepared.state.items()}
  x = {name: low_rank.whole(v) for name, (_, v) in prepared.state.items()}
  return params, blocks_lib.unrotated_stack(blocks, problem, params, example, x)


def _rotated_gradients(layer, a, g, aux):
  """Q_Aᵀ ∇W_b Q_S times a factor for each eigendirection, [B, I, O]."""
  block, scale = aux
  a, g = blocks_lib.rotated_factors(a, g, block)
  if layer.kind == 'embed':
    a = jax.nn.one_hot(a, layer.num_in, dtype=g.dtype)
  return scale * jnp.einsum('bsi,bso->bio', a, g)


def _rotated_products(layer, a, g, aux):
  """Inner products of rows' gradients with queries in the eigenbasis, [B, Q]."""
  block, queries = aux
  return gram.inner_products(
    layer, *blocks_lib.rotated_factors(a, g, block), queries
  )


def fit_of(inverse: Inverse) -> Fit:
  """The fit of a method that solves by the given inverse."""

  def fit(problem, run, train, key):
    fit_key, _ = jax.random.split(key)
    return inverse.fit(problem, run.params, train, fit_key)

  return fit


def solved(
  inverse: Inverse,
  state: PyTree,
  problem: Problem,
  params: PyTree,
  train: PyTree,
  vectors: PyTree,
  key: jax.Array,
) -> Solution:
  """The Solution for a stack of vectors [Q, ...].

  Args:
    state: of `fit_of`, with the same key.
  """
  _, solve_key = jax.random.split(key)
  solution = inverse.solve(state, problem, params, train, vectors, solve_key)
  finite = jnp.isfinite(trees.norms(solution.x))
  return solution._replace(diverged=solution.diverged | ~finite)


def inner_products(
  problem: Problem,
  params: PyTree,
  vectors: dict[str, jax.Array],
  batch: rows.Batch,
) -> jax.Array:
  """⟨∇loss_b(params), V_q⟩, [B, Q]; vectors of `gram.layer_matrices`."""
  return taps.collect_rows(
    gram.inner_products,
    problem,
    problem.loss,
    params,
    batch,
    vectors,
    total=True,
  )
