"""TracIn: the first-order effect of a row over a whole run, by checkpoints.

Pruthi et al. 2020, https://arxiv.org/abs/2002.08484.
"""

import jax
import jax.numpy as jnp

from tda_jax.data import rows as rows_lib
from tda_jax.methods.gradients import dots, factors_of, self_products
from tda_jax.methods.method import Method, Prepared, check_checkpoints
from tda_jax.problem import bound
from tda_jax.settings import kept


@kept
def tracin() -> Method:
  """score[i, q] = −(1/N) Σ_c η_c·t_c ∇measure_q(θ_c) · ∇loss_i(θ_c).

  TracInCP: η_c is the mean learning rate of the t_c steps since the checkpoint
  before. A step of SGD adds −η/N ∇loss_i of row i (its share of the mean over a
  batch, in expectation). So the score estimates what the measure would lose if
  the run had been without the row, in the measure's unit, to first order, with
  each checkpoint standing for the steps before it. This holds for SGD without
  momentum; a momentum μ makes every step up to 1/(1 − μ) times as long, and with
  Adam the scale means nothing.

  The run needs `checkpoints` (`train(..., checkpoints=C)`). No gradient is formed:
  see `curvature.gram`.

  Raises:
    ValueError: the run has no checkpoints.
  """

  def shares(run, train):
    """η_c·t_c / N of each checkpoint."""
    check_checkpoints(run, 'tracin')
    steps = jnp.diff(jnp.asarray(run.steps), prepend=0)
    return jnp.asarray(run.learning_rates) * steps / rows_lib.count(train)

  def prepare(problem, run, train, queries, key):
    del key
    share = shares(run, train)

    def of_checkpoint(checkpoint):
      params, held = checkpoint
      return factors_of(bound(problem, held), params, queries)

    checkpoints = (run.checkpoints, run.frozen)
    return Prepared((jax.lax.map(of_checkpoint, checkpoints), share))

  def score(problem, run, prepared, batch):
    def of_checkpoint(checkpoint):
      params, held, factors, share = checkpoint
      return share * dots(bound(problem, held), params, batch, factors)

    checkpoints = (run.checkpoints, run.frozen, *prepared.state)
    return -jax.lax.map(of_checkpoint, checkpoints).sum(0)

  def self_influence(problem, run, train, key):
    del key

    def of_checkpoint(checkpoint):
      params, held, share = checkpoint
      return share * self_products(bound(problem, held), params, train)

    checkpoints = (run.checkpoints, run.frozen, shares(run, train))
    return -jax.lax.map(of_checkpoint, checkpoints).sum(0)

  return Method(prepare, score, self_influence=self_influence)
