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
    _, found = solved(inverse, problem, params, train, queries, key)
    scaled = trees.scaled(-1 / rows.count(train), found.x)
    example = rows.take(train, 0)
    return Prepared(
      by_layer(problem, params, example, scaled), found._replace(x=())
    )

  def score(problem, run, prepared, batch):
    return taps.collect(
      inner_products,
      problem.outputs,
      problem.loss,
      run.params,
      batch.examples,
      prepared.state,
      mask=batch.mask,
      total=True,
      as_leaf=problem.as_leaf,
    )

  return Method(prepare, score)


def solved(inverse: Inverse, problem, params, train, queries, key):
  """(fitted state, Solution for the measure's gradient at every query)."""
  fit_key, solve_key = jax.random.split(key)
  vectors = products.gradients(problem.measure, problem, params, queries)
  state = inverse.fit(problem, params, train, fit_key)
  found = inverse.solve(state, problem, params, train, vectors, solve_key)
  finite = jnp.isfinite(trees.norms(found.x))
  return state, found._replace(diverged=found.diverged | ~finite)
