"""Ground truth by retraining: what models trained on other rows say.

Models are numbered j = r·(variants) + v: all variants of repeat 0 first, so
that a run that was cut short holds whole repeats.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from tda_jax import door, trees
from tda_jax.data import rows as data
from tda_jax.problem import Problem, bound, measure_of
from tda_jax.storage import fingerprint, record, scores
from tda_jax.storage.fingerprint import digest
from tda_jax.training import fit, members
from tda_jax.training.fit import Member, Recipe

PyTree = Any

QUERIES_AT_ONCE = 512


def outcomes(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  subsets: np.ndarray,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  *,
  at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
) -> np.ndarray:
  """Measures of the queries after training on each subset, [M, R, Q].

  Repeat r of subset m is trained with a key of its own, fold_in(fold_in(key,
  r), m). Results stream to the score store at `path` ([R·M, Q], row r·M + m);
  the same call continues a store that a killed process left, to the same
  numbers. Hosts share the models by blocks.

  Args:
    train, queries: rows.
    subsets: [M, n] row numbers.
    at_once: models trained together; memory grows with it, and with nothing
      else.
    attributes: what else the store is to say of itself; it must agree when the
      call continues.

  Raises:
    ValueError: bad rows; a model diverged; the store is of another run.
  """
  subsets, key = np.asarray(subsets), door.as_key(key)

  def variant(j):
    repeat, m = divmod(j, len(subsets))
    return Member(folded(key, repeat, m), subsets[m])

  def name(j):
    return f'the model of subset {j % len(subsets)}, repeat {j // len(subsets)}'

  found = retrained(
      problem, recipe, train, queries, variant, name,
      count=len(subsets), repeats=repeats, path=path, at_once=at_once,
      progress=progress,
      given=attributes,
      attributes={
          'kind': 'outcomes',
          'subsets': digest(subsets),
          'key': digest(key),
      },
  )  # fmt: skip
  return found[:, :, 0]


def leave_one_out(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  indices: np.ndarray,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  *,
  points: Sequence[int] | None = None,
  at_once: int = 50,
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
  rows = data.count(train)
  indices = checked_indices(indices, rows)
  keys = repeated(key, repeats)
  if points is not None:
    points = checked_points(points, fit.total_steps(recipe, rows))

  def variant(j):
    repeat, out = left_out(j, indices)
    return Member(keys[repeat], weights=without(out, rows))

  found = retrained(
      problem, recipe, train, queries, variant, left_out_name(indices),
      count=len(indices) + 1, repeats=repeats, path=path, at_once=at_once,
      progress=progress, points=points,
      given=attributes,
      attributes={
          'kind': 'leave one out',
          **({'points': points} if points else {}),
          'indices': digest(indices),
          'key': digest(door.as_keys(key)),
      },
  )  # fmt: skip
  found = found if points else found[:, :, 0]
  return found[0], found[1:]


def reweighted(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  weights: np.ndarray,
  keys: jax.Array,
  path: str | os.PathLike,
  *,
  at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
) -> np.ndarray:
  """Measures after given runs with other weights of the rows, [M, R, Q].

  Model (m, r) is the run of keys[r] with weights[m]: initialisation and order
  of rows are those of that run, and only the weights differ. Weight 0 takes a
  row out.

  Args:
    weights: [M, N] of the losses.
    keys: [R] typed keys, as `Run.keys`.
    path: score store [R·M, Q], row r·M + m; the same call continues it.

  Raises:
    ValueError: bad rows or weights; a model diverged; the store is of another
      run.
  """
  weights, keys = np.asarray(weights, np.float32), door.as_keys(keys)
  count = len(weights)

  def variant(j):
    repeat, m = np.divmod(j, count)
    return Member(keys[repeat], weights=weights[m])

  def name(j):
    return f'the model of weights {j % count} and key {j // count}'

  return retrained(
      problem, recipe, train, queries, variant, name,
      count=count, repeats=len(keys), path=path, at_once=at_once,
      progress=progress,
      given=attributes,
      attributes={
          'kind': 'reweighted',
          'weights': digest(weights),
          'keys': digest(keys),
      },
  )[:, :, 0]  # fmt: skip


def checked_indices(indices, rows: int) -> np.ndarray:
  """Rows to leave out, [L]; raises ValueError unless they are from 0 to N−1."""
  indices = np.asarray(indices)
  whole = indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer)
  if not whole or not ((indices >= 0) & (indices < rows)).all():
    raise ValueError(
      f'indices must be [L] whole numbers of rows from 0 to {rows - 1}'
    )
  return indices


def checked_points(points, total: int) -> tuple[int, ...]:
  """Steps of a run, rising; raises ValueError unless from 1 to `total`."""
  points = tuple(int(point) for point in points)
  if not points or points != tuple(sorted({*points} & {*range(1, total + 1)})):
    raise ValueError(
      f'points {list(points)} of a run of {total} steps: give rising steps from'
      f' 1 to {total}'
    )
  return points


def repeated(key: jax.Array, repeats: int) -> jax.Array:
  """The [R] keys of repeats: given, or fold_in(key, r)."""
  key = door.as_keys(key)
  if not key.ndim:
    return folded(key, np.arange(repeats))
  if key.shape != (repeats,):
    raise ValueError(
      f'keys of shape {list(key.shape)} for {repeats} repeats: give one key, or'
      ' one for each repeat'
    )
  return key


def left_out(j, indices) -> tuple[np.ndarray, np.ndarray]:
  """(repeat, row left out or −1) of models j, L + 1 a repeat: all rows first."""
  repeat, left = np.divmod(j, len(indices) + 1)
  return repeat, np.append(-1, indices)[left]


def without(out: np.ndarray, rows: int) -> np.ndarray:
  """Weights [E, N] that are 0 for the row of each model in `out` (−1: none)."""
  return (out[:, None] != np.arange(rows)).astype(np.float32)


def left_out_name(indices) -> Callable:
  """j -> what to call that model of `left_out`."""

  def name(j):
    repeat, out = left_out(j, indices)
    which = 'of all rows' if out < 0 else f'without row {out}'
    return f'the model {which}, repeat {repeat}'

  return name


@door.verb('retraining', 'at_once')
def retrained(
    problem, recipe, train, queries, variant, name, *, count, repeats, path,
    at_once, progress, attributes, given, points=None,
):  # fmt: skip
  """Measures [count, R, T, Q] of models 0..R·count−1, streamed to `path`.

  Args:
    variant: j [E] -> stack of members.
    name: j -> what to call that model.
    attributes: what the store is known by, beside the training.
    given: what else the caller wants it to say of itself.
    points: [T] steps of the run after which to measure; None: its end, for
      which the store has no axis.
  """
  door.check_path(path, needed=True)
  door.check_batch_size(at_once, 'at_once')
  door.check_batch_size(repeats, 'repeats')
  total = count * repeats
  first = variant(np.arange(1))
  train = members.check(problem, recipe, train, first)
  queries = door.rows(queries, 'queries', problem)
  frozen = trees.row(first.frozen, 0)
  params = jax.eval_shape(recipe.init, jax.random.key(0))
  own = bound(problem, frozen)
  door.labelled(own, params, queries, 'queries', 'measure')
  functions = fingerprint.of_problem(problem, params, train, frozen, queries)
  n = members.own_rows(train, first)
  own = {
    **attributes,
    **members.identity(problem, recipe, train, n, frozen),
    'repeats': repeats,
    'measure': functions['measure'],
    'queries': digest(queries),
  }
  axes = () if points is None else (len(points),)
  shape = (total, *axes, data.count(queries))
  about = record.joined(own, given, free=('kind',))
  store = scores.create(path, shape, min(at_once, total), about)
  block = store.rows_per_block
  workers = min(_workers(), block)
  size = -(-min(at_once, block) // workers)
  todo = [int(b) * block for b in _mine(np.flatnonzero(~scores.done(store)))]
  spans = [np.arange(first, min(first + block, total)) for first in todo]
  measured = _measured(problem, recipe, train, queries, variant, name, points)
  with (
    _bar(sum(map(len, spans)), progress) as bar,
    futures.ThreadPoolExecutor(workers) as pool,
  ):
    for span in spans:
      parts = [span[i : i + size] for i in range(0, len(span), size)]
      found = pool.map(lambda p: measured(p, size, bar.update), parts)
      found = np.concatenate([*found]).reshape(-1, *shape[1:])
      scores.write(store, int(span[0]), found)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('retraining')
  found = scores.read(store).reshape(repeats, count, *(axes or (1,)), -1)
  return found.swapaxes(0, 1)


def _measured(
  problem, recipe, train, queries, variant, name, points
) -> Callable:
  """(models j, size, update) -> [len(j), T, Q], `size` models at once."""
  train, queries = members.on_device((train, queries))

  def measured(j, size, update):
    # A smaller last part trains its last model more than once: compiling for
    # another size would cost more.
    padded = np.minimum(j[0] + np.arange(size), j[-1])
    stack = members.on_device(variant(padded))
    total = fit.total_steps(recipe, members.own_rows(train, stack))
    wanted, found = points or (total,), []
    run = members.trained(
        problem, recipe, train, stack,
        lambda e: name(int(padded[e])), wanted,
    )  # fmt: skip
    for part, params in run:
      if part.done in wanted:
        found.append(measures(problem, params, queries, stack.frozen))
      update(len(j) * (part.last - part.first) / total)
    found = np.stack(found, 1)[: len(j)]
    bad = ~np.isfinite(found).all(axis=(1, 2))
    if bad.any():
      raise ValueError(
        f'{name(int(j[np.argmax(bad)]))} gives a query a measure that is not'
        ' finite: lower the learning rate or train for fewer epochs'
      )
    return found

  return measured


@functools.partial(jax.jit, static_argnames='problem')
def measures(
  problem: Problem, params: PyTree, queries: PyTree, frozen: PyTree = None
) -> jax.Array:
  """The measure of every query after each of E models, [E, Q].

  Args:
    params, frozen: leaves [E, ...], as of a `Run`.
  """

  def one(params, frozen):
    own = bound(problem, frozen)
    return jax.lax.map(
      lambda query: measure_of(own, params, query),
      queries,
      batch_size=min(QUERIES_AT_ONCE, data.count(queries)),
    )

  return jax.vmap(one)(params, frozen)


def folded(key, *numbers):
  """`key` folded by each of the numbers in turn, [E]."""
  keys = jnp.broadcast_to(key, numbers[0].shape)
  for number in numbers:
    keys = jax.vmap(jax.random.fold_in)(keys, jnp.asarray(number))
  return keys


def _mine(blocks):
  """This host's blocks: by number, so that no other host has them too."""
  return blocks[blocks % jax.process_count() == jax.process_index()]


def _workers():
  """Blocks trained beside each other: one model's products fill no CPU."""
  return os.cpu_count() if jax.default_backend() == 'cpu' else 1


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
