"""Stochastic descent on ½ xᵀ(A + damping)x − vᵀx: Neumann, LiSSA and ASTRA.

One function; what differs is the preconditioner P and the start:

  r_k     = (A_k + damping) x_k − v        A_k: GGN of a fresh minibatch
  m_{k+1} = momentum · m_k + P⁻¹ r_k
  x_{k+1} = x_k − α_k m_{k+1}

Neumann (ASTRA paper, Eq. 7): P = I, x₀ = v, no momentum.
LiSSA (Agarwal et al. 2017, https://arxiv.org/abs/1602.03943): the same from
x₀ = α₀v, with α₀ = 1/scale, which makes x_k the series
Σ_{j≤k} (I − (A + damping)/scale)ʲ v/scale; the mean of R such runs.
ASTRA (Wang et al. 2025, Eq. 9, https://arxiv.org/abs/2507.14740): P = EKFAC +
damping, x₀ = P⁻¹ v, momentum 0.9, α_k falling in steps.

Minibatch noise causes a residual that a smaller step removes only slowly. With
`rounds` > 1 the same descent is applied to the residual, x ← x + solve(v − (A +
damping)x), until the residual over all rows is below `tolerance` (iterative
refinement): each round multiplies it by about the factor that the first one
reached. A query keeps its solution in a round that would lengthen its residual;
the rounds end once that is so for every query.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.curvature import products
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import ekfac as ekfac_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Damping, Inverse, Solution
from tda_jax.inverses.rounds import Descent, Refinement, refined
from tda_jax.settings import kept
from tda_jax.trees import PyTree


@kept
def neumann(damping: Damping, **kwargs: Any) -> Inverse:
  """(G + damping)⁻¹ v by the truncated Neumann series (ASTRA paper, Eq. 7).

  `descent` with its defaults: see there for the arguments.
  """
  return descent(damping, **kwargs)


@kept
def lissa(
  damping: Damping,
  *,
  scale: float | None = None,
  repeats: int = 1,
  **kwargs: Any,
) -> Inverse:
  """(A + damping)⁻¹ v by LiSSA, the mean of R runs (Agarwal et al. 2017).

  y_{k+1} = v + (I − (A_k + damping)/scale) y_k from y₀ = v; x = y/scale. Damping
  is added to A before it is scaled, so that it means what it does everywhere.

  Args:
    scale: above half the largest eigenvalue of a minibatch's A + damping, or
      the series diverges; None: that eigenvalue, by power iteration.
    repeats: R; minibatch noise falls as 1/√R.
    kwargs: see `descent`; Koh & Liang 2017 use curvature='hessian'.

  Raises:
    ValueError: scale is not above 0.
  """
  return descent(
    damping,
    step_size=None if scale is None else 1 / scale,
    scaled_start=True,
    repeats=repeats,
    **kwargs,
  )


@kept
def astra(
  damping: Damping,
  *,
  precondition: Inverse | None = None,
  momentum: float = 0.9,
  decay: float = 0.5,
  **kwargs: Any,
) -> Inverse:
  """(G + damping)⁻¹ v by EKFAC-preconditioned descent (ASTRA paper, Eq. 9).

  The paper's schedule is step_per_damping=0.1 (in most settings, Table 3),
  decay 0.5 every 50 of 200 steps, one round. Without a step size,
  `automatic_step_size` chooses one.

  Args:
    precondition: P; None: EKFAC at the same damping.
    momentum, decay, kwargs: see `descent`.
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
  damping: Damping,
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
    step_size: α₀; None: that of `automatic_step_size`.
    step_per_damping: c of the paper's rule α₀ = c·damping, instead of `step_size`.
    decay: α_k = α₀ · decay^⌊k / decay_every⌋, starting again in every round.
    batch_size: rows a step, drawn with replacement, the same for all queries.
    rounds: maximum number of rounds; they stop early once every query's residual
      is below `tolerance`, or a round shortened none.
    reports: how often a round measures the residual over all rows, at equal
      distances, the last at its end; each costs one product with all rows.
    repeats: runs with different minibatches, one after the other, whose mean is
      the solution of a round.
    scaled_start: whether to start from α₀x₀ instead, as LiSSA does.
    curvature: 'ggn' or 'hessian'; on an indefinite Hessian the descent diverges.
  """
  coordinates_lib.check_curvature(curvature)
  _check_settings(steps, reports, repeats, step_size, step_per_damping)

  def fit(problem, params, train, key):
    inverse_lib.check_damping(damping, problem.l2)
    if precondition is None:
      return None
    return precondition.fit(problem, params, train, key)

  def solve(state, problem, params, train, vectors, key):
    shift = system_damping(damping, state)
    queries = trees.count(vectors)
    basis = coordinates_lib.preconditioner(precondition, state, problem)
    space = coordinates_lib.coordinates(
      *(basis, problem, params, train, curvature),
      queries=queries,
      batch_size=batch_size,
    )
    v = space.to_coordinates(vectors)
    curved = inverse_lib.batch_product(space, train, queries, batch_size)
    draw = jax.random.fold_in(key, 0)

    def product(step):
      batch = _drawn(train, batch_size, jax.random.fold_in(draw, step))
      curved_batch = products.divided(curved, batch)
      return products.damped(space.inside(curved_batch), shift)

    alpha = step_size if step_per_damping is None else step_per_damping * shift
    if alpha is None:
      probe = _probe(v, key)
      alpha = automatic_step_size(product, space.precondition, probe, momentum)
    how = Descent(
      # Every run draws its own minibatches; run 0 the same, whatever R.
      product=lambda run, step: product(run * steps * rounds + step),
      precondition=space.precondition,
      rate=lambda k: alpha * decay ** (k // decay_every),
      momentum=momentum,
      repeats=repeats,
      start=alpha if scaled_start else 1.0,
      steps=steps,
      reports=reports,
    )
    system = inverse_lib.damped(space, curved, train, batch_size, shift)
    end = refined(how, system, v, rounds=rounds, tolerance=tolerance)
    x = space.from_coordinates(end.solution)
    return _solution(x, end, how, tolerance, shift)

  return inverse_lib.inverse(fit, solve)._replace(fits_as=precondition)


def _check_settings(steps, reports, repeats, step_size, step_per_damping):
  """Raises ValueError for settings that contradict each other."""
  if repeats < 1:
    raise ValueError(f'repeats={repeats}: give at least 1')
  if step_size is not None and step_per_damping is not None:
    raise ValueError('give step_size or step_per_damping, not both')
  if steps % reports:
    raise ValueError(f'reports={reports} does not divide steps={steps}')


def _solution(x, end: Refinement, how: Descent, tolerance, shift) -> Solution:
  """The Solution with parameters x, from where the rounds ended."""
  residuals = end.trace.residual
  reported = jnp.arange(len(residuals))
  steps_each = how.steps // how.reports
  return Solution(
    x,
    residuals=residuals,
    steps=jnp.minimum(reported, end.done * how.reports) * steps_each,
    converged=residuals[-1] < tolerance,
    # Diverged: the residual is 10 × its start and above 10. The noise of
    # minibatches does not reach that.
    diverged=~(residuals[-1] <= 10 * jnp.maximum(residuals[0], 1.0)),
    damping=jnp.asarray(shift, jnp.float32),
    objectives=end.trace.objective,
  )


def automatic_step_size(
  product: Callable[[jax.Array], Callable[[PyTree], PyTree]],
  precondition: Callable[[PyTree], PyTree],
  probe: PyTree,
  momentum: float,
  rounds: int = 20,
) -> jax.Array:
  """α₀ = (1 − momentum)/μ, μ the largest eigenvalue of P⁻¹(G_k + damping).

  μ is estimated by power iteration, every round with its own minibatch, as the
  mean growth in the later half. Without noise the heavy ball is stable up to
  2(1 + momentum)/μ; minibatch noise takes the momentum's advantage away, and
  what must stay below 2/μ is α₀/(1 − momentum).

  Args:
    product: step -> the damped product of a minibatch, on stacks.
    precondition: r -> P⁻¹ r, on stacks.
    probe: a random stack of one vector.
  """

  def round_(probe, step):
    probe = trees.scaled(1 / trees.norms(probe), probe)
    probe = precondition(product(2**30 + step)(probe))
    return probe, jnp.log(trees.norms(probe)[0])

  _, growth = jax.lax.scan(round_, probe, jnp.arange(rounds))
  return (1 - momentum) / jnp.exp(growth[rounds // 2 :].mean())


def system_damping(
  damping: Damping, fitted: coordinates_lib.Fitted | None
) -> float | jax.Array:
  """The damping of the whole system as one number.

  'heuristic' is 0.1 · mean eigenvalue over all layers of the preconditioner.

  Raises:
    ValueError: 'heuristic' without a Kronecker preconditioner.
  """
  if damping != 'heuristic':
    return damping
  if fitted is None:
    raise ValueError(
      "damping='heuristic' is a share of the mean eigenvalue of a KFAC or"
      ' EKFAC preconditioner: give one, or a number'
    )
  return 0.1 * blocks_lib.mean_eigenvalue(fitted.blocks)


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
