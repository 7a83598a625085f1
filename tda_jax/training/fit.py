"""Training one model: pure steps, to be mapped over members and jitted."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from tda_jax import door, parallel, trees
from tda_jax.data import rows as rows_lib
from tda_jax.given import kind_of
from tda_jax.problem import Problem, bound, losses
from tda_jax.trees import Array, PyTree


class Recipe(NamedTuple):
  """How a model is trained.

  For example AdamW with a warm-up:

    rate = lambda steps: optax.warmup_cosine_decay_schedule(
      0.0, 3e-4, steps // 10, steps)
    Recipe(init, lambda steps: optax.adamw(rate(steps)), rate, 32, 4)

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
  """One model of an ensemble: its key, rows and weights.

  The fields of a stack of members have a leading axis E.

  Attributes:
    key: typed key; its initialisation, order of rows and augmentation.
    subset: [n] the rows it trains on, or None for all.
    weights: [N] of the losses of all rows, or None for ones.
    removed: a row whose loss over n is taken off the mean loss of every batch
      (−1: no row), or None.
    deleted: a row dropped from the order of rows, those after it moving up
      (−1: no row), or None.
    frozen: as `Run.frozen`, without its axis.
    masks: {column: [N, ...]} that columns of all rows are multiplied by, or None:
      0 in a column of weights of tokens takes the loss of one token out.
  """

  key: jax.Array
  subset: Array | None = None
  weights: Array | None = None
  removed: Array | None = None
  deleted: Array | None = None
  frozen: PyTree = None
  masks: dict[str, Array] | None = None


class State(NamedTuple):
  """The state of a training run, which a step changes."""

  params: PyTree
  optimizer: PyTree  # state of optax


class Minibatch(NamedTuple):
  """The rows of one step."""

  examples: PyTree  # [B, ...], augmented
  index: Array  # [B] global row numbers
  share: Array  # [B] of each row in the batch's mean; 0 for padding


def check_recipe(given: Any) -> None:
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
        f' function, for example {example}'
      )
  door.check_batch_size(given.batch_size, 'batch_size of the recipe')
  door.check_batch_size(given.epochs, 'epochs of the recipe')


def check_schedule(recipe: Recipe, steps: int) -> None:
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
      ' of steps that gives a schedule, for example lambda steps:'
      ' optax.constant_schedule(0.1)'
    )
  if not hasattr(recipe.optimizer(steps), 'update'):
    raise ValueError(
      'optimizer of the recipe gives no optax.GradientTransformation: it is a'
      ' function of the number of steps, for example lambda steps:'
      ' optax.sgd(0.1)'
    )


def check_optimizer(recipe: Recipe, params: PyTree, steps: int) -> None:
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
  """Number of batches in an epoch of n rows; the last may be smaller."""
  return -(-n // batch_size)


def total_steps(recipe: Recipe, n: int) -> int:
  """Number of steps of the whole run on n rows."""
  return recipe.epochs * steps_per_epoch(n, recipe.batch_size)


def start(recipe: Recipe, n: int, key: jax.Array) -> State:
  """The state before the first step of a run on n rows.

  Parameters are drawn with fold_in(key, 0).
  """
  params = recipe.init(jax.random.fold_in(key, 0))
  optimizer = recipe.optimizer(total_steps(recipe, n))
  return State(params, optimizer.init(params))


def epoch_order(
  key: jax.Array, epoch: ArrayLike, n: int, batch_size: int
) -> jax.Array:
  """The batches of an epoch: positions 0..n−1, [steps, min(batch_size, n)].

  A pure function of (key, epoch). The last batch is filled up with the first
  positions, which `minibatch` masks.
  """
  key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
  steps, size = steps_per_epoch(n, batch_size), min(batch_size, n)
  return jnp.resize(jax.random.permutation(key, n), (steps, size))


def train_steps(
  problem: Problem,
  recipe: Recipe,
  rows: PyTree,
  member: Member,
  state: State,
  *,
  epoch: ArrayLike,
  first: ArrayLike,
  last: ArrayLike,
) -> State:
  """Runs steps first..last−1 of an epoch of one model.

  Args:
    rows: leaves [N, ...].
    epoch, first, last: integers, which may be traced.

  Returns:
    The state after them.
  """
  n = row_count(rows, member)
  problem = bound(problem, member.frozen)
  index, count = epoch_rows(recipe, rows, member, epoch)

  def step(t, state):
    batch = minibatch(recipe, rows, member, index, count, epoch, t)
    weights = None if member.weights is None else member.weights[batch.index]
    return update(problem, recipe, n, state, batch, weights)

  return jax.lax.fori_loop(first, last, step, state)


def row_count(rows: PyTree, member: Member) -> int:
  """Number n of rows that one member trains on."""
  if member.subset is None:
    return rows_lib.count(rows)
  return len(member.subset)


def epoch_rows(
  recipe: Recipe, rows: PyTree, member: Member, epoch: ArrayLike
) -> tuple[jax.Array, ArrayLike]:
  """The rows of an epoch: (global numbers [steps, B], how many of them count).

  Those beyond that number, in the order of steps, fill up the last batch.
  """
  n = row_count(rows, member)
  places = epoch_order(member.key, epoch, n, recipe.batch_size)
  index = places if member.subset is None else member.subset[places]
  if member.deleted is None:
    return index, n
  return _order_without(index, n, member.deleted)


def minibatch(
  recipe: Recipe,
  rows: PyTree,
  member: Member,
  index: jax.Array,
  count: ArrayLike,
  epoch: ArrayLike,
  t: ArrayLike,
) -> Minibatch:
  """The rows of step t of an epoch.

  Args:
    index, count: the epoch's `epoch_rows`.
  """
  size, index = index.shape[1], index[t]
  examples = _examples(rows, member, index)
  fresh = jax.random.fold_in(jax.random.fold_in(member.key, 2), epoch)
  fresh = jax.random.fold_in(fresh, t)
  if recipe.augment is not None:
    keys = jax.random.split(fresh, size)
    examples = jax.vmap(recipe.augment)(keys, examples)
  mask = t * size + jnp.arange(size) < count
  batch = Minibatch(examples, index, mask / jnp.sum(mask))
  if member.removed is None:
    return batch
  # The removed row is appended to the batch with a negative share.
  share = jnp.where(member.removed < 0, 0.0, -1 / row_count(rows, member))
  removed_row = _examples(rows, member, member.removed)
  if recipe.augment is not None:
    removed_row = recipe.augment(jax.random.fold_in(fresh, size), removed_row)
  removed_batch = Minibatch(removed_row, member.removed, share)
  return jax.tree.map(
    lambda x, y: jnp.concatenate([x, jnp.asarray(y, x.dtype)[None]]),
    batch,
    removed_batch,
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
    n: number of rows that the run trains on, from which its length follows.
    weights: [B], or None for ones.
  """
  scale = batch.share if weights is None else batch.share * weights
  found, _ = gradient(problem, state.params, batch.examples, scale)
  return stepped(problem, recipe, n, state, found)


def gradient(
  problem: Problem, params: PyTree, examples: PyTree, scale: Array
) -> tuple[PyTree, jax.Array]:
  """(the gradient of Σ_b scale_b·loss_b, without l2; the losses [B])."""

  def of_rows(rows):
    examples, scale = rows

    def objective(params):
      each = losses(problem, params, examples)
      return jnp.sum(scale * each), each

    return jax.grad(objective, has_aux=True)(params)

  if parallel.devices() == 1:
    return of_rows((examples, scale))
  total = parallel.summed(lambda rows: of_rows(rows)[0], (examples, scale))
  return total, losses(problem, params, examples)


def stepped(
  problem: Problem, recipe: Recipe, n: int, state: State, gradient: PyTree
) -> State:
  """The state after the optimizer's step along `gradient` and that of l2."""
  optimizer = recipe.optimizer(total_steps(recipe, n))
  if problem.l2:
    gradient = trees.add(gradient, state.params, problem.l2)
  updates, moments = optimizer.update(gradient, state.optimizer, state.params)
  return State(optax.apply_updates(state.params, updates), moments)


def second_moments(
  optimizer: optax.GradientTransformation, state: State
) -> PyTree:
  """Adam's second moments v/(1 − β₂^t), shaped like params; None: no Adam."""
  nodes = jax.tree.leaves(state.optimizer, is_leaf=_is_adam)
  found = [node for node in nodes if _is_adam(node)]
  if len(found) != 1:
    return None
  params = state.params
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, _wide(x)), params
  )
  with jax.ensure_compile_time_eval():
    decay, is_sum = jax.jit(lambda: _decay(optimizer, shapes))()
    if not is_sum:
      return None
  time = found[0].count
  corrected = lambda v, d: v.astype(_wide(v)) / (1 - d**time)
  return jax.tree.map(corrected, found[0].nu, decay)


def _wide(x):
  """float32 at least: in bfloat16 a β₂ of 0.999 is 1."""
  return jnp.promote_types(x.dtype, jnp.float32)


def _is_adam(node):
  return isinstance(node, optax.ScaleByAdamState)


def _decay(optimizer, shapes):
  """(β₂ of each leaf, whether second moments are a sum of β₂·v and another term).

  β₂ is what a gradient of zero leaves of a second moment of one. Adamax keeps its
  state in the same type, but takes the larger of both terms.
  """
  zero, one = (
    jax.tree.map(lambda x, v=v: jnp.full(x.shape, v, x.dtype), shapes)
    for v in (0, 1)
  )
  start = optimizer.init(zero)

  def after(moments, gradient):
    of = lambda node: node._replace(nu=moments) if _is_adam(node) else node
    before = jax.tree.map(of, start, is_leaf=_is_adam)
    _, state = optimizer.update(gradient, before, zero)
    nodes = jax.tree.leaves(state, is_leaf=_is_adam)
    (moments,) = (node.nu for node in nodes if _is_adam(node))
    return moments

  decay = after(one, zero)
  kept = trees.add(after(one, one), after(zero, one), -1)
  alike = jax.tree.map(lambda x, y: jnp.allclose(x, y, 1e-5, 1e-5), kept, decay)
  return (
    jax.tree.map(jnp.mean, decay),
    jnp.stack(jax.tree.leaves(alike)).all(),
  )


def _examples(rows, member, index):
  """The rows at `index`, of which a member may have columns masked."""
  examples = rows_lib.take(rows, index)
  if member.masks is None:
    return examples
  masks = rows_lib.take(member.masks, index)
  masked = {
    name: examples[name] * mask.astype(examples[name].dtype)
    for name, mask in masks.items()
  }
  return {**examples, **masked}


def _order_without(index, n, row):
  """(the order of n rows without `row`, the number of other rows).

  The rows behind `row` move up by one place; −1 deletes none.
  """
  flat = index.reshape(-1)
  is_row = flat[:n] == row
  is_after = jnp.arange(len(flat)) >= jnp.where(
    is_row.any(), is_row.argmax(), n
  )
  shifted = jnp.where(is_after, jnp.roll(flat, -1), flat)
  return shifted.reshape(index.shape), n - is_row.any()
