"""Scores of many rows, streamed to disk; killed at any moment, it continues.

Beside the training rows, memory holds the gradients of one batch of them and the
prepared queries, whatever N.
"""

import functools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.storage import checkpoints, record
from tda_jax.storage import scores as store_lib
from tda_jax.training.fit import Run
from tda_jax.training.members import digest

PyTree = Any

# Of the module, so that a method that is asked of other data of the same shapes
# is not compiled again.
_prepare = jax.jit(method_lib.prepare, static_argnums=(0, 1))
_score = jax.jit(method_lib.score, static_argnums=(0, 1))


def score(
  method: Method,
  problem: Problem,
  runs: Run,
  train: PyTree,
  queries: PyTree,
  path: str | os.PathLike,
  *,
  name: str,
  key: jax.Array,
  batch_size: int = 256,
  attributes: dict | None = None,
  progress: bool = True,
) -> np.ndarray:
  """Scores of every member, [E, N, Q]; member e is the store `path`/e.

  A member whose store is complete is not prepared again. facts.json beside it
  says how long it took and how well its solver did.

  Args:
    runs: trained models with a leading member axis.
    name: of the method, for errors and records.
    key: folded by the member's number.
    attributes: what the stores are to say of themselves; must agree on resume.

  Raises:
    ValueError: bad rows; a solver diverged; a store of another run.
  """
  if method.members:
    raise ValueError(
      f'{name} is an ensemble, whose scores are of all members at once: use'
      ' attribute, or score its members and take the mean'
    )
  _check(method._replace(members=True), problem, runs, train, queries)
  about = _about(method, problem, runs, train, queries, key, name)
  train, queries = jax.tree.map(jnp.asarray, (train, queries))
  prepare = functools.partial(_prepare, method, problem)
  blocks = functools.partial(_score, method, problem)
  shape = (rows_lib.count(train), rows_lib.count(queries))
  members = range(trees.count(runs.params))
  runs = method_lib.members_of(runs)
  every = []
  for member in tqdm.tqdm(members, name, unit='model', disable=not progress):
    folder = pathlib.Path(path) / str(member)
    store = store_lib.create(
      folder,
      shape,
      batch_size,
      {**about, 'member': member, **(attributes or {})},
    )
    if not _told(folder):
      store_lib.forget(store)  # else its seconds would be of nothing
    if not store_lib.done(store).all():
      run = trees.row(runs, member)
      started = time.monotonic()
      prepared = prepare(run, train, queries, jax.random.fold_in(key, member))
      method_lib.check_solution(prepared, name, method.cure)
      jax.block_until_ready(prepared)
      seconds = {'prepare_seconds': time.monotonic() - started}
      facts = {**seconds, **_solver_facts(prepared)}
      record.write_json(folder / 'facts.json', {**facts, 'score_seconds': 0.0})
      started = time.monotonic()
      _fill(store, train, functools.partial(blocks, run, prepared))
      facts['score_seconds'] = time.monotonic() - started
      record.write_json(folder / 'facts.json', facts)
    every.append(store_lib.read(store))
  return np.stack(every)


def top_k(
  method: Method,
  problem: Problem,
  run: Run,
  train: PyTree,
  queries: PyTree,
  k: int,
  *,
  name: str,
  key: jax.Array,
  path: str | os.PathLike | None = None,
  batch_size: int = 256,
  save_seconds: float = 30.0,
  progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """The k strongest supporters of each query: (scores, rows), [Q, k].

  The N x Q matrix is never held. Strongest opponents: negate the scores, as in
  `Method(m.prepare, lambda *a: -m.score(*a))`.

  Args:
    name: of the method, for errors and records.
    path: a folder that keeps what was found so far; the same call continues
      from it. None: nothing is kept.

  Raises:
    ValueError: bad rows or k; a solver diverged; `path` is of another call.
  """
  _check(method, problem, run, train, queries)
  n, q = rows_lib.count(train), rows_lib.count(queries)
  if not 0 < k <= n:
    raise ValueError(f'k={k} of {n} training rows: give 1 to {n}')
  start = {
    'values': np.full((q, k), -np.inf, np.float32),
    'rows': np.zeros((q, k), np.int32),
    'next': np.zeros((), np.int32),
  }
  best = start
  if path is not None:
    about = _about(method, problem, run, train, queries, key, name)
    best = _top_so_far(path, start, about)
  queries = jax.tree.map(jnp.asarray, queries)
  train_rows = jax.tree.map(jnp.asarray, train)
  prepared = _prepare(method, problem, run, train_rows, queries, key)
  method_lib.check_solution(prepared, name, method.cure)

  @jax.jit
  def merge(best, batch):
    block = method_lib.score(method, problem, run, prepared, batch)
    block = jnp.where(batch.mask[:, None] > 0, block, -jnp.inf)
    index = jnp.broadcast_to(batch.index, (q, len(batch.index)))
    values, place = jax.lax.top_k(
      jnp.concatenate([best['values'], block.T], 1), k
    )
    index = jnp.concatenate([best['rows'], index], 1)
    rows = jnp.take_along_axis(index, place, 1)
    return {'values': values, 'rows': rows, 'next': batch.index[-1] + 1}

  saved = time.monotonic()
  first = int(best['next'])
  total = -(-(n - first) // batch_size)
  every = rows_lib.batches(train, batch_size, first)
  for batch in tqdm.tqdm(every, 'top k', total, disable=not progress):
    best = merge(best, jax.tree.map(jnp.asarray, batch))
    if path is not None and time.monotonic() - saved >= save_seconds:
      checkpoints.keep(path, 'top', int(best['next']), best)
      saved = time.monotonic()
  if path is not None and first < n:
    checkpoints.keep(path, 'top', int(best['next']), best)
  return np.asarray(best['values']), np.asarray(best['rows'])


def _top_so_far(path, start, about):
  path = pathlib.Path(path)
  record.begin(path, {**about, 'k': start['rows'].shape[1]})
  last = checkpoints.newest(path, 'top')
  return (
    start if last is None else checkpoints.load(path / f'top_{last}', start)
  )


def _check(method, problem, run, train, queries):
  for rows, name in ((train, 'train'), (queries, 'queries')):
    rows_lib.check(rows, name)
    method_lib.check_run(method, problem, run, rows)


def _about(method, problem, run, train, queries, key, name) -> dict:
  """What a store says of itself, so that no other call continues it."""
  return {
    'method': name,
    'unit': method.unit,
    'sign': 'positive supports',
    'reduction': 'mean loss',
    'l2': problem.l2,
    'models': digest(run.params),
    'checkpoints': digest(run.checkpoints),
    'train': digest(train),
    'queries': digest(queries),
    'key': digest(jax.random.key_data(key)),
    **({} if run.frozen is None else {'frozen': digest(run.frozen)}),
  }


def _told(folder) -> bool:
  """Whether it is known how scoring went; it is written before any block."""
  try:
    return bool(record.read_json(folder / 'facts.json'))
  except ValueError:
    return False


def _fill(store, train, blocks: Callable) -> None:
  """Writes the blocks that are missing; the next is computed meanwhile."""
  done = store_lib.done(store)
  pending = None
  for batch in rows_lib.batches(train, store.rows_per_block):
    if done[batch.index[0] // store.rows_per_block]:
      continue
    found = blocks(jax.tree.map(jnp.asarray, batch))
    if pending is not None:
      _write(store, *pending)
    pending = batch, found
  if pending is not None:
    _write(store, *pending)


def _write(store, batch, block):
  store_lib.write(store, int(batch.index[0]), np.asarray(block)[batch.mask > 0])


def _solver_facts(prepared):
  solution = prepared.solution
  if solution is None:
    return {}
  return {
    'damping': float(solution.damping),
    'steps': np.asarray(solution.steps),
    'residual': np.asarray(solution.residuals).mean(1),
    'worst_residual': np.asarray(solution.residuals).max(1, initial=0),
    'converged': float(np.asarray(solution.converged).mean()),
  }
