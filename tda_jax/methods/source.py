"""SOURCE: training unrolled in segments, each with one curvature.

Training is cut into L segments of C/L checkpoints. In segment l the gradient
ḡ_l(z) of a row and the curvature G_l are taken as constant, η_l K_l is the sum
of its learning rates, and from the last segment to the first

  u_L      = ∇measure_q(θ_T),
  score   −= (1/N) u_lᵀ r_l ḡ_l(z),   r_l = (1 − exp(−η_l K_l G_l)) G_l⁻¹,
  u_{l−1}  = exp(−η_l K_l G_l) u_l,

Bae et al. 2024, https://arxiv.org/abs/2405.12186. G_l is the EKFAC of the
segment's checkpoints, plus l2. With a solver, r_l is (G_l + 1/(η_l K_l))⁻¹ instead,
solved at the mean of the segment's weights (ASTRA-SOURCE: Wang et al. 2025, App. C,
option 3, https://arxiv.org/abs/2507.14740). L = 1 is then influence with damping
1/(ηK).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.curvature import ekfac, products
from tda_jax.curvature.gram import layer_matrices
from tda_jax.data import rows
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse, Solution
from tda_jax.methods.influence import inner_products
from tda_jax.methods.method import Method, Prepared, check_checkpoints
from tda_jax.problem import bound
from tda_jax.settings import kept
from tda_jax.trees import PyTree


class Segment(NamedTuple):
  """A part of training that has one curvature."""

  params: PyTree  # of its first checkpoint
  span: jax.Array  # η_l K_l, the sum of its learning rates
  blocks: dict[str, ekfac.Block]  # the EKFAC of its checkpoints


@kept
def source(
  segments: int = 3,
  momentum: float = 0.9,
  solver: Callable[[jax.Array], Inverse] | None = None,
  *,
  labels: str = 'sampled',
  batch_size: int = 256,
) -> Method:
  """SOURCE by EKFAC, or with a solver ASTRA-SOURCE and the like.

  It is made for SGD; the steps of other optimizers are not proportional to their
  learning rate.

  Args:
    segments: L, of equally many checkpoints each.
    momentum: of the optimizer, whose rate it multiplies by 1/(1 − momentum)
      (terminal velocity).
    solver: damping -> Inverse, for example `exact`, `cg` or `astra`, for r_l at
      the damping 1/(η_l K_l), which is a traced number; None: r_l of the EKFAC.
      exp(−η_l K_l G_l) is EKFAC's either way.
    labels, batch_size: of the EKFAC; see `curvature.ekfac.fit`.

  Raises:
    ValueError: the run has no checkpoints, or not a multiple of `segments`;
      `momentum` is not in [0, 1).
  """

  def prepare(problem, run, train, queries, key):
    parts = _parts(run, segments)
    spans = _spans(run, segments, momentum)
    example = rows.take(train, 0)
    stack = rows.stacked(train, batch_size)
    u = products.gradients(problem.measure, problem, run.params, queries)
    solutions = []
    for i in reversed(range(segments)):
      part, span = trees.row(parts, i), spans[i]
      segment_key = jax.random.fold_in(key, i)
      checkpoints, held = part
      blocks = ekfac.fit_average(
        problem, checkpoints, stack, segment_key, frozen=held, labels=labels
      )
      segment = Segment(trees.row(checkpoints, 0), span, blocks)
      if solver is None:
        responded = _filtered(response, segment, problem, example, u)
        x = inverse_lib.closed_form(responded, 1 / span)
      else:
        x = _solved(solver(1 / span), problem, part, train, u, segment_key)
      finite = jnp.isfinite(trees.norms(x.x))
      solutions.append(x._replace(diverged=x.diverged | ~finite))
      if i:
        u = _filtered(decay, segment, problem, example, u)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *reversed(solutions))
    scale = -1 / (rows.count(train) * trees.count(trees.row(parts[0], 0)))
    vectors = jax.vmap(
      lambda x: layer_matrices(
        problem, run.params, example, trees.scaled(scale, x)
      )
    )(stacked.x)
    return Prepared(vectors, _worst(stacked))

  def score(problem, run, prepared, batch):
    def of_segment(segment):
      part, vectors = segment

      def at(checkpoint):
        params, held = checkpoint
        return inner_products(bound(problem, held), params, vectors, batch)

      return jax.lax.map(at, part).sum(0)

    parts = _parts(run, segments)
    return jax.lax.map(of_segment, (parts, prepared.state)).sum(0)

  return Method(prepare, score)


def response(values: jax.Array, span: jax.Array) -> jax.Array:
  """(1 − exp(−span·s))/s, which is span at s = 0; r_l on eigenvalues s."""
  t = span * values
  flat = t == 0
  return span * jnp.where(flat, 1, -jnp.expm1(-t) / jnp.where(flat, 1, t))


def decay(values: jax.Array, span: jax.Array) -> jax.Array:
  """exp(−span·s), on eigenvalues s."""
  return jnp.exp(-span * values)


def _filtered(function, segment: Segment, problem, example, u):
  """f(G_l) u for a stack of vectors, f one of `response` and `decay`."""
  scale = lambda _, values: function(values + problem.l2, segment.span)
  return ekfac.apply(segment.blocks, scale, problem, segment.params, example, u)


def _solved(inverse, problem, part, train, u, key):
  """The inverse's solution at the mean of the segment's weights."""
  params, held = jax.tree.map(lambda x: jnp.mean(x, 0), part)
  problem = bound(problem, held)
  fit_key, solve_key = jax.random.split(jax.random.fold_in(key, 2))
  state = inverse.fit(problem, params, train, fit_key)
  return inverse.solve(state, problem, params, train, u, solve_key)


def _worst(solutions: Solution) -> Solution:
  """One report of L solutions: at each step that of the worst segment."""
  return Solution(
    (),
    residuals=solutions.residuals.max(0),
    steps=solutions.steps.max(0),
    converged=solutions.converged.all(0),
    diverged=solutions.diverged.any(0),
    damping=solutions.damping.mean(),
  )


def _parts(run, segments):
  """(checkpoints, their frozen values) by segment, leaves [L, C/L, ...]."""
  check_checkpoints(run, 'source')
  count = trees.count(run.checkpoints)
  if count % segments:
    raise ValueError(
      f'{count} checkpoints cannot be cut into {segments} equal segments: train'
      f' with a multiple, for example checkpoints={2 * segments}'
    )
  shape = (segments, count // segments)
  return jax.tree.map(
    lambda x: jnp.reshape(x, (*shape, *x.shape[1:])),
    (run.checkpoints, run.frozen),
  )


def _spans(run, segments, momentum):
  """η_l K_l: the learning rates of each segment's steps, summed, [L]."""
  steps = jnp.diff(jnp.asarray(run.steps), prepend=0)
  rates = (jnp.asarray(run.learning_rates) * steps).reshape(segments, -1)
  return rates.sum(1) / (1 - momentum)
