"""Ground truth by retraining: measures of the queries after other trainings.

The models of a ground truth are V variants (subsets, rows left out, weights)
times R repeats. They are numbered j = r·V + v: all variants of repeat 0 come
first, so that a run that was cut short holds whole repeats.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tda_jax import door, parallel, trees
from tda_jax.data import rows as rows_lib
from tda_jax.problem import Problem, bound, measure_of
from tda_jax.storage import fingerprint, record, scores
from tda_jax.storage.fingerprint import digest
from tda_jax.training import fit, members
from tda_jax.training.fit import Member, Recipe
from tda_jax.trees import PyTree

QUERIES_AT_ONCE = 512


class Models(NamedTuple):
  """The models that are trained for one ground truth.

  Attributes:
    members_at: numbers j [E] -> stack of E members (`fit.Member`).
    name: j -> what to call that model in an error.
    count: V, variants of a repeat.
    repeats: R.
    frozen: what each of them has besides its parameters, the same for all; leaves
      of one model. None: nothing.
  """

  members_at: Callable[[np.ndarray], Member]
  name: Callable[[int], str]
  count: int
  repeats: int
  frozen: PyTree = None


@door.renamed(at_once='members_at_once')
@door.by_keyword
def outcomes(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  subsets: np.ndarray,
  *,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  members_at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
  frozen: PyTree = None,
) -> np.ndarray:
  """Measures of the queries after training on each subset, [M, R, Q].

  Repeat r of subset m is trained with a key of its own, fold_in(fold_in(key,
  r), m). Results stream to the score store at `path` ([R·M, Q], row r·M + m);
  the same call continues a store that a killed process left, to the same
  numbers. Hosts share the models by blocks.

  Args:
    train, queries: rows.
    subsets: [M, n] row numbers.
    repeats: R.
    key: of all models.
    path: of the score store.
    frozen: what each model has besides its parameters, as the base of LoRA
      adapters, the same for all: leaves of one model, or None.
    members_at_once: models trained together; memory grows with it, and with nothing
      else.
    attributes: further fields of the store's record; they must be the same when
      the call continues.

  Raises:
    ValueError: bad rows; a model diverged; the store is of another run.
  """
  subsets, key = np.asarray(subsets), door.as_key(key)

  def members_at(j):
    repeat, m = divmod(j, len(subsets))
    return Member(fold_in_all(key, repeat, m), subsets[m])

  def name(j):
    return f'the model of subset {j % len(subsets)}, repeat {j // len(subsets)}'

  measured = measure_retrained(
    problem,
    recipe,
    train,
    queries,
    Models(members_at, name, len(subsets), repeats, frozen),
    identity={
      'kind': 'outcomes',
      'subsets': digest(subsets),
      'key': digest(key),
    },
    path=path,
    members_at_once=members_at_once,
    attributes=attributes,
    progress=progress,
  )
  return measured[:, :, 0]


@door.renamed(at_once='members_at_once')
@door.by_keyword
def leave_one_out(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  indices: np.ndarray,
  *,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  points: Sequence[int] | None = None,
  members_at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
  """Measures with all rows, and with each of L rows left out.

  A row is left out by weight 0, and repeat r has one key for all models:
  initialisation and order of rows are the same, only the row differs. `base −
  left_out` has the sign of a score.

  Args:
    indices: [L] rows to leave out, one at a time.
    key: repeat r has fold_in(key, r); or [R] keys: with those of an ensemble,
      `base` measures its members.
    path: score store [R·(L+1), Q], row r·(L+1) for all rows.
    points: [T] rising steps of the run after which to measure, as those of
      checkpoints; None: its end.

  Returns:
    (base [R, Q], left_out [L, R, Q]); with points [R, T, Q] and [L, R, T, Q].

  Raises:
    ValueError: bad rows, indices, points or keys; a model diverged; the store
      is of another run.
  """
  train = door.rows(train, 'train', problem)
  rows = rows_lib.count(train)
  indices = checked_indices(indices, rows)
  keys = repeat_keys(key, repeats)
  if points is not None:
    points = checked_points(points, fit.total_steps(recipe, rows))

  def members_at(j):
    repeat, out = repeat_and_row(j, indices)
    return Member(keys[repeat], weights=weights_without(out, rows))

  name = leave_one_out_name(indices)
  measured = measure_retrained(
    problem,
    recipe,
    train,
    queries,
    Models(members_at, name, len(indices) + 1, repeats),
    identity={
      'kind': 'leave one out',
      **({'points': points} if points else {}),
      'indices': digest(indices),
      'key': digest(door.as_keys(key)),
    },
    path=path,
    points=points,
    members_at_once=members_at_once,
    attributes=attributes,
    progress=progress,
  )
  measured = measured if points else measured[:, :, 0]
  return measured[0], measured[1:]


@door.renamed(at_once='members_at_once')
@door.by_keyword
def reweighted(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  weights: np.ndarray,
  *,
  keys: jax.Array,
  path: str | os.PathLike,
  members_at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
  frozen: PyTree = None,
) -> np.ndarray:
  """Measures after given runs with other weights of the rows, [M, R, Q].

  Model (m, r) is the run of keys[r] with weights[m]: initialisation and order
  of rows are those of that run, and only the weights differ. Weight 0 takes a
  row out.

  Args:
    weights: [M, N] of the losses.
    keys: [R] typed keys, for example `Run.keys`.
    path: score store [R·M, Q], row r·M + m; the same call continues it.
    frozen: what each model has besides its parameters, as the base of LoRA
      adapters, the same for all: leaves of one model, or None.

  Raises:
    ValueError: bad rows or weights; a model diverged; the store is of another
      run.
  """
  weights, keys = np.asarray(weights, np.float32), door.as_keys(keys)
  count = len(weights)

  def members_at(j):
    repeat, m = np.divmod(j, count)
    return Member(keys[repeat], weights=weights[m])

  def name(j):
    return f'the model of weights {j % count} and key {j // count}'

  measured = measure_retrained(
    problem,
    recipe,
    train,
    queries,
    Models(members_at, name, count, len(keys), frozen),
    identity={
      'kind': 'reweighted',
      'weights': digest(weights),
      'keys': digest(keys),
    },
    path=path,
    members_at_once=members_at_once,
    attributes=attributes,
    progress=progress,
  )
  return measured[:, :, 0]


def checked_indices(
  indices: Sequence[int] | np.ndarray, rows: int
) -> np.ndarray:
  """The rows to leave out as an array, [L].

  Raises:
    ValueError: another shape; a row is not from 0 to `rows` − 1.
  """
  indices = np.asarray(indices)
  whole = indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer)
  if not whole or not ((indices >= 0) & (indices < rows)).all():
    raise ValueError(
      f'indices must be [L] whole numbers of rows from 0 to {rows - 1}'
    )
  return indices


def checked_points(points: Sequence[int], total: int) -> tuple[int, ...]:
  """The steps after which to measure, as integers, [T].

  Raises:
    ValueError: there are none, they do not rise, or one is not from 1 to `total`.
  """
  points = tuple(int(point) for point in points)
  if not points or points != tuple(sorted({*points} & {*range(1, total + 1)})):
    raise ValueError(
      f'points {list(points)} of a run of {total} steps: give rising steps from'
      f' 1 to {total}'
    )
  return points


def repeat_keys(key: jax.Array, repeats: int) -> jax.Array:
  """The keys of the repeats, [R]: `key` itself, or fold_in(key, r) of one key.

  Raises:
    ValueError: another number of keys than `repeats`.
  """
  key = door.as_keys(key)
  if not key.ndim:
    return fold_in_all(key, np.arange(repeats))
  if key.shape != (repeats,):
    raise ValueError(
      f'keys of shape {list(key.shape)} for {repeats} repeats: give one key, or'
      ' one for each repeat'
    )
  return key


def repeat_and_row(
  j: np.ndarray | int, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(repeat, row left out or −1 for none) of the leave-one-out models j.

  A repeat has L + 1 models; the first is trained on all rows.

  Args:
    j: numbers of models.
    indices: [L] rows that are left out, one at a time.
  """
  repeat, variant = np.divmod(j, len(indices) + 1)
  return repeat, np.append(-1, indices)[variant]


def weights_without(out: np.ndarray, rows: int) -> np.ndarray:
  """Weights [E, N] that are 0 for the row of each model in `out` (−1: none)."""
  return (out[:, None] != np.arange(rows)).astype(np.float32)


def leave_one_out_name(indices: np.ndarray) -> Callable[[int], str]:
  """A function j -> what to call leave-one-out model j in an error."""

  def name(j):
    repeat, out = repeat_and_row(j, indices)
    which = 'of all rows' if out < 0 else f'without row {out}'
    return f'the model {which}, repeat {repeat}'

  return name


@door.verb('retraining', 'members_at_once')
def measure_retrained(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  models: Models,
  *,
  identity: dict,
  path: str | os.PathLike,
  points: Sequence[int] | None = None,
  members_at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
) -> np.ndarray:
  """Trains all models and measures the queries, [V, R, T, Q].

  Measures stream to the score store at `path`; the same call continues it.

  Args:
    identity: fields that the store is known by, beside those of the training.
    points: [T] steps of the run after which to measure; None: its end, for
      which the store has no axis.
    attributes: further fields of the store's record, of the caller.

  Raises:
    ValueError: bad rows, recipe or members; a model diverged; the store is of
      another run.
  """
  door.check_path(path, needed=True)
  door.check_batch_size(members_at_once, 'members_at_once')
  door.check_batch_size(models.repeats, 'repeats')
  total = models.count * models.repeats
  train, queries, training = _checked(problem, recipe, train, queries, models)
  axes = () if points is None else (len(points),)
  shape = (total, *axes, rows_lib.count(queries))
  about = record.join_attributes(
    {**identity, **training}, attributes, free=('kind',)
  )
  store = parallel.in_turn(
    lambda: scores.create(path, shape, min(members_at_once, total), about)
  )
  measure = _part_measurer(problem, recipe, train, queries, models, points)
  _fill(store, measure, members_at_once, progress)
  parallel.barrier()
  measured = scores.read(store)
  measured = measured.reshape(models.repeats, models.count, *(axes or (1,)), -1)
  return measured.swapaxes(0, 1)


def _checked(problem, recipe, train, queries, models):
  """(rows, queries, what the training is known by), or ValueError."""
  first = _stack(models, np.arange(1), models.frozen)
  train = members.check(problem, recipe, train, first)
  queries = rows_lib.whole(door.rows(queries, 'queries', problem)).examples
  frozen = trees.row(first.frozen, 0)
  params = jax.eval_shape(recipe.init, jax.random.key(0))
  member_problem = bound(problem, frozen)
  door.check_rows_fit(member_problem, params, queries, 'queries', 'measure')
  functions = fingerprint.of_problem(problem, params, train, frozen, queries)
  n = members.row_count(train, first)
  own = {} if models.frozen is None else {'frozen': digest(models.frozen)}
  training = {
    **members.identity(problem, recipe, train, n, frozen),
    **own,
    'repeats': models.repeats,
    'measure': functions['measure'],
    'queries': digest(queries),
  }
  return train, queries, training


def _fill(store, measure, members_at_once, progress):
  """Measures and writes this host's blocks of the store that are not done.

  Args:
    measure: of `_part_measurer`.
  """
  block, total = store.rows_per_block, store.shape[0]
  workers = min(_workers(), block)
  size = -(-min(members_at_once, block) // workers)
  unfinished = parallel.share(np.flatnonzero(~scores.done(store)))
  starts = [int(number) * block for number in unfinished]
  spans = [np.arange(start, min(start + block, total)) for start in starts]
  with (
    _bar(sum(map(len, spans)), progress) as bar,
    futures.ThreadPoolExecutor(workers) as pool,
  ):
    # Sums of fractions may pass the total by their rounding.
    update = lambda models: bar.update(min(models, bar.total - bar.n))
    for span in spans:
      parts = [span[i : i + size] for i in range(0, len(span), size)]
      measured = pool.map(lambda part: measure(part, size, update), parts)
      measured = np.concatenate([*measured]).reshape(-1, *store.shape[1:])
      scores.write(store, int(span[0]), measured)


def _part_measurer(problem, recipe, train, queries, models, points) -> Callable:
  """(models j, size, update) -> [len(j), T, Q], `size` models at once.

  `update` is called with the number of models' runs that were trained since it
  was called before.
  """
  given = (train, queries, models.frozen)
  train, queries, frozen = members.on_device(given)

  def measure(j, size, update):
    # A smaller last part trains its last model more than once: compiling for
    # another size would cost more.
    padded = np.minimum(j[0] + np.arange(size), j[-1])
    stack = members.on_device(_stack(models, padded, frozen))
    total = fit.total_steps(recipe, members.row_count(train, stack))
    stops, measured = points or (total,), []
    name = lambda e: models.name(int(padded[e]))
    run = members.train_segments(problem, recipe, train, stack, name, stops)
    for part, params in run:
      if part.done in stops:
        measured.append(measures(problem, params, queries, stack.frozen))
      update(len(j) * (part.last - part.first) / total)
    measured = np.stack(measured, 1)[: len(j)]
    bad = ~np.isfinite(measured).all(axis=(1, 2))
    if bad.any():
      raise ValueError(
        f'{models.name(int(j[np.argmax(bad)]))} gives a query a measure that is'
        ' not finite: lower the learning rate or train for fewer epochs'
      )
    return measured

  return measure


def _stack(models, j, frozen):
  """The members j, each with what is frozen for all."""
  stack = models.members_at(j)
  if frozen is None:
    return stack
  return stack._replace(frozen=trees.repeated(frozen, len(j)))


@functools.partial(jax.jit, static_argnames='problem')
def measures(
  problem: Problem, params: PyTree, queries: PyTree, frozen: PyTree = None
) -> jax.Array:
  """The measure of every query after each of E models, [E, Q].

  Args:
    params, frozen: leaves [E, ...], like those of a `Run`.
  """

  def measures_of_model(params, frozen):
    member_problem = bound(problem, frozen)
    return jax.lax.map(
      lambda query: measure_of(member_problem, params, query),
      queries,
      batch_size=min(QUERIES_AT_ONCE, rows_lib.count(queries)),
    )

  return jax.vmap(measures_of_model)(params, frozen)


def fold_in_all(key: jax.Array, *numbers: np.ndarray) -> jax.Array:
  """`key` folded by each of the numbers in turn, [E]."""
  keys = jnp.broadcast_to(key, numbers[0].shape)
  for number in numbers:
    keys = jax.vmap(jax.random.fold_in)(keys, jnp.asarray(number))
  return keys


def _workers() -> int:
  """Number of parts trained in parallel; one model does not fill a CPU."""
  cores = os.cpu_count() or 1
  return cores if jax.default_backend() == 'cpu' else 1


def _bar(models, progress):
  return tqdm.tqdm(
    total=models,
    desc='retraining',
    unit=' models',
    mininterval=1,
    disable=not progress,
    bar_format='{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} models'
    ' [{elapsed}<{remaining}, {rate_fmt}]',
  )
