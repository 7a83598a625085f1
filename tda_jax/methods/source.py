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

A step of Adam goes along P g, P = diag(v)^(−1/2) of its second moments v (ε is
neglected), which are taken as constant in a segment too. In φ = P^(−1/2) θ that is
SGD, so that

  r_l = P^½ (1 − exp(−η_l K_l G′)) G′⁻¹ P^½,   u_{l−1} = P^(−½) exp(−η_l K_l G′) P^½ u_l,

G′ = P^½ G P^½. An EKFAC of G′ needs a P^½ that scales inputs and output gradients
apart: in each layer v_io ≈ r_i c_o / mean(v), r and c the means of its rows and
columns (Adafactor: Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235), so
P^½ = D_p ⊗ D_q, and G′ is the EKFAC of inputs a D_p and output gradients δ D_q.
Where v = 0 a parameter has not moved, and P is 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.curvature import ekfac, factored, products
from tda_jax.curvature.gram import layer_matrices
from tda_jax.data import rows
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse
from tda_jax.methods.influence import inner_products, solved
from tda_jax.methods.method import Method, Prepared, check_checkpoints
from tda_jax.problem import bound
from tda_jax.settings import kept
from tda_jax.trees import PyTree

OPTIMIZERS = ('sgd', 'adam')


class Segment(NamedTuple):
  """A part of training that has one curvature G′; G for SGD."""

  params: PyTree  # of its first checkpoint
  span: jax.Array  # η_l K_l, the sum of its learning rates
  blocks: dict[str, ekfac.Block]  # the EKFAC of its checkpoints, and l2
  back: dict[str, ekfac.Block]  # with the bases P^(−½) Q
  weights: dict[str, jax.Array]  # P on axes that have no basis


@kept
def source(
  segments: int = 3,
  momentum: float = 0.9,
  solver: Callable[[jax.Array], Inverse] | None = None,
  *,
  optimizer: str = 'sgd',
  labels: str = 'sampled',
  batch_size: int = 256,
) -> Method:
  """SOURCE by EKFAC, or with a solver ASTRA-SOURCE and the like.

  Args:
    segments: L, of equally many checkpoints each.
    momentum: of SGD, whose rate it multiplies by 1/(1 − momentum) (terminal
      velocity).
    solver: damping -> Inverse, for example `exact`, `cg` or `astra`, for r_l at
      the damping 1/(η_l K_l), which is a traced number; None: r_l of the EKFAC.
      exp(−η_l K_l G_l) is EKFAC's either way.
    optimizer: 'sgd' or 'adam', which needs the run's `second_moments`; AdamW is
      'adam', without the decay of its weights.
    labels, batch_size: of the EKFAC; see `curvature.ekfac.fit`.

  Raises:
    ValueError: the run has no checkpoints, or not a multiple of `segments`, or
      no second moments for Adam; `momentum` is not in [0, 1); Adam with a solver.
  """
  if optimizer not in OPTIMIZERS:
    raise ValueError(f'optimizer={optimizer!r}: use one of {OPTIMIZERS}')
  adam = optimizer == 'adam'
  if adam and solver is not None:
    raise ValueError(
      "optimizer='adam' goes by EKFAC alone, whose damping differs for every"
      ' parameter: leave the solver out'
    )

  def prepare(problem, run, train, queries, key):
    parts = _parts(run, segments)
    spans = _spans(run, segments, 0.0 if adam else momentum)
    moments = _mean_moments(run, segments) if adam else None
    example = rows.take(train, 0)
    stack = rows.stacked(train, batch_size)
    u = products.gradients(problem.measure, problem, run.params, queries)
    solutions = []
    for i in reversed(range(segments)):
      part, span = trees.row(parts, i), spans[i]
      segment_key = jax.random.fold_in(key, i)
      v = None if moments is None else trees.row(moments, i)
      segment = _segment(problem, part, stack, segment_key, span, labels, v)
      if solver is None:
        x = _responded(segment, problem, example, u)
      else:
        x = _solved(solver(1 / span), problem, part, train, u, segment_key)
      solutions.append(x)
      if i:
        u = _decayed(segment, problem, example, u)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *reversed(solutions))
    scale = -1 / (rows.count(train) * trees.count(trees.row(parts[0], 0)))
    scaled = trees.scaled(scale, stacked.x)
    of_segment = lambda x: layer_matrices(problem, run.params, example, x)
    vectors = jax.vmap(of_segment)(scaled)
    return Prepared(vectors, inverse_lib.worst(stacked))

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
  """exp(−span·s) − 1, on eigenvalues s."""
  return jnp.expm1(-span * values)


def _responded(segment: Segment, problem, example, u):
  """The Solution r_l u for a stack of vectors."""
  of = lambda name, s: segment.weights[name] * response(s, segment.span)
  x = ekfac.apply(segment.blocks, of, problem, segment.params, example, u)
  solution = inverse_lib.closed_form(x, 1 / segment.span)
  return solution._replace(diverged=~jnp.isfinite(trees.norms(x)))


def _decayed(segment: Segment, problem, example, u):
  """u_{l−1} of u_l for a stack of vectors."""
  of = lambda _, s: decay(s, segment.span)
  change = ekfac.apply(
    segment.blocks, of, problem, segment.params, example, u, segment.back
  )
  return trees.add(u, change)


def _segment(problem, part, stack, key, span, labels, moments) -> Segment:
  """Fits the curvature of a segment.

  Args:
    part: (checkpoints, their frozen values).
    moments: second moments of Adam; None: P = I.
  """
  checkpoints, held = part
  start, scales = trees.row(checkpoints, 0), None
  if moments is not None:
    example = rows.first(stack)
    scales = factored.powers(problem, start, example, moments, -0.25)  # P^½
  blocks = ekfac.fit_average(
    problem,
    checkpoints,
    stack,
    key,
    frozen=held,
    labels=labels,
    scales=scales,
  )
  back, weights = {}, {}
  for name, block in blocks.items():
    p, q = scales[name] if scales else (jnp.ones(()), jnp.ones(()))
    a, norms_a, back_a = _axis(block.inputs, p)
    s, norms_s, back_s = _axis(block.outputs, q)
    weights[name] = a[..., :, None] * s[..., None, :]
    norms = norms_a[..., :, None] * norms_s[..., None, :]
    values = weights[name] * block.eigenvalues + problem.l2 * norms
    blocks[name] = block._replace(eigenvalues=values)
    back[name] = ekfac.Block(back_a, back_s, values)
  return Segment(start, span, blocks, back, weights)


def _axis(basis, scale):
  """What an axis of a layer adds to P and l2·P: (P without a basis, the diagonal
  of QᵀPQ, the basis P^(−½) Q).

  Args:
    basis: P^½ Q, or None, where the axis has no basis.
    scale: P^½ of the axis, or a single 1.
  """
  scale = jnp.atleast_1d(scale)
  if basis is None:
    return scale**2, scale**2, None
  inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1) ** 2, 0)
  norms = jnp.sum(basis**2, -2)
  return jnp.ones(1, norms.dtype), norms, inverse[..., None] * basis


def _solved(inverse, problem, part, train, u, key):
  """The inverse's solution at the mean of the segment's weights."""
  params, held = jax.tree.map(lambda x: jnp.mean(x, 0), part)
  problem = bound(problem, held)
  key = jax.random.fold_in(key, 2)
  fit_key, _ = jax.random.split(key)
  state = inverse.fit(problem, params, train, fit_key)
  return solved(inverse, state, problem, params, train, u, key)


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


def _mean_moments(run, segments):
  """The mean of each segment's second moments, leaves [L, ...]."""
  if run.second_moments is None:
    raise ValueError(
      "source with optimizer='adam' reads the second moments of Adam, and this"
      ' run has none: train with optax.adam or adamw and checkpoints=C, or give a'
      ' Run with `second_moments`'
    )
  return jax.tree.map(
    lambda x: x.reshape(segments, -1, *x.shape[1:]).mean(1), run.second_moments
  )


def _spans(run, segments, momentum):
  """η_l K_l: the learning rates of each segment's steps, summed, [L]."""
  steps = jnp.diff(jnp.asarray(run.steps), prepend=0)
  rates = (jnp.asarray(run.learning_rates) * steps).reshape(segments, -1)
  return rates.sum(1) / (1 - momentum)
