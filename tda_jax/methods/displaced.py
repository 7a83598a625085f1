"""Influence functions for a model that is not at a stationary point.

  score[i, q] = −(1/N) ∇measure_qᵀ (G + damping)⁻¹ ∇loss_i(θ_f + Δ)
  Δ = −(G + damping)⁻¹ ∇L(θ_f)

Δ is where further training on all rows goes, to second order and damped; a row is
weighted by its gradient there, not at θ_f. Wei et al. 2025, "Final-Model-Only
Data Attribution", Proposition 1, https://arxiv.org/abs/2412.03906; no published
method has this term. Where ∇L = 0 these are influence functions.
"""

import jax
import jax.numpy as jnp

from tda_jax import door, trees
from tda_jax.curvature import gram, products
from tda_jax.data import rows
from tda_jax.inverses.inverse import Inverse
from tda_jax.methods import influence
from tda_jax.methods.method import Method, Prepared
from tda_jax.problem import Problem, losses
from tda_jax.settings import kept
from tda_jax.trees import PyTree

ROWS_AT_ONCE = 256


@kept
def displaced_influence(inverse: Inverse) -> Method:
  """Influence functions at the displaced parameters, by the given inverse.

  The objective's gradient is one more vector for the same solve, and the last one
  in its report; L includes ½·l2·‖θ‖². The sign and unit are those of `influence`.
  """
  door.check_inverse(inverse)

  fit = influence.fit_of(inverse)

  def prepare(problem, run, train, queries, key, fitted=None):
    fitted = fit(problem, run, train, key) if fitted is None else fitted
    params = run.params
    vectors = products.gradients(problem.measure, problem, params, queries)
    slope = objective_gradient(problem, params, train)
    vectors = jax.tree.map(
      lambda v, g: jnp.concatenate([v, g[None]]), vectors, slope
    )
    solution = influence.solved(
      inverse, fitted, problem, params, train, vectors, key
    )
    there = jax.tree.map(lambda p, x: p - x[-1], params, solution.x)
    queried = jax.tree.map(lambda x: x[:-1], solution.x)
    scaled = trees.scaled(-1 / rows.count(train), queried)
    example = rows.take(train, 0)
    state = gram.layer_matrices(problem, params, example, scaled), there
    return Prepared(state, solution._replace(x=()))

  def score(problem, run, prepared, batch):
    del run
    vectors, there = prepared.state
    return influence.inner_products(problem, there, vectors, batch)

  def vectors(problem, run, prepared, batch):
    del run
    matrices, there = prepared.state
    example = rows.take(batch.examples, 0)
    return there, gram.vectors_of(problem, there, example, matrices)

  return Method(prepare, score, fit=fit, fits_as=inverse, vectors=vectors)


def objective_gradient(
  problem: Problem, params: PyTree, train: PyTree
) -> PyTree:
  """∇L(θ) = (1/N) Σ_i ∇loss_i + l2·θ, a batch of rows at a time."""

  def of_batch(batch):
    loss = lambda p: jnp.sum(batch.mask * losses(problem, p, batch.examples))
    return jax.grad(loss)(params)

  total = rows.total(of_batch, rows.stacked(train, ROWS_AT_ONCE))
  mean = trees.scaled(1 / rows.count(train), total)
  return trees.add(mean, params, problem.l2)
