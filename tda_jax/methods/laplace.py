"""Influence by models drawn from a Kronecker-factored Laplace posterior.

  score[i, q] = −(1/T) Cov(loss_i(w), measure_q(w)),
  w ~ N(θ, (T/N) (F + damping)⁻¹), F in the eigenbasis of the inverse's blocks

(the posterior: Ritter et al. 2018, https://openreview.net/forum?id=Skdvd2xAZ; the
covariance: `methods.covariance`). To first order in w − θ it is `influence` by the
same inverse; beyond that, losses and measures are the network's own.
"""

import jax
import jax.numpy as jnp

from tda_jax import door, parallel
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.data import rows
from tda_jax.inverses.inverse import Inverse
from tda_jax.layers import find as layers_lib
from tda_jax.methods import covariance
from tda_jax.methods import influence as influence_lib
from tda_jax.methods.method import Method
from tda_jax.settings import kept


@kept
def laplace_influence(
  inverse: Inverse,
  *,
  draws: int = 1000,
  temperature: float = 1.0,
  memory_limit: float = 8e9,
) -> Method:
  """Scores as covariances over draws from the Laplace posterior.

  They are in the measure's unit, for the removal of a row; positive supports.
  Draw d depends on the key and d alone, so that more draws keep the first ones.

  Args:
    inverse: `kfac`, `ekfac` or `diagonal`, whose damping is that of the posterior.
    draws: D; noise falls as 1/√D. All D models are in memory, rows are not.
    temperature: T; 0 in the limit is `influence`, and T > 1 looks further.
    memory_limit: bytes that the models may take.

  Raises:
    ValueError: another inverse; fewer than 2 draws, or more than fit.
  """
  door.check_inverse(inverse)
  if inverse.scale is None:
    raise ValueError(
      'laplace_influence draws models in the eigenbasis of Kronecker factors, which'
      ' this inverse has not: give kfac, ekfac or diagonal'
    )
  scale = inverse.scale
  fit = influence_lib.fit_of(inverse)

  def prepare(problem, run, train, queries, key, fitted=None):
    covariance.check_draws(draws, run.params, memory_limit)
    state = fit(problem, run, train, key) if fitted is None else fitted
    factors = scale(state, problem).factors
    share = temperature / rows.count(train)
    roots = {name: jnp.sqrt(share * f) for name, f in factors.items()}
    _, draw_key = jax.random.split(key)
    example = rows.take(train, 0)
    layers = layers_lib.find(
      problem.outputs, run.params, example, problem.as_leaf
    )

    def one(number):
      noise = covariance.normal(jax.random.fold_in(draw_key, number), roots)
      # Symmetric roots: with noise in the basis itself, draws would change with
      # the signs of its vectors, which rounding decides.
      moved = {
        name: root * blocks_lib.in_basis(state.blocks[name], noise[name])
        for name, root in roots.items()
      }
      there = blocks_lib.unrotated(state.blocks, layers, moved, run.params)
      return jax.tree.map(jnp.add, run.params, there)

    # Of several devices, each draws some.
    models = parallel.apart(
      lambda numbers: covariance.of_models(one, numbers), jnp.arange(draws)
    )
    return covariance.prepared(problem, models, queries, temperature)

  return Method(
    prepare,
    covariance.score,
    hint='raise damping, or lower temperature',
    fit=fit,
    fits_as=inverse,
    terms=covariance.term_scores,
  )
