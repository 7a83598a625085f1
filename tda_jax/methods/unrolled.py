"""Exact unrolling: the derivative of a query's measure through all of training.

  score[i, q] = ∂measure_q(θ_T(w)) / ∂w_i  at w = 1,

w_i the weight of row i's loss at every step. The run is replayed from its key
(initialisation, order of rows, augmentation) and differentiated in reverse: the
adjoint of (parameters, optimizer state) goes back through one step after
another, for all queries, and a step adds what its own rows get. Nothing is
approximated but the removal of a row, by the first order in its weight. The
target is this run with its seed, not the mean over seeds. Ilyas & Engstrom 2025
(MAGIC), https://arxiv.org/abs/2504.16430.

A step is θ⁺, s⁺ = U(θ, s, g), with the optimizer's state s and the gradient
g(θ) = Σ_i w_i·share_i ∇loss_i(θ). Its adjoint (a, b) goes back in mixed mode,

  (ā, b̄, u) = (∂U)ᵀ (a, b)               (arithmetic of the update, no network),
  a ← ā + ∇g u,  b ← b̄,  score_i += share_i ∇loss_i · u,

where ∇g is a Hessian, hence symmetric: ∇g u and all ∇loss_i · u are one forward
derivative of θ -> (g, losses) along u. For transformers that is cheaper than the
derivative of a gradient in reverse. Kemaev et al. 2025 (MixFlow-MG),
https://arxiv.org/abs/2505.00793.

√T of the T states are kept and the others computed again, √T at a time, so a
run costs about three trainings and, per query, a derivative of each gradient.
"""

import math

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.layers import equations
from tda_jax.methods.method import Method, Prepared
from tda_jax.problem import Problem, bound, losses, measure_of
from tda_jax.settings import kept
from tda_jax.training import fit
from tda_jax.training.fit import Member, Recipe, State
from tda_jax.trees import PyTree

# As a fraction of the distance travelled in training. Rounding, which another
# compilation of the same run amplifies, stays well below it; another order of
# rows does not.
TOLERANCE = 0.05
# Queries that go back through a step together. The adjoints of all are in memory
# anyway, the derivatives of activations those of one block of queries.
QUERIES = 8
BESIDE = (
  1e-15  # for a gradient of 0: little beside Adam's eps, its square a float32
)


@kept
def unrolled(
  recipe: Recipe,
  *,
  subset: ArrayLike | None = None,
  weights: ArrayLike | None = None,
  queries_at_once: int = QUERIES,
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
    queries_at_once: how many go back through a step together, at most: more
      take more memory, and keep an accelerator busier.

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
    scores, end = contributions(
      problem,
      recipe,
      member,
      train,
      queries,
      stops,
      queries_at_once=queries_at_once,
    )
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
  *,
  queries_at_once: int = QUERIES,
) -> tuple[jax.Array, PyTree]:
  """What each part of the training adds to the scores.

  Args:
    member: one member (`training.fit.Member`), not a stack.
    stops: [C] increasing step numbers, the last of them T, the number of all
      steps: for example `run.steps`, or 1, 2, ..., T for every step.
    queries_at_once: see `unrolled`.

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
  blocks = _blocks(queries, queries_at_once)
  shape = jax.eval_shape(lambda: _weighted_batch(recipe, train, member, n, 0))
  derivative = _derivative_for(problem, recipe, shape.examples)

  def step(s, state):
    batch = _weighted_batch(recipe, train, member, n, s)
    return fit.update(problem, recipe, n, state, batch, None)

  def leg(state, first):
    """Takes the steps of a leg; keeps the state before it."""
    last = jnp.minimum(first + length, total)
    return jax.lax.fori_loop(first, last, step, state), state

  def step_back(s, state, adjoint, parts):
    batch = _weighted_batch(recipe, train, member, n, s)
    back = jax.vmap(_step_back(problem, recipe, n, state, batch, derivative))
    part = jnp.searchsorted(stops, s, side='right')

    adjoint, gained = jax.lax.map(back, adjoint)
    gained = jnp.moveaxis(gained, 2, 0)
    return adjoint, parts.at[part, batch.index].add(gained)

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
  adjoint = jax.lax.map(lambda b: _final_adjoint(problem, end, b), blocks)
  size = (len(stops), rows_lib.count(train), *_block_shape(blocks))
  zero = jnp.zeros(size, shape.share.dtype)
  (_, parts), _ = jax.lax.scan(
    leg_back, (adjoint, zero), (firsts, kept), reverse=True
  )
  parts = parts.reshape(*size[:2], -1)[:, :, : trees.count(queries)]
  return parts, end.params


def _blocks(queries, size):
  """The queries in equal blocks of at most `size`, leaves [blocks, k, ...].

  The last block is filled up with the first queries.
  """
  count = trees.count(queries)
  blocks = -(-count // size)
  index = jnp.resize(jnp.arange(count), (blocks, -(-count // blocks)))
  return trees.row(queries, index)


def _block_shape(blocks):
  return jax.tree.leaves(blocks)[0].shape[:2]


def _weighted_batch(recipe, train, member, n, s):
  """The minibatch of step s, with the weights of the member's rows."""
  epoch, t = jnp.divmod(s, fit.steps_per_epoch(n, recipe.batch_size))
  index, count = fit.epoch_rows(recipe, train, member, epoch)
  batch = fit.minibatch(recipe, train, member, index, count, epoch, t)
  if member.weights is None:
    return batch
  return batch._replace(share=batch.share * member.weights[batch.index])


def _step_back(problem, recipe, n, state, batch, derivative):
  """Goes back through one step.

  Args:
    state: before the step.
    derivative: one of `_mixed` and `_in_reverse`.

  Returns:
    adjoint after the step -> (adjoint before it, [B] derivatives in the rows'
    weights), for one query. An adjoint is a State: of the parameters, and a list
    of those leaves of the optimizer's state that have a derivative.
  """
  gradient, product = derivative(problem, batch, state.params)
  moments, join = _split(state.optimizer)

  def moved(params, moments, gradient):
    before = State(params, join(moments))
    after = fit.stepped(problem, recipe, n, before, gradient)
    return State(after.params, _split(after.optimizer)[0])

  # Adam divides by a root, which has no derivative at 0, though the step has one.
  beside = jax.tree.map(lambda g: jnp.where(g == 0, BESIDE, g), gradient)
  _, pull = jax.vjp(moved, state.params, moments, beside)

  def back(adjoint):
    params, moments, u = pull(adjoint)
    curved, gained = product(u)
    return State(trees.add(params, curved), moments), gained

  return back


def _derivative_for(problem, recipe, examples):
  """`_mixed`, or `_in_reverse` for a model with a `jax.custom_vjp`.

  What such a function has for a gradient need not be one (gradients that are
  reversed or clipped), so that ∇g need not be symmetric.
  """
  params = jax.eval_shape(lambda: recipe.init(jax.random.key(0)))
  every_loss = lambda params, examples: losses(problem, params, examples)
  jaxpr = jax.make_jaxpr(every_loss)(params, examples).jaxpr
  given = any(
    equations.name(e).startswith('custom_vjp') for e in equations.nested(jaxpr)
  )
  return _in_reverse if given else _mixed


def _mixed(problem, batch, params):
  """(gradient g of the batch, u -> (∇g u, [B] ∇loss_b · u times share_b))."""
  of = lambda p: fit.gradient(problem, p, batch.examples, batch.share)
  (gradient, _), tangents = jax.linearize(of, params)

  def product(u):
    curved, slopes = tangents(u)
    return curved, batch.share * slopes

  return gradient, product


def _in_reverse(problem, batch, params):
  """`_mixed` by (∇g)ᵀ u, which is right for any ∇g."""

  def weighted(params, weights):
    scale = batch.share * weights
    return fit.gradient(problem, params, batch.examples, scale)[0]

  return jax.vjp(weighted, params, jnp.ones_like(batch.share))


def _final_adjoint(problem, state: State, queries):
  """∂measure_q in the numbers of the final state, a stack [Q, ...]."""
  zeros = jax.tree.map(jnp.zeros_like, _split(state.optimizer)[0])

  def of_query(query):
    measure = lambda params: measure_of(problem, params, query)
    return State(jax.grad(measure)(state.params), zeros)

  return jax.vmap(of_query)(queries)


def _split(tree: PyTree):
  """Splits a tree: (leaves that have a derivative, such leaves -> the tree)."""
  leaves, structure = jax.tree.flatten(tree)
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
