"""Exact unrolling: the derivative of a query's measure through all of training.

  score[i, q] = ∂measure_q(θ_T(w)) / ∂w_i  at w = 1,

w_i the weight of row i's loss at every step. The run is replayed from its key
(initialisation, order of rows, augmentation) and differentiated in reverse: the
adjoint of (parameters, optimizer state) goes back through one step after
another, for all queries at once, and a step adds what its own rows get. Nothing
is approximated but the removal of a row, by the first order in its weight. The
target is this run with its seed, not the mean over seeds. Ilyas & Engstrom 2025
(MAGIC), https://arxiv.org/abs/2504.16430.

√T of the T states are kept and the others computed again, √T at a time, so a
run costs about two trainings and, per query, a backward pass of each gradient.
"""

import math

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.methods.method import Method, Prepared
from tda_jax.problem import Problem, bound
from tda_jax.settings import kept
from tda_jax.training import fit
from tda_jax.training.fit import Member, Recipe, State
from tda_jax.trees import PyTree

# As a fraction of the distance travelled in training. Rounding, which another
# compilation of the same run amplifies, stays well below it; another order of
# rows does not.
TOLERANCE = 0.05


@kept
def unrolled(
  recipe: Recipe,
  *,
  subset: ArrayLike | None = None,
  weights: ArrayLike | None = None,
) -> Method:
  """The exact derivative through the training run, for any optax optimizer.

  The run is replayed from `run.keys`. The residual in `Prepared.solution` is the
  distance from the replay's end to `run.params`, as a fraction of the distance
  travelled in training. Above `TOLERANCE` the replay counts as diverged, which is
  an error: recipe, rows, subset or weights are then not those of the run.

  Args:
    recipe: the one that the run was trained with.
    subset, weights: [n] row numbers and [N] weights of the losses that the run
      was trained with, or None: all rows, ones. w_i multiplies the weight of
      row i; a row outside the subset has score 0.

  Raises:
    ValueError: the run's keys are not known.
  """

  def prepare(problem, run, train, queries, key):
    del key
    if run.keys is None:
      raise ValueError(
        'unrolled replays the training, and this run does not know its keys:'
        ' give the Run that tda_jax.train returns, or one with `keys`'
      )
    begin = jax.eval_shape(recipe.init, run.keys)
    if jax.tree.structure(begin) != jax.tree.structure(run.params):
      raise ValueError(
        'unrolled goes through the training of all parameters, and those of the'
        f' run ({trees.names(run.params)}) are not those that the recipe'
        f' initialises ({trees.names(begin)}): give the recipe of the run, and a'
        ' problem without only or leave_out'
      )
    member = Member(run.keys, *jax.tree.map(jnp.asarray, (subset, weights)))
    n = fit.row_count(train, member)
    stops = jnp.array([fit.total_steps(recipe, n)])
    scores, end = contributions(problem, recipe, member, train, queries, stops)
    begin = fit.start(recipe, n, run.keys).params
    off = _distance(end, run.params) / _distance(run.params, begin)
    off = jnp.full(scores.shape[2], off)
    solution = inverse_lib.closed_form(scores[0].T, 0.0)._replace(
      x=(),
      residuals=off[None],
      steps=stops,
      converged=off < TOLERANCE,
      diverged=~(off < TOLERANCE),
    )
    return Prepared(scores[0], solution)

  def score(problem, run, prepared, batch):
    del problem, run
    return prepared.state[batch.index]

  return Method(
    prepare,
    score,
    hint='give the recipe, rows, subset and weights that the run was trained'
    ' with: its replay ends elsewhere',
  )


def contributions(
  problem: Problem,
  recipe: Recipe,
  member: Member,
  train: PyTree,
  queries: PyTree,
  stops: jax.Array,
) -> tuple[jax.Array, PyTree]:
  """What each part of the training adds to the scores.

  Args:
    member: one member (`training.fit.Member`), not a stack.
    stops: [C] increasing step numbers, the last of them T, the number of all
      steps: for example `run.steps`, or 1, 2, ..., T for every step.

  Returns:
    (parts [C, N, Q], final parameters of the replay). parts[c] is what steps
    stops[c−1], ..., stops[c] − 1 add to ∂measure_q/∂w_i; `cumsum` over C is the
    score gained until each stop, the sum over C is the score.
  """
  train, queries = jax.tree.map(jnp.asarray, (train, queries))
  problem = bound(problem, member.frozen)
  n = fit.row_count(train, member)
  total = fit.total_steps(recipe, n)
  length = math.isqrt(total - 1) + 1  # steps of a leg: √T, rounded up

  def step(s, state):
    batch = _weighted_batch(recipe, train, member, n, s)
    return fit.update(problem, recipe, n, state, batch, None)

  def leg(state, first):
    """Takes the steps of a leg; keeps the state before it."""
    last = jnp.minimum(first + length, total)
    return jax.lax.fori_loop(first, last, step, state), state

  def step_back(s, state, adjoint, parts):
    batch = _weighted_batch(recipe, train, member, n, s)
    adjoint, gained = _pulled_back(problem, recipe, n, state, batch, adjoint)
    part = jnp.searchsorted(stops, s, side='right')
    return adjoint, parts.at[part, batch.index].add(gained.T)

  def leg_back(carry, leg):
    """Computes the states of a leg again and goes back through them."""
    first, state = leg
    again = lambda state, s: (step(s, state), state)
    _, states = jax.lax.scan(again, state, first + jnp.arange(length))
    steps = jnp.minimum(length, total - first)

    def back(i, carry):
      j = steps - 1 - i
      return step_back(first + j, trees.row(states, j), *carry)

    return jax.lax.fori_loop(0, steps, back, carry), None

  firsts = jnp.arange(0, total, length)
  end, kept = jax.lax.scan(leg, fit.start(recipe, n, member.key), firsts)
  adjoint = _final_adjoint(problem, end, queries)
  dtype = _weighted_batch(recipe, train, member, n, 0).share.dtype
  rows = rows_lib.count(train)
  zero = jnp.zeros((len(stops), rows, trees.count(queries)), dtype)
  (_, parts), _ = jax.lax.scan(
    leg_back, (adjoint, zero), (firsts, kept), reverse=True
  )
  return parts, end.params


def _weighted_batch(recipe, train, member, n, s):
  """The minibatch of step s, with the weights of the member's rows."""
  epoch, t = jnp.divmod(s, fit.steps_per_epoch(n, recipe.batch_size))
  index, count = fit.epoch_rows(recipe, train, member, epoch)
  batch = fit.minibatch(recipe, train, member, index, count, epoch, t)
  if member.weights is None:
    return batch
  return batch._replace(share=batch.share * member.weights[batch.index])


def _pulled_back(problem, recipe, n, state, batch, adjoint):
  """One step back: (adjoint before it, derivatives in the rows' weights [Q, B]).

  Args:
    state: before the step.
    adjoint: after it, a stack of Q.
  """
  numbers, join = _split(state)

  def forward(numbers, weights):
    after = fit.update(problem, recipe, n, join(numbers), batch, weights)
    return _split(after)[0]

  _, pull = jax.vjp(forward, numbers, jnp.ones_like(batch.share))
  return jax.vmap(pull)(adjoint)


def _final_adjoint(problem, state: State, queries):
  """∂measure_q in the numbers of the final state, a stack [Q, ...]."""
  numbers, join = _split(state)

  def measure(numbers, query):
    outputs = problem.outputs(join(numbers).params, query)
    return problem.measure(outputs, query)

  return jax.vmap(jax.grad(measure), (None, 0))(numbers, queries)


def _split(state: State):
  """Splits a state: (leaves that have a derivative, such leaves -> the state)."""
  leaves, structure = jax.tree.flatten(state)
  smooth = [jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]

  def join(numbers):
    given = iter(numbers)
    mixed = [
      next(given) if real else x for real, x in zip(smooth, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, mixed)

  return [x for real, x in zip(smooth, leaves, strict=True) if real], join


def _distance(a, b):
  return optax.tree.norm(optax.tree.sub(a, b))
