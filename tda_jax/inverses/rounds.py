"""The loops of a stochastic descent: steps in runs, runs in rounds.

`inverses.descent` has the formulas of a step. A round is the mean of R runs from
the same start, and the rounds are iterative refinement.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.curvature.products import Product
from tda_jax.trees import PyTree


class Descent(NamedTuple):
  """The rule that every round follows."""

  product: Callable  # (run, step) -> the damped product of its minibatch
  precondition: Callable  # r -> P⁻¹ r
  rate: Callable  # step -> α
  momentum: float
  repeats: int  # R runs, whose mean is the solution of a round
  start: float | jax.Array  # x₀ is this times P⁻¹ v
  steps: int  # of a round
  reports: int  # how often a round measures its residual


class Progress(NamedTuple):
  """How far solutions x of (A + damping)x = v are, over all rows; leaves [..., Q]."""

  residual: jax.Array  # ‖v − (A + damping)x‖ / ‖v‖
  objective: (
    jax.Array
  )  # (½ xᵀ(A + damping)x − vᵀx) / ‖v‖², which falls to the end


class Refinement(NamedTuple):
  """Where the rounds stand, for Q queries."""

  solution: PyTree  # x, a stack [Q, ...]
  residual: PyTree  # v − (A + damping)x over all rows, a stack [Q, ...]
  trace: Progress  # leaves [1 + rounds·reports, Q], start first
  done: int | jax.Array  # number of rounds done
  shorter: jax.Array  # [Q] whether the last round shortened the residual


class Iterate(NamedTuple):
  """Where one run of a round stands; of R runs every leaf has an axis R."""

  run: jax.Array  # its number, by which it draws its minibatches
  solution: PyTree  # x_k, a stack [Q, ...]
  momentum: PyTree  # m_k, a stack [Q, ...]


class Round(NamedTuple):
  """Where the runs of one round stand together."""

  iterates: Iterate  # of the R runs
  solution: PyTree  # the mean of their x
  residual: PyTree  # v − (A + damping)x of that mean, over all rows


def refined(
  how: Descent, system: Product, v: PyTree, *, rounds: int, tolerance: float
) -> Refinement:
  """Iterative refinement: rounds of descent on the residual over all rows.

  Args:
    system: x -> (A + damping)x over all rows.
    v: stack of vectors [Q, ...].
    rounds: maximum number of rounds.
    tolerance: they stop early once every relative residual is below it.
  """
  norms = trees.norms(v)
  norms = jnp.where(norms == 0, 1.0, norms)
  reports = 1 + rounds * how.reports

  def progress(x, residual):
    # xᵀ(A + damping)x = vᵀx − xᵀr, of which r is known
    descended = trees.dots(x, v) + trees.dots(x, residual)
    return Progress(trees.norms(residual) / norms, -0.5 * descended / norms**2)

  def unfinished(state):
    unsolved = jnp.any(state.trace.residual[-1] >= tolerance)
    again = unsolved & jnp.any(state.shorter)
    return (state.done < rounds) & ((state.done == 0) | again)

  def refine(state):
    first = state.done * how.steps
    so_far = lambda dx, rest: progress(trees.add(state.solution, dx), rest)
    dx, rest, found = _descend(how, system, state.residual, first, so_far)
    # The first round is the algorithm itself, whose noise may lengthen the
    # residual of a good start; it always counts.
    lengths = trees.norms(rest), trees.norms(state.residual)
    shorter = (state.done == 0) | (lengths[0] < lengths[1])
    x = trees.where(shorter, trees.add(state.solution, dx), state.solution)
    residual = trees.where(shorter, rest, state.residual)
    at = jnp.arange(reports)
    before = state.done * how.reports  # where the last round's end stands
    fresh = ((at > before) | (state.done == 0))[:, None]

    def traced(reported, end, earlier):
      new = reported.at[-1].set(end)[jnp.clip(at - before, 0, how.reports)]
      return jnp.where(fresh, new, earlier)

    trace = jax.tree.map(traced, found, progress(x, residual), state.trace)
    return Refinement(x, residual, trace, state.done + 1, shorter)

  zeros = jnp.zeros((reports, len(norms)), norms.dtype)
  start = Refinement(
    solution=jax.tree.map(jnp.zeros_like, v),
    residual=v,
    trace=Progress(zeros, zeros),
    done=0,
    shorter=jnp.ones(len(norms), bool),
  )
  return jax.lax.while_loop(unfinished, refine, start)


def _descend(
  how: Descent, system: Product, v: PyTree, first: jax.Array, progress: Callable
):
  """One round: (mean x of the runs, v − system(x), Progress [1 + reports, Q]).

  Args:
    first: number of its first step, among those of all rounds.
    progress: (x, v − system(x)) -> their Progress.
  """

  def followed(iterate, ks):
    """A run after the steps `ks`."""

    def step(carry, k):
      x, m = carry
      r = trees.add(how.product(iterate.run, first + k)(x), v, -1.0)
      m = trees.add(how.precondition(r), m, how.momentum)
      return (trees.add(x, m, -how.rate(k)), m), None

    start = (iterate.solution, iterate.momentum)
    return Iterate(iterate.run, *jax.lax.scan(step, start, ks)[0])

  def until_report(state, ks):
    iterates = jax.lax.map(lambda one: followed(one, ks), state.iterates)
    x = jax.tree.map(lambda leaf: leaf.mean(0), iterates.solution)
    residual = trees.add(v, system(x), -1.0)
    return Round(iterates, x, residual), progress(x, residual)

  x = trees.scaled(how.start, how.precondition(v))
  residual = trees.add(v, system(x), -1.0)
  zero = jax.tree.map(jnp.zeros_like, x)
  solutions, momenta = jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (how.repeats, *leaf.shape)), (x, zero)
  )
  iterates = Iterate(jnp.arange(how.repeats), solutions, momenta)
  ks = jnp.arange(how.steps).reshape(how.reports, -1)
  begun = progress(x, residual)
  end, later = jax.lax.scan(until_report, Round(iterates, x, residual), ks)
  found = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), begun, later)
  return end.solution, end.residual, found
