"""Scores of many rows, streamed to disk; killed at any moment, it continues.

Memory holds one batch of training rows and the prepared queries, whatever N.
"""

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.storage import record
from tda_jax.storage import scores as store_lib
from tda_jax.training.fit import Run

PyTree = Any


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
  rows_lib.check(train, 'train')
  rows_lib.check(queries, 'queries')
  train, queries = jax.tree.map(jnp.asarray, (train, queries))
  prepare = jax.jit(
      lambda run, train, queries, key: method.prepare(
          problem, run, train, queries, key
      )
  )
  blocks = jax.jit(
      lambda run, prepared, batch: method.score(problem, run, prepared, batch)
  )
  shape = (rows_lib.count(train), rows_lib.count(queries))
  members = range(jax.tree.leaves(runs.params)[0].shape[0])
  every = []
  for member in tqdm.tqdm(members, name, unit='model', disable=not progress):
    folder = pathlib.Path(path) / str(member)
    store = store_lib.create(
        folder,
        shape,
        batch_size,
        {'method': name, 'member': member, **(attributes or {})},
    )
    if not store_lib.done(store).all():
      run = jax.tree.map(lambda leaf, m=member: leaf[m], members_of(runs))
      started = time.monotonic()
      prepared = prepare(run, train, queries, jax.random.fold_in(key, member))
      method_lib.check_solution(prepared, name)
      jax.block_until_ready(prepared)
      ready = time.monotonic()
      _fill(store, train, lambda batch, r=run, p=prepared: blocks(r, p, batch))
      record.write_json(
          folder / 'facts.json',
          {
              'prepare_seconds': ready - started,
              'score_seconds': time.monotonic() - ready,
              **_solver_facts(prepared),
          },
      )
    every.append(store_lib.read(store))
  return np.stack(every)


def members_of(runs: Run) -> Run:
  """A Run whose every leaf has the member axis, to be indexed by member."""
  count = jax.tree.leaves(runs.params)[0].shape[0]
  repeat = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))
  return runs._replace(
      learning_rates=jax.tree.map(repeat, runs.learning_rates),
      steps=jax.tree.map(repeat, runs.steps),
  )


def top_k(
    method: Method,
    problem: Problem,
    run: Run,
    train: PyTree,
    queries: PyTree,
    k: int,
    *,
    key: jax.Array,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
  """The k strongest supporters of each query: (scores, rows), [Q, k].

  The N x Q matrix is never held. Strongest opponents: negate the scores, as in
  `Method(m.prepare, lambda *a: -m.score(*a))`.
  """
  rows_lib.check(train, 'train')
  rows_lib.check(queries, 'queries')
  n = rows_lib.count(train)
  if not 0 < k <= n:
    raise ValueError(f'k={k} of {n} training rows: give 1 to {n}')
  queries = jax.tree.map(jnp.asarray, queries)
  prepared = jax.jit(method.prepare, static_argnums=0)(
      problem, run, jax.tree.map(jnp.asarray, train), queries, key
  )
  method_lib.check_solution(prepared, 'the solver')

  @jax.jit
  def merge(best, batch):
    block = method.score(problem, run, prepared, batch)
    block = jnp.where(batch.mask[:, None] > 0, block, -jnp.inf)
    values = jnp.concatenate([best[0], block.T], 1)
    index = jnp.broadcast_to(batch.index, (len(values), len(batch.index)))
    index = jnp.concatenate([best[1], index], 1)
    values, place = jax.lax.top_k(values, k)
    return values, jnp.take_along_axis(index, place, 1)

  q = rows_lib.count(queries)
  best = (jnp.full((q, k), -jnp.inf), jnp.zeros((q, k), jnp.int32))
  for batch in rows_lib.batches(train, batch_size):
    best = merge(best, jax.tree.map(jnp.asarray, batch))
  return np.asarray(best[0]), np.asarray(best[1])


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
  store_lib.write(
      store, int(batch.index[0]), np.asarray(block)[batch.mask > 0]
  )


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
