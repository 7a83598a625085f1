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
from tda_jax.inverses.inverse import Inverse, Solution
from tda_jax.methods.method import Method, Prepared


def influence(inverse: Inverse) -> Method:
  """Influence functions with the given inverse of the curvature."""

  def prepare(problem, run, train, queries, key):
    params = run.params
    vectors = products.gradients(problem.measure, problem, params, queries)
    found = solved(inverse, problem, params, train, vectors, key)
    scaled = trees.scaled(-1 / rows.count(train), found.x)
    example = rows.take(train, 0)
    return Prepared(
      by_layer(problem, params, example, scaled), found._replace(x=())
    )

  def score(problem, run, prepared, batch):
    return along(problem, run.params, prepared.state, batch)

  return Method(prepare, score)


def solved(inverse: Inverse, problem, params, train, vectors, key) -> Solution:
  """The inverse fitted and applied to a stack of vectors [Q, ...]."""
  fit_key, solve_key = jax.random.split(key)
  state = inverse.fit(problem, params, train, fit_key)
  found = inverse.solve(state, problem, params, train, vectors, solve_key)
  finite = jnp.isfinite(trees.norms(found.x))
  return found._replace(diverged=found.diverged | ~finite)


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
  return jnp.einsum('bsi,bso,qio->bq', a, g, queries, optimize=True)
