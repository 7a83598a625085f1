"""Influence functions: one solve per query, one dot product per training row.

  score[i, q] = −(1/N) ∇measure_qᵀ (G + damping)⁻¹ ∇loss_i

Koh & Liang 2017; with the GGN for the Hessian as in the ASTRA paper, Eq. 6 (its
τ is the effect of removal times N: score = −τ/N). The dot products with all
training gradients are taken layer by layer in one backward pass.
"""

import functools

import jax
import jax.numpy as jnp

from tda_jax import door, trees
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.curvature import gram, products, taps
from tda_jax.curvature.gram import by_layer, inner_products
from tda_jax.data import rows
from tda_jax.inverses import ekfac
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse
from tda_jax.methods.gradients import self_products
from tda_jax.methods.method import Method, Prepared
from tda_jax.settings import kept


@kept
def influence(inverse: Inverse) -> Method:
  """Influence functions with the given inverse of the curvature."""
  door.check_inverse(inverse)
  if inverse.scale is not None:
    return _in_the_eigenbasis(inverse)

  def prepare(problem, run, train, queries, key):
    params = run.params
    vectors = products.gradients(problem.measure, problem, params, queries)
    _, found = solved(inverse, problem, params, train, vectors, key)
    scaled = trees.scaled(-1 / rows.count(train), found.x)
    example = rows.take(train, 0)
    return Prepared(
      by_layer(problem, params, example, scaled), found._replace(x=())
    )

  def score(problem, run, prepared, batch):
    return along(problem, run.params, prepared.state, batch)

  return Method(prepare, score)


def _in_the_eigenbasis(inverse: Inverse) -> Method:
  """Of a Kronecker inverse: no gradient of a query is ever rotated.

  Queries' and rows' inputs and output gradients are, and are far smaller:
  Q_Aᵀ(Σ_s a_s δ_sᵀ)Q_S = Σ_s (a_s Q_A)ᵀ(δ_s Q_S).
  """

  def prepare(problem, run, train, queries, key):
    fit_key, _ = jax.random.split(key)
    state = inverse.fit(problem, run.params, train, fit_key)
    share = trees.scaled(-1 / rows.count(train), inverse.scale(state, problem))
    aux = {name: (state.blocks[name], share[name]) for name in share}
    every = rows.whole(queries)
    with jax.default_matmul_precision('highest'):
      x = taps.of_rows(
        _turned_gradients, problem, problem.measure, run.params, every, aux
      )
    entries = {n: jnp.moveaxis(v, v.ndim - 3, 0) for n, v in x.items()}
    norms = trees.norms(entries)
    found = inverse_lib.direct(norms, ekfac.mean_damping(state))
    found = found._replace(x=(), diverged=~jnp.isfinite(norms))
    return Prepared({n: (state.blocks[n], v) for n, v in x.items()}, found)

  def score(problem, run, prepared, batch):
    with jax.default_matmul_precision('highest'):
      return taps.of_rows(
          _turned_products, problem, problem.loss, run.params, batch,
          prepared.state, total=True,
      )  # fmt: skip

  def own(problem, run, train, key):
    fit_key, _ = jax.random.split(key)
    state = inverse.fit(problem, run.params, train, fit_key)
    share = trees.scaled(-1 / rows.count(train), inverse.scale(state, problem))
    blocks = {
      name: block._replace(eigenvalues=share[name])
      for name, block in state.blocks.items()
    }
    weigh = functools.partial(gram.weighted_own, blocks=blocks)
    return self_products(problem, run.params, train, weigh)

  return Method(prepare, score, own=own)


def _turned_gradients(layer, a, g, aux):
  """Q_Aᵀ ∇W_b Q_S times what belongs to each eigendirection, [B, I, O]."""
  block, scale = aux
  a, g = blocks_lib.turned(a, g, block)
  if layer.kind == 'embed':
    a = jax.nn.one_hot(a, layer.num_in, dtype=g.dtype)
  return scale * jnp.einsum('bsi,bso->bio', a, g)


def _turned_products(layer, a, g, aux):
  block, queries = aux
  return inner_products(layer, *blocks_lib.turned(a, g, block), queries)


def solved(inverse: Inverse, problem, params, train, vectors, key):
  """(fitted state, Solution for a stack of vectors [Q, ...])."""
  fit_key, solve_key = jax.random.split(key)
  state = inverse.fit(problem, params, train, fit_key)
  found = inverse.solve(state, problem, params, train, vectors, solve_key)
  finite = jnp.isfinite(trees.norms(found.x))
  return state, found._replace(diverged=found.diverged | ~finite)


def along(problem, params, vectors, batch) -> jax.Array:
  """⟨∇loss_b(params), V_q⟩, [B, Q]; vectors of `by_layer`."""
  return taps.of_rows(
    inner_products, problem, problem.loss, params, batch, vectors, total=True
  )
