"""Influence functions: one solve per query, one dot product per training row.

  score[i, q] = −(1/N) ∇measure_qᵀ (G + damping)⁻¹ ∇loss_i

Koh & Liang 2017; with the GGN for the Hessian as in the ASTRA paper, Eq. 6 (its
τ is the effect of removal times N: score = −τ/N). The dot products with all
training gradients are taken layer by layer in one backward pass.
"""

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.curvature import layers as layers_lib
from tda_jax.curvature import products, taps
from tda_jax.data import rows
from tda_jax.inverses.coordinates import AT_ONCE
from tda_jax.inverses.inverse import Inverse
from tda_jax.methods.method import Method, Prepared


def influence(inverse: Inverse) -> Method:
  """Influence functions with the given inverse of the curvature."""

  def prepare(problem, run, train, queries, key):
    params = run.params
    fit_key, solve_key = jax.random.split(key)
    vectors = products.gradients(problem.measure, problem, params, queries)
    state = inverse.fit(problem, params, train, fit_key)
    found = inverse.solve(state, problem, params, train, vectors, solve_key)
    finite = jnp.isfinite(trees.norms(found.x))
    found = found._replace(diverged=found.diverged | ~finite)
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


def by_layer(problem, params, example, vectors):
  """A stack of Q vectors as {layer: [*stack, Q, I, O]}, for `inner_products`."""
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  matrices = {}
  for name, layer in layers.items():
    w = jax.vmap(lambda v, layer=layer: layers_lib.matrix(layer, v))(vectors)
    matrices[name] = jnp.moveaxis(w, 0, len(layer.stack))
  return matrices


def inner_products(layer, a, g, queries):
  """⟨∇W_b, V_q⟩ = Σ_s a_bsᵀ V_q δ_bs, [B, Q]; a statistic of `taps.collect`."""
  if layer.kind == 'embed':
    return jnp.einsum(
      'bso,qbso->bq', g, queries.at[:, a].get(mode='fill', fill_value=0)
    )
  # Query by query: a V_q stays in the cache, and no a δᵀ is ever formed.
  one = lambda v: jnp.einsum('bso,bso->b', a @ v, g)
  together = max(1, AT_ONCE // (a.size * layer.num_out))
  return jax.lax.map(one, queries, batch_size=together).T
