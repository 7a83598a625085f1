"""Bayesian influence functions: covariances along chains of Langevin dynamics.

  score[i, q] = −(1/T) Cov(loss_i(w), measure_q(w)),
  p(w) ∝ exp(−(N/T) [L(w) + ½·l2·‖w‖² + ½·damping·‖w − θ‖²])

(Kreer et al. 2025, https://arxiv.org/abs/2509.26544, who write nβ for N/T and γ
for damping·N/T, so that damping = γ/(nβ)). The chains start at θ and are of
stochastic gradient Langevin dynamics (Welling & Teh 2011,
https://dl.acm.org/doi/10.5555/3104482.3104568), in coordinates z:

  z ← z − η ∇_z [L_B + ½·l2·‖w‖² + ½·damping·‖w − θ‖²] + √(2ηT/N) ξ,   w = θ + Cz,

L_B the mean loss of a minibatch. C = I, or with a Kronecker preconditioner P its
root, C = P^(−½): the same posterior in coordinates in which its covariance is
nearly T/N, so that a chain forgets in about 1/η steps, not in 1/(η·damping).
Where L is quadratic with curvature H and L_B = L, the score is that of `influence`
times I − (η/2)Cᵀ(H + damping)C: the step makes it too large by at most η/2 of
the largest curvature, in the stiffest directions.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import door, trees
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.data import rows as rows_lib
from tda_jax.data.rows import count
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse
from tda_jax.layers import find as layers_lib
from tda_jax.methods import covariance
from tda_jax.methods.method import Method
from tda_jax.problem import Problem, losses
from tda_jax.settings import kept
from tda_jax.trees import PyTree

SHARE = (
  0.2  # of 1/μ, μ the largest curvature: the step size where none is given
)
ROUNDS = 20  # of power iteration


@kept
def bayesian_influence(
  damping: float,
  *,
  precondition: Inverse | None = None,
  chains: int = 10,
  draws: int = 100,
  steps: int = 10,
  burn_in: int = 100,
  step_size: float | None = None,
  batch_size: int = 256,
  temperature: float = 1.0,
  memory_limit: float = 8e9,
) -> Method:
  """Scores as covariances along SGLD chains around the trained model.

  They are in the measure's unit, for the removal of a row; positive supports.

  Args:
    damping: of the posterior, as in `influence`.
    precondition: `kfac`, `ekfac` or `diagonal`, for C; None: C = I.
    chains: that run side by side, each with a key of its own.
    draws: models kept of each chain; all are in memory, rows are not.
    steps: of a chain from one of them to the next.
    burn_in: steps before the first.
    step_size: η; None: SHARE/μ, μ the largest eigenvalue of the objective's
      Hessian in z, by power iteration on a minibatch.
    batch_size: rows a step, drawn with replacement; all of them where it is N or
      more. Minibatches add noise to that of the posterior, by the share
      η·N/(2T·batch_size) of the gradients' variance in z: below T = 1 give all.
    temperature: T.
    memory_limit: bytes that the models may take.

  Raises:
    ValueError: another preconditioner or damping; more draws than fit.
  """
  _check_settings(damping, precondition)

  def prepare(problem, run, train, queries, key):
    inverse_lib.check_damping(damping, problem.l2)
    covariance.check_draws(chains * draws, run.params, memory_limit)
    fit_key, chain_key, size_key = jax.random.split(key, 3)
    chart = _chart(precondition, problem, run.params, train, fit_key)
    slope = jax.grad(_objective(problem, run.params, chart, damping))
    drawn = functools.partial(_drawn, train, min(batch_size, count(train)))
    rate = step_size
    if rate is None:
      batch = trees.row(drawn(size_key[None]), 0)
      rate = SHARE / _largest(lambda z: slope(z, batch), chart.start, size_key)
    noise = jnp.sqrt(2 * rate * temperature / count(train))
    numbers = jnp.arange(chains)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(chain_key, numbers)

    def step(z, number):
      here = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
      pairs = jax.vmap(jax.random.split)(here)
      slopes = jax.vmap(slope)(z, drawn(pairs[:, 0]))
      moved = trees.add(z, slopes, -rate)
      return trees.add(
        moved, jax.vmap(covariance.normal)(pairs[:, 1], z), noise
      ), None

    def next_draw(z, first):
      z, _ = jax.lax.scan(step, z, first + jnp.arange(steps))
      return z, jax.vmap(chart.params)(z)

    z = jax.vmap(lambda _: chart.start)(numbers)
    z, _ = jax.lax.scan(step, z, jnp.arange(burn_in))
    firsts = burn_in + steps * jnp.arange(draws)
    _, models = jax.lax.scan(next_draw, z, firsts)
    models = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), models)
    return covariance.prepared(problem, models, queries, temperature)

  return Method(
    prepare,
    covariance.score,
    hint='lower step_size or temperature, or raise damping',
    terms=covariance.term_scores,
  )


def _check_settings(damping, precondition):
  if isinstance(damping, str):
    raise ValueError(f'damping={damping!r}: give a number from 0')
  if precondition is not None:
    door.check_inverse(precondition)
    if precondition.scale is None:
      raise ValueError(
        'precondition is an inverse without Kronecker factors: give kfac, ekfac or'
        ' diagonal'
      )


class _Chart(NamedTuple):
  """The coordinates z of a chain: where θ is, and z -> w = θ + Cz."""

  start: PyTree
  params: Callable[[PyTree], PyTree]


def _chart(precondition, problem, params, train, key) -> _Chart:
  """C = I by `precondition` None, else the root of its inverse."""
  if precondition is None:
    start = jax.tree.map(jnp.zeros_like, params)
    return _Chart(start, lambda z: jax.tree.map(jnp.add, params, z))
  state = precondition.fit(problem, params, train, key)
  roots = jax.tree.map(jnp.sqrt, precondition.scale(state, problem).factors)
  example = rows_lib.take(train, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)

  def there(z):
    turned = {name: root * z[name] for name, root in roots.items()}
    moved = blocks_lib.unrotated(state.blocks, layers, turned, params)
    return jax.tree.map(jnp.add, params, moved)

  return _Chart(jax.tree.map(jnp.zeros_like, roots), there)


def _objective(problem: Problem, params, chart: _Chart, damping):
  """(z, batch) -> mean loss + ½·l2·‖w‖² + ½·damping·‖w − θ‖²."""

  def objective(z, batch):
    there = chart.params(z)
    away = jax.tree.map(jnp.subtract, there, params)
    square = lambda tree: sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))
    held = problem.l2 * square(there) + damping * square(away)
    return losses(problem, there, batch).mean() + 0.5 * held

  return objective


def _drawn(train, size, keys):
  """Examples of a minibatch for each key, [C, B, ...]; all N where B is N."""
  n = count(train)
  if size == n:
    index = jnp.broadcast_to(jnp.arange(n), (len(keys), n))
  else:
    index = jax.vmap(lambda key: jax.random.randint(key, (size,), 0, n))(keys)
  rows = rows_lib.take(train, index.ravel())
  return jax.tree.map(lambda x: x.reshape(*index.shape, *x.shape[1:]), rows)


def _largest(slope, start, key):
  """The largest |eigenvalue| of a slope's derivative, by power iteration."""

  def once(vector, _):
    size = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(vector)))
    unit = jax.tree.map(lambda x: x / size, vector)
    return jax.jvp(slope, (start,), (unit,))[1], size

  _, sizes = jax.lax.scan(once, covariance.normal(key, start), None, ROUNDS + 1)
  return sizes[-1]
