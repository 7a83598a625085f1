"""Training one model: pure steps, to be mapped over members and jitted."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tda_jax import door, trees
from tda_jax.given import kind_of
from tda_jax.problem import Problem, bound, losses

PyTree = Any


class Recipe(NamedTuple):
  """How a model is trained.

  Attributes:
    init: key -> params.
    optimizer: total steps -> optax.GradientTransformation.
    learning_rate: total steps -> schedule (step -> rate); recorded with the
      checkpoints, and to be the one that `optimizer` uses.
    batch_size: rows a step; the last batch of an epoch may be smaller.
    epochs: passes over the rows.
    augment: (key, example) -> example, a fresh draw at every step, or None.
  """

  init: Callable
  optimizer: Callable
  learning_rate: Callable
  batch_size: int
  epochs: int
  augment: Callable | None = None


class Member(NamedTuple):
  """What is a model's own; a stack of members has a leading axis E.

  Attributes:
    key: typed key; its initialisation, order of rows and augmentation.
    subset: [n] the rows it trains on, or None for all.
    weights: [N] of the losses of all rows, or None for ones.
    removed: a row whose loss over n is taken off the mean loss of every batch
      (−1: no row), or None.
    deleted: a row dropped from the order of rows, those after it moving up
      (−1: no row), or None.
    frozen: as `Run.frozen`, without its axis.
  """

  key: jax.Array
  subset: jax.Array | None = None
  weights: jax.Array | None = None
  removed: jax.Array | None = None
  deleted: jax.Array | None = None
  frozen: PyTree = None


class State(NamedTuple):
  """What a step changes."""

  params: PyTree
  optimizer: PyTree


class Minibatch(NamedTuple):
  """The rows of one step."""

  examples: PyTree  # [B, ...], augmented
  index: jax.Array  # [B] global row numbers
  share: jax.Array  # [B] of each row in the batch's mean; 0 for padding


def check_recipe(given) -> None:
  """Raises ValueError unless it is a training recipe."""
  if not hasattr(given, 'optimizer') or not hasattr(given, 'learning_rate'):
    raise ValueError(
      f'the recipe is {kind_of(given)}: give a tda.Recipe; the order is'
      ' train(problem, recipe, rows, keys)'
    )
  for field, example in (
    ('optimizer', 'lambda steps: optax.sgd(0.1)'),
    ('learning_rate', 'lambda steps: optax.constant_schedule(0.1)'),
    ('init', 'lambda key: params'),
  ):
    if not callable(getattr(given, field)):
      raise ValueError(
        f'{field} of the recipe is {kind_of(getattr(given, field))}: give a'
        f' function, as {example}'
      )
  door.check_batch_size(given.batch_size, 'batch_size of the recipe')
  door.check_batch_size(given.epochs, 'epochs of the recipe')


def check_schedule(recipe, steps: int) -> None:
  """Raises ValueError unless the recipe gives a schedule and an optimizer."""
  for field in ('learning_rate', 'optimizer'):
    try:
      getattr(recipe, field)(steps)
    except TypeError as error:
      raise ValueError(
        f'{field} of the recipe cannot be called with the number of steps'
        f' ({error}): give a function of it, for example lambda steps:'
        ' optax.sgd(0.1)'
      ) from None
  if not callable(recipe.learning_rate(steps)):
    raise ValueError(
      'learning_rate of the recipe gives a number: it is a function of the number'
      ' of steps that gives a schedule, as lambda steps:'
      ' optax.constant_schedule(0.1)'
    )
  if not hasattr(recipe.optimizer(steps), 'update'):
    raise ValueError(
      'optimizer of the recipe gives no optax.GradientTransformation: it is a'
      ' function of the number of steps, as lambda steps: optax.sgd(0.1)'
    )


def check_optimizer(recipe, params, steps: int) -> None:
  """Raises ValueError unless the optimizer makes an update of a gradient alone.

  Args:
    params: arrays or their shapes.
  """
  optimizer = recipe.optimizer(steps)

  def updated(params):
    return optimizer.update(params, optimizer.init(params), params)[0]

  try:
    jax.eval_shape(updated, params)
  except Exception as error:
    said = (str(error).strip() or 'no message').splitlines()[0]
    raise ValueError(
      f'the optimizer of the recipe raised {type(error).__name__} on a gradient'
      f' ({said.rstrip(".")}): give one that needs no more than gradient, state'
      ' and parameters, for example optax.sgd(0.1)'
    ) from error


def steps_per_epoch(n: int, batch_size: int) -> int:
  """Batches of `batch_size` that n rows make, the last perhaps smaller."""
  return -(-n // batch_size)


def total_steps(recipe: Recipe, n: int) -> int:
  """Steps of the whole run on n rows."""
  return recipe.epochs * steps_per_epoch(n, recipe.batch_size)


def start(recipe: Recipe, n: int, key: jax.Array) -> State:
  """The state before the first step on n rows; fold 0 of `key` is for init."""
  params = recipe.init(jax.random.fold_in(key, 0))
  optimizer = recipe.optimizer(total_steps(recipe, n))
  return State(params, optimizer.init(params))


def order(key: jax.Array, epoch, n: int, batch_size: int) -> jax.Array:
  """Positions 0..n−1 in the order of `epoch`, [steps, min(batch_size, n)].

  A pure function of (key, epoch). Places beyond n repeat the first positions;
  `advance` masks them.
  """
  key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
  steps, size = steps_per_epoch(n, batch_size), min(batch_size, n)
  return jnp.resize(jax.random.permutation(key, n), (steps, size))


def advance(
  problem: Problem,
  recipe: Recipe,
  rows: PyTree,
  member: Member,
  state: State,
  epoch,
  first,
  last,
) -> State:
  """Steps first..last−1 of an epoch of one model.

  Args:
    rows: leaves [N, ...].
    epoch, first, last: integers, which may be traced.
  """
  n = own_rows(rows, member)
  problem = bound(problem, member.frozen)
  index, count = epoch_rows(recipe, rows, member, epoch)

  def step(t, state):
    batch = minibatch(recipe, rows, member, index, count, epoch, t)
    weights = None if member.weights is None else member.weights[batch.index]
    return update(problem, recipe, n, state, batch, weights)

  return jax.lax.fori_loop(first, last, step, state)


def own_rows(rows: PyTree, member: Member) -> int:
  """Number of rows n that a member trains on."""
  return len(
    jax.tree.leaves(rows)[0] if member.subset is None else member.subset
  )


def epoch_rows(recipe: Recipe, rows: PyTree, member: Member, epoch):
  """The rows of an epoch: (index [steps, B], how many of them count)."""
  n = own_rows(rows, member)
  places = order(member.key, epoch, n, recipe.batch_size)
  index = places if member.subset is None else member.subset[places]
  if member.deleted is None:
    return index, n
  return _without(index, n, member.deleted)


def minibatch(
  recipe: Recipe, rows: PyTree, member: Member, index, count, epoch, t
) -> Minibatch:
  """Step t of an epoch, whose `epoch_rows` are (index, count)."""
  size, index = index.shape[1], index[t]
  examples = jax.tree.map(lambda leaf: leaf[index], rows)
  fresh = jax.random.fold_in(jax.random.fold_in(member.key, 2), epoch)
  fresh = jax.random.fold_in(fresh, t)
  if recipe.augment is not None:
    keys = jax.random.split(fresh, size)
    examples = jax.vmap(recipe.augment)(keys, examples)
  mask = t * size + jnp.arange(size) < count
  batch = Minibatch(examples, index, mask / jnp.sum(mask))
  if member.removed is None:
    return batch
  # The removed row is one more of the batch, whose share is negative.
  share = jnp.where(member.removed < 0, 0.0, -1 / own_rows(rows, member))
  own = jax.tree.map(lambda leaf: leaf[member.removed], rows)
  if recipe.augment is not None:
    own = recipe.augment(jax.random.fold_in(fresh, size), own)
  more = Minibatch(own, member.removed, share)
  return jax.tree.map(
    lambda x, y: jnp.concatenate([x, jnp.asarray(y, x.dtype)[None]]),
    batch,
    more,
  )


def update(
  problem: Problem,
  recipe: Recipe,
  n: int,
  state: State,
  batch: Minibatch,
  weights: jax.Array | None,
) -> State:
  """One step along the gradient of Σ_b share_b·w_b·loss_b + ½·l2·‖θ‖².

  The shares are 1/B, B the number of rows, not the sum of their weights.

  Args:
    n: rows that the run trains on, which tell its length.
    weights: [B], or None for ones.
  """
  optimizer = recipe.optimizer(total_steps(recipe, n))
  scale = batch.share if weights is None else batch.share * weights

  def objective(params):
    return jnp.sum(scale * losses(problem, params, batch.examples))

  gradient = jax.grad(objective)(state.params)
  if problem.l2:
    gradient = trees.add(gradient, state.params, problem.l2)
  updates, moments = optimizer.update(gradient, state.optimizer, state.params)
  return State(optax.apply_updates(state.params, updates), moments)


def _without(index, n, row):
  """The order of n rows with `row` deleted, and how many rows are left."""
  flat = index.reshape(-1)
  found = flat[:n] == row
  after = jnp.arange(len(flat)) >= jnp.where(found.any(), found.argmax(), n)
  kept = jnp.where(after, jnp.roll(flat, -1), flat)
  return kept.reshape(index.shape), n - found.any()
