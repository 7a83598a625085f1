"""Scores as covariances over models that are drawn around the trained one.

With w drawn from p(w) ∝ exp(−(N/T) L(w) − ...), L the mean loss, more weight on
row i moves the expected measure by

  d E[measure_q] / dε_i = −(1/T) Cov(loss_i(w), measure_q(w)) = score[i, q]

(Giordano et al. 2018, covariances and local robustness,
https://arxiv.org/abs/1709.02536; as a method of attribution, Kreer et al. 2025,
Bayesian influence functions, https://arxiv.org/abs/2509.26544). Where L is
quadratic and p is damped, Cov(w) = (T/N) (H + damping)⁻¹, and this is the score
of `influence`. Only losses and measures are computed, by forward passes: of any
model, by any term of the loss, and beyond first order. What is drawn is noisy: the
standard error of a score is about √((V_i V_q + Cov²) / D) / T of D independent
draws, V their variances.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import memory, parallel, trees
from tda_jax import problem as problem_lib
from tda_jax.data.rows import Batch
from tda_jax.methods.method import Prepared
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.trees import PyTree

MODELS_AT_ONCE = 16  # that are evaluated together


class Draws(NamedTuple):
  """Models, and what the loss of a row at them is multiplied by.

  Attributes:
    params: leaves [D, ...].
    weights: [D, Q], −(measure_dq − its mean) / (T (D − 1)).
  """

  params: PyTree
  weights: jax.Array


def prepared(
  problem: Problem, params: PyTree, queries: PyTree, temperature: float
) -> Prepared:
  """What scores need of D models.

  Args:
    params: of the models, leaves [D, ...].
    queries: rows, leaves [Q, ...].
    temperature: T.
  """
  queries = jax.tree.map(jnp.asarray, queries)
  measures = of_models(
    lambda one: problem_lib.measures(problem, one, queries), params
  )
  share = temperature * (trees.count(params) - 1)
  weights = -(measures - measures.mean(0)) / share
  return Prepared(parallel.held(Draws(params, weights)))


def score(
  problem: Problem, run: Run, prepared: Prepared, batch: Batch
) -> jax.Array:
  """−Cov(loss_b, measure_q)/T over the models, [B, Q]."""
  del run
  return _products(problem_lib.losses, problem, prepared.state, batch)


def term_scores(
  problem: Problem, run: Run, prepared: Prepared, batch: Batch
) -> jax.Array:
  """−Cov(term_bt, measure_q)/T, [B, ..., Q]; their sum over t is the score."""
  del run
  return _products(problem_lib.terms, problem, prepared.state, batch)


def _products(losses, problem, draws: Draws, batch):
  values = of_models(
    lambda one: losses(problem, one, batch.examples), draws.params
  )
  # The weights sum to 0: this only keeps digits.
  return jnp.tensordot(values - values.mean(0), draws.weights, ((0,), (0,)))


def of_models(function: Callable[[PyTree], PyTree], params: PyTree) -> PyTree:
  """`function` of each of D models, leaves [D, ...], some at a time."""
  size = min(MODELS_AT_ONCE, trees.count(params))
  return jax.lax.map(function, params, batch_size=size)


def normal(key: jax.Array, like: PyTree) -> PyTree:
  """Standard normal numbers, of the shapes of `like`; each leaf has its key."""
  leaves, structure = jax.tree.flatten(like)
  keys = jax.random.split(key, len(leaves))
  drawn = [
    jax.random.normal(k, x.shape, x.dtype)
    for k, x in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, drawn)


def check_draws(draws: int, params: PyTree, limit: float) -> None:
  """Raises ValueError for fewer than two draws, or more than memory holds."""
  if draws < 2:
    raise ValueError(
      f'draws={draws}: give at least 2, of which a covariance is taken'
    )
  memory.check(
    4 * draws * trees.size(params),
    limit,
    f'{draws} models of {trees.size(params)} parameters',
    'give fewer draws',
  )
