"""Stochastic descent on ½ xᵀ(A + damping)x − vᵀx: Neumann, LiSSA and ASTRA.

One function; what differs is the preconditioner P and the start:

  r_k     = (A_k + damping) x_k − v        A_k: GGN of a fresh minibatch
  m_{k+1} = momentum · m_k + P⁻¹ r_k
  x_{k+1} = x_k − α_k m_{k+1}

Neumann (ASTRA paper, Eq. 7): P = I, x₀ = v, no momentum.
LiSSA (Agarwal et al. 2017): the same from x₀ = α₀v, with α₀ = 1/scale, which
makes x_k the series Σ_{j≤k} (I − (A + damping)/scale)ʲ v/scale; the mean of R
such runs.
ASTRA (Wang et al. 2025, Eq. 9): P = EKFAC + damping, x₀ = P⁻¹ v, momentum 0.9,
α_k falling in steps.

Minibatch noise leaves a residual that a smaller step removes only slowly. With
`rounds` > 1 the same descent is applied to what is left, x ← x + solve(v − (A +
damping)x), until the residual over all rows is below `tolerance` (iterative
refinement): each round multiplies it by about the factor that the first one
reached. Where that is not below 1, a round is left out for the queries whose
residual it would lengthen, and no further one follows if it is so for all.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.curvature import products
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import ekfac as ekfac_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse, Solution
from tda_jax.settings import kept


@kept
def neumann(damping, **kwargs) -> Inverse:
  """(G + damping)⁻¹ v by the truncated Neumann series (ASTRA paper, Eq. 7).

  `descent` with its defaults: see there for the arguments.
  """
  return descent(damping, **kwargs)


class Descent(NamedTuple):
  """What one round follows."""

  product: Callable  # (run, step) -> the damped product of its minibatch
  direction: Callable  # P⁻¹
  rate: Callable  # step -> α
  momentum: float
  repeats: int  # R
  start: float  # times P⁻¹ v is x₀


@kept
def lissa(
  damping,
  *,
  scale: float | None = None,
  repeats: int = 1,
  **kwargs,
) -> Inverse:
  """(A + damping)⁻¹ v by LiSSA, the mean of R runs (Agarwal et al. 2017).

  y_{k+1} = v + (I − (A_k + damping)/scale) y_k from y₀ = v; x = y/scale. Damping
  is added to A before it is scaled, so that it means what it does everywhere.

  Args:
    scale: above half the largest eigenvalue of a minibatch's A + damping, or
      the series diverges; None: that eigenvalue, by power iteration.
    repeats: R; minibatch noise falls as 1/√R.
    Others: see `descent`; Koh & Liang 2017 use curvature='hessian'.

  Raises:
    ValueError: scale is not above 0.
  """
  if scale is not None and not scale > 0:
    raise ValueError(
      f'scale={scale} of lissa divides the curvature: give a number above its'
      ' largest eigenvalue, or None to have it found'
    )
  return descent(
    damping,
    step_size=None if scale is None else 1 / scale,
    scaled_start=True,
    repeats=repeats,
    **kwargs,
  )


@kept
def astra(
  damping,
  *,
  precondition: Inverse | None = None,
  momentum: float = 0.9,
  decay: float = 0.5,
  **kwargs,
) -> Inverse:
  """(G + damping)⁻¹ v by EKFAC-preconditioned descent (ASTRA paper, Eq. 9).

  The paper's schedule is step_per_damping=0.1 (in most settings, Table 3),
  decay 0.5 every 50 of 200 steps, one round. Without a step size, one is found.

  Args:
    precondition: None: EKFAC at the same damping. Others: see `descent`.
  """
  return descent(
    damping,
    precondition=precondition or ekfac_lib.ekfac(damping),
    momentum=momentum,
    decay=decay,
    **kwargs,
  )


@kept
def descent(
  damping,
  *,
  precondition: Inverse | None = None,
  steps: int = 200,
  step_size: float | None = None,
  step_per_damping: float | None = None,
  momentum: float = 0.0,
  decay: float = 1.0,
  decay_every: int = 50,
  batch_size: int = 256,
  rounds: int = 1,
  tolerance: float = 1e-2,
  reports: int = 1,
  repeats: int = 1,
  scaled_start: bool = False,
  curvature: str = 'ggn',
) -> Inverse:
  """(A + damping)⁻¹ v by minibatch descent; see the module's formulas.

  Args:
    damping: a number, or 'heuristic' (needs a Kronecker preconditioner).
    precondition: KFAC, EKFAC or a diagonal for P, whose solution is also the
      start x₀; None: P = I and x₀ = v.
    steps: of one round.
    step_size: α₀; None: see `automatic_step_size`.
    step_per_damping: c of the paper's rule α₀ = c·damping, instead.
    decay: α_k = α₀ · decay^⌊k / decay_every⌋, anew in every round.
    batch_size: rows a step, drawn with replacement, the same for all queries.
    rounds: at most so many rounds; the last is the one after which every
      query's residual is below `tolerance`, or which shortened none.
    reports: how often a round measures the residual over all rows, at equal
      distances, the last at its end; each costs one product with all rows.
    repeats: runs with minibatches of their own, one after the other, whose mean
      is the solution of a round.
    scaled_start: starts from α₀x₀ instead, as LiSSA.
    curvature: 'ggn' or 'hessian'; on an indefinite Hessian the descent diverges.
  """
  coordinates_lib.check_curvature(curvature)
  if repeats < 1:
    raise ValueError(f'repeats={repeats}: give at least 1')
  if step_size is not None and step_per_damping is not None:
    raise ValueError('give step_size or step_per_damping, not both')
  if steps % reports:
    raise ValueError(f'reports={reports} does not divide steps={steps}')

  def fit(problem, params, train, key):
    inverse_lib.positive(damping, problem.l2)
    if precondition is None:
      return None
    return precondition.fit(problem, params, train, key)

  def solve(state, problem, params, train, vectors, key):
    shift = system_damping(damping, state)
    space = coordinates_lib.coordinates(
      state, problem, params, train, curvature
    )
    v = space.enter(vectors)
    along = inverse_lib.linearised(space, train, trees.count(v), batch_size)
    draw = jax.random.fold_in(key, 0)

    def product(step):
      batch = _drawn(train, batch_size, jax.random.fold_in(draw, step))
      return products.damped(along(batch), shift)

    alpha = step_size
    if step_per_damping is not None:
      alpha = step_per_damping * shift
    if alpha is None:
      alpha = automatic_step_size(
        product, space.precondition, _probe(v, key), momentum
      )
    rate = lambda k: alpha * decay ** (k // decay_every)
    x, trace, done = _rounds(
      Descent(
        # Every run draws its own minibatches; run 0 the same, whatever R.
        product=lambda run, step: product(run * steps * rounds + step),
        direction=space.precondition,
        rate=rate,
        momentum=momentum,
        repeats=repeats,
        start=alpha if scaled_start else 1.0,
      ),
      inverse_lib.damped(along, train, batch_size, shift),
      v,
      steps,
      rounds,
      reports,
      tolerance,
    )
    every = jnp.arange(rounds * reports + 1)
    return Solution(
      space.leave(x),
      residuals=trace,
      steps=jnp.minimum(every, done * reports) * (steps // reports),
      converged=trace[-1] < tolerance,
      # Far above its start and no solution at all; noise alone is not.
      diverged=~(trace[-1] <= 10 * jnp.maximum(trace[0], 1.0)),
      damping=jnp.asarray(shift, jnp.float32),
    )

  return inverse_lib.inverse(fit, solve)


def automatic_step_size(
  product: Callable, direction: Callable, probe, momentum: float, rounds=20
) -> jax.Array:
  """α₀ = (1 − momentum)/μ, μ the largest eigenvalue of P⁻¹(G_k + damping).

  By power iteration, every round with its own minibatch, the mean growth of
  the later half. Without noise the heavy ball is stable up to
  2(1 + momentum)/μ; minibatch noise takes the momentum's advantage away, and
  what must stay below 2/μ is α₀/(1 − momentum).

  Args:
    product: step -> the damped product of a minibatch, on stacks.
    probe: a random stack of one vector.
  """

  def round_(probe, step):
    probe = trees.scaled(1 / trees.norms(probe), probe)
    probe = direction(product(2**30 + step)(probe))
    return probe, jnp.log(trees.norms(probe)[0])

  _, growth = jax.lax.scan(round_, probe, jnp.arange(rounds))
  return (1 - momentum) / jnp.exp(growth[rounds // 2 :].mean())


def system_damping(damping, fitted: coordinates_lib.Fitted | None):
  """The damping of the whole system as one number.

  'heuristic' is 0.1 · mean eigenvalue over all layers of the preconditioner.
  """
  if damping != 'heuristic':
    return damping
  if fitted is None:
    raise ValueError(
      "damping='heuristic' is a share of the mean eigenvalue of a KFAC or"
      ' EKFAC preconditioner: give one, or a number'
    )
  return 0.1 * blocks_lib.mean_eigenvalue(fitted.blocks)


def _rounds(how: Descent, system, v, steps, rounds, reports, tolerance):
  """Iterative refinement: (x, residuals [1 + rounds·reports, Q], rounds)."""
  norms = trees.norms(v)
  norms = jnp.where(norms == 0, 1.0, norms)

  def unfinished(carry):
    *_, trace, done, shorter = carry
    open_ = jnp.any(trace[-1] >= tolerance) & jnp.any(shorter)
    return (done < rounds) & ((done == 0) | open_)

  def refine(carry):
    x, left, trace, done, _ = carry
    first = done * steps
    dx, rest, lengths = _descend(how, system, left, first, steps, reports)
    # The first is the algorithm's own; it may lengthen a good start by noise.
    shorter = (done == 0) | (lengths[-1] < trees.norms(left))
    x = trees.where(shorter, trees.add(x, dx), x)
    left = trees.where(shorter, rest, left)
    lengths = lengths.at[-1].set(trees.norms(left))
    at = jnp.arange(len(trace))
    new = (lengths / norms)[jnp.clip(at - done * reports, 0, reports)]
    fresh = (at > done * reports) | (done == 0)  # keep the last round's end
    trace = jnp.where(fresh[:, None], new, trace)
    return x, left, trace, done + 1, shorter

  zero = jax.tree.map(jnp.zeros_like, v)
  trace = jnp.zeros((1 + rounds * reports, len(norms)), norms.dtype)
  shorter = jnp.ones(len(norms), bool)
  x, _, trace, done, _ = jax.lax.while_loop(
    unfinished, refine, (zero, v, trace, 0, shorter)
  )
  return x, trace, done


def _descend(how: Descent, system, v, first, steps, reports):
  """One round: (mean x of the runs, v − system(x), norms [1 + reports, Q])."""

  def followed(run, ks):
    def step(carry, k):
      x, m = carry
      r = trees.add(how.product(which, first + k)(x), v, -1.0)
      m = trees.add(how.direction(r), m, how.momentum)
      return (trees.add(x, m, -how.rate(k)), m), None

    which, carry = run
    return which, jax.lax.scan(step, carry, ks)[0]

  def leg(carry, ks):
    runs, _, _ = carry
    runs = jax.lax.map(lambda run: followed(run, ks), runs)
    _, (x, _) = runs
    x = jax.tree.map(lambda leaf: leaf.mean(0), x)
    left = trees.add(v, system(x), -1.0)
    return (runs, x, left), trees.norms(left)

  x = trees.scaled(how.start, how.direction(v))
  left = trees.add(v, system(x), -1.0)
  pair = (x, jax.tree.map(jnp.zeros_like, x))
  pairs = jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (how.repeats, *leaf.shape)), pair
  )
  start = ((jnp.arange(how.repeats), pairs), x, left)
  ks = jnp.arange(steps).reshape(reports, -1)
  (_, x, end), lengths = jax.lax.scan(leg, start, ks)
  lengths = jnp.concatenate([trees.norms(left)[None], lengths])
  return x, end, lengths


def _probe(vectors, key):
  """A random stack of one vector."""
  keys = jax.random.split(
    jax.random.fold_in(key, 1), len(jax.tree.leaves(vectors))
  )
  keys = jax.tree.unflatten(jax.tree.structure(vectors), [*keys])
  return jax.tree.map(
    lambda k, x: jax.random.normal(k, (1, *x.shape[1:]), x.dtype), keys, vectors
  )


def _drawn(train, batch_size, key):
  """A minibatch drawn with replacement."""
  n = rows_lib.count(train)
  index = jax.random.randint(key, (batch_size,), 0, n)
  return rows_lib.Batch(
    rows_lib.take(train, index), index, jnp.ones(batch_size, jnp.float32)
  )
