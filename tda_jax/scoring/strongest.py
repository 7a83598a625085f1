"""The strongest supporters of each query, without the N x Q matrix."""

import functools
import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tda_jax import door, memory, parallel
from tda_jax.data import rows as rows_lib
from tda_jax.methods import fitted as fitted_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.compiled import compiled
from tda_jax.methods.fitted import Fitted
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.scoring import programs
from tda_jax.scoring.about import about_of
from tda_jax.storage import checkpoints, record
from tda_jax.trees import PyTree


@door.verb('top_k')
def top_k(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  k: int,
  *,
  name: str | None = None,
  key: jax.Array | int | None = None,
  path: str | os.PathLike | None = None,
  batch_size: int = 256,
  queries_at_once: int | None = None,
  fitted: Fitted | None = None,
  save_seconds: float = 30.0,
  progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """The k strongest supporters of each query: (scores, rows), [Q, k].

  The N x Q matrix is never held. For the strongest opponents, negate the scores:
  `m._replace(score=lambda *a: -m.score(*a))`.

  Args:
    run: one model, as a Run or its parameters; an ensemble's members for an
      `ensemble` method.
    name: of the method, for errors and records; None: `name_of` it.
    key: see `attribute`.
    path: a folder that keeps the strongest so far; the same call continues from
      it. None: nothing is kept.
    queries_at_once: queries that are prepared together; all rows are gone through
      for each block of them. None: all.
    fitted: see `attribute`.

  Raises:
    ValueError: what `door.enter` refuses, or k; a solver diverged; `path` was
      computed by something else, or `fitted`.
  """
  entered = door.enter(method, problem, run, train, queries, key)
  door.check_batch_size(batch_size)
  name = name or method_lib.name_of(method)
  n, q = rows_lib.count(entered.train), rows_lib.count(entered.queries)
  door.check_batch_size(k, 'k')
  door.check_path(path)
  if k > n:
    raise ValueError(f'k={k} of {n} training rows: give 1 to {n}')
  size = q if queries_at_once is None else queries_at_once
  door.check_batch_size(size, 'queries_at_once')
  state = fitted_lib.state_of(fitted, method, problem, entered, name)
  if state is None and size < q and method.fit is not None:
    state = parallel.by_all_hosts(
      functools.partial(programs.fit, method, problem),
      *(entered.run, entered.train, entered.key),
    )
  of_blocks = []
  for first in range(0, q, size):
    part = slice(first, min(first + size, q))
    block = entered._replace(queries=rows_lib.take(entered.queries, part))
    if first and method.fit is None:  # else blocks would have equal draws
      block = block._replace(key=jax.random.fold_in(entered.key, first))
    folder = path if path is None or size >= q else f'{path}/{first}'
    of_blocks.append(
      _of_queries(
        Search(method, problem, block, name, state, k, batch_size),
        folder,
        save_seconds,
        progress,
      )
    )
  values, rows = zip(*of_blocks, strict=True)
  return np.concatenate(values), np.concatenate(rows)


class Search(NamedTuple):
  """What is looked for, of one block of queries."""

  method: Method
  problem: Problem
  entered: door.Entered
  name: str
  fitted: PyTree
  k: int
  batch_size: int


def _of_queries(
  search: Search, path, save_seconds: float, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
  """(scores, rows) [Q, k] of one block of queries; kept in `path`."""
  method, problem, entered, name, fitted, k, _ = search
  run, train, queries, key, _ = entered
  n, q = rows_lib.count(train), rows_lib.count(queries)
  if path is None:
    folders = [None] * min(n, jax.process_count())
  else:
    about = {**about_of(method, problem, entered, name, run), 'k': k}
    parallel.in_turn(lambda: record.begin(path, about))
    folders = checkpoints.parts(path, n)
  with memory.explained('prepare', name):
    prepared = parallel.by_all_hosts(
      functools.partial(programs.prepare, method, problem),
      *(run, train, queries, key, fitted),
    )
    method_lib.check_solution(prepared, name, method.hint)
  bounds = [n * part // len(folders) for part in range(len(folders) + 1)]

  def of_part(part):
    best = _none(q, k, bounds[part])
    end, folder = bounds[part + 1], folders[part]
    return _of_rows(search, prepared, best, end, folder, save_seconds, progress)

  spare = functools.partial(_none, q, k, n)
  best = _joined(k, parallel.by_share(of_part, len(folders), spare))
  door.warn_unconverged(prepared.solution, name)
  door.warn_left_out(prepared.left_out, name)
  values = door.finite(np.asarray(best['values']), name, method.hint)
  return values, np.asarray(best['rows'])


def _none(q: int, k: int, first: int) -> dict:
  """The k strongest of no rows; `first` is the next row."""
  return {
    'values': np.full((q, k), -np.inf, np.float32),
    'rows': np.zeros((q, k), np.int32),
    'next': np.asarray(first, np.int32),
  }


def _of_rows(search, prepared, best, end, folder, save_seconds, progress):
  """The strongest with the rows from `best['next']` to before `end`.

  Args:
    folder: which keeps the strongest so far, from which it goes on; None: nothing
      is kept.
  """
  method, problem, entered, _, _, k, size = search
  if folder is not None:
    last = checkpoints.newest(folder, 'top')
    if last is not None:
      best = checkpoints.load(folder / f'top_{last}', best)
  run = parallel.replicate(entered.run)
  merge = functools.partial(compiled(_merged), method, problem, run, prepared)
  saved = time.monotonic()
  first = int(best['next'])
  batches = rows_lib.batches(entered.train, size, first, end)
  total = -(-(end - first) // size)
  for batch in tqdm.tqdm(batches, 'top k', total, disable=not progress):
    best = merge(best, jax.tree.map(jnp.asarray, batch))
    if folder is not None and time.monotonic() - saved >= save_seconds:
      checkpoints.keep(folder, 'top', int(best['next']), best)
      saved = time.monotonic()
  if folder is not None and first < end:
    checkpoints.keep(folder, 'top', int(best['next']), best)
  return best


def _merged(method, problem, run, prepared, best, batch):
  """The strongest so far, with those of a batch."""
  block = method_lib.score(method, problem, run, prepared, batch)
  block = block.astype(best['values'].dtype)
  block = jnp.where(batch.mask[:, None] > 0, block, -jnp.inf)
  index = jnp.broadcast_to(batch.index, (block.shape[1], len(batch.index)))
  values, place = jax.lax.top_k(
    jnp.concatenate([best['values'], block.T], 1), best['values'].shape[1]
  )
  index = jnp.concatenate([best['rows'], index], 1)
  rows = jnp.take_along_axis(index, place, 1)
  found = {'values': values, 'rows': rows, 'next': batch.index[-1] + 1}
  return jax.tree.map(lambda x, like: x.astype(like.dtype), found, best)


def _joined(k: int, parts: list[dict]) -> dict:
  """The strongest of parts of the rows, in their order."""
  if len(parts) == 1:
    return parts[0]
  join = lambda name: np.concatenate([part[name] for part in parts], 1)
  values, place = jax.lax.top_k(join('values'), k)
  return {
    'values': values,
    'rows': np.take_along_axis(join('rows'), np.asarray(place), 1),
  }
