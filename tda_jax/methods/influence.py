"""Influence functions: one solve per query, one dot product per training row.

  score[i, q] = −(1/N) ∇measure_qᵀ (G + damping)⁻¹ ∇loss_i

Koh & Liang 2017; with the GGN for the Hessian as in the ASTRA paper, Eq. 6 (its
τ is the effect of removal times N: score = −τ/N). The dot products with all
training gradients are taken layer by layer in one backward pass.
"""

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.curvature import products, taps
from tda_jax.curvature.gram import by_layer, inner_products
from tda_jax.data import rows
from tda_jax.inverses.inverse import Inverse
from tda_jax.methods.method import Method, Prepared


def influence(inverse: Inverse) -> Method:
  """Influence functions with the given inverse of the curvature."""

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


def solved(inverse: Inverse, problem, params, train, vectors, key):
  """(fitted state, Solution for a stack of vectors [Q, ...])."""
  fit_key, solve_key = jax.random.split(key)
  state = inverse.fit(problem, params, train, fit_key)
  found = inverse.solve(state, problem, params, train, vectors, solve_key)
  finite = jnp.isfinite(trees.norms(found.x))
  return state, found._replace(diverged=found.diverged | ~finite)


def along(problem, params, vectors, batch) -> jax.Array:
  """⟨∇loss_b(params), V_q⟩, [B, Q]; vectors of `by_layer`."""
  return taps.collect(
    inner_products,
    problem.outputs,
    problem.loss,
    params,
    batch.examples,
    vectors,
    mask=batch.mask,
    total=True,
    as_leaf=problem.as_leaf,
  )
