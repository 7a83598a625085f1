"""Scores of many rows, streamed to disk; a killed call can be continued.

Beside the training rows, memory holds the gradients of one batch of them and the
prepared queries, for any N.
"""

import functools
import hashlib
import os
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tda_jax import door, memory, parallel, trees
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run, members_of
from tda_jax.scoring import programs
from tda_jax.scoring.about import about_of
from tda_jax.storage import record
from tda_jax.storage import scores as store_lib
from tda_jax.trees import PyTree


@door.verb('score')
def score(
  method: Method,
  problem: Problem,
  runs: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  path: str | os.PathLike,
  *,
  name: str | None = None,
  key: jax.Array | int | None = None,
  batch_size: int = 256,
  attributes: dict | None = None,
  progress: bool = True,
) -> store_lib.Scores:
  """Scores of every member, [E, N, Q]; those of member e are stored in `path`/e.

  They are read from there where they are used, as an array is: `scores[e]`,
  `np.asarray(scores)`.

  A member whose store is complete is not prepared again. facts.json beside it
  records how long it took and how well its solver did.

  Args:
    runs: trained models with a leading member axis, as a Run or bare
      parameters; one model is an ensemble of one.
    name: of the method, for errors and records; None: `name_of` it.
    key: see `attribute`; it is folded by the member's number.
    attributes: further fields of the stores' records; they must agree on resume.

  Raises:
    ValueError: what `door.enter` refuses; a solver diverged; the store was
      computed by something else.
  """
  door.check_method(method)
  door.check_path(path, needed=True)
  name = name or method_lib.name_of(method)
  door.check_batch_size(batch_size)
  if method.members:
    raise ValueError(
      f'{name} is an ensemble, whose scores are of all members at once: use'
      ' attribute, or score its members and take the mean'
    )
  entered = door.enter(method, problem, runs, train, queries, key, stacked=True)
  runs, train, queries, key, _ = entered
  runs = members_of(runs)
  about = about_of(method, problem, entered, name, trees.row(runs, 0))
  about = record.join_attributes({**about, 'member': 0}, attributes)
  train, queries = parallel.replicate((train, queries))
  prepare = functools.partial(programs.prepare, method, problem)
  blocks = functools.partial(programs.score, method, problem)
  shape = (rows_lib.count(train), rows_lib.count(queries))
  members = range(trees.count(runs.params))
  stores = []
  for member in tqdm.tqdm(members, name, unit='model', disable=not progress):
    folder = pathlib.Path(path) / str(member)
    store = parallel.in_turn(
      functools.partial(
        _opened, folder, shape, batch_size, {**about, 'member': member}, path
      )
    )
    missing = np.flatnonzero(~store_lib.done(store))
    own = parallel.share(missing)
    if own.size or (missing.size and parallel.owner()):  # who writes the facts
      run = parallel.replicate(trees.row(runs, member))
      started = time.monotonic()
      member_key = jax.random.fold_in(key, member)
      with memory.explained('prepare', name):
        prepared = prepare(run, train, queries, member_key)
        method_lib.check_solution(prepared, name, method.hint)
        jax.block_until_ready(prepared)
      facts = {
        'store': _name_of(store),
        'prepare_seconds': time.monotonic() - started,
        **_solver_facts(prepared),
      }
      record.write_json(folder / 'facts.json', {**facts, 'score_seconds': 0.0})
      started = time.monotonic()
      with memory.explained('score', name):
        _fill(store, own, train, functools.partial(blocks, run, prepared))
      facts['score_seconds'] = time.monotonic() - started
      record.write_json(folder / 'facts.json', facts)
    parallel.barrier()
    stores.append(store)
  _say_unconverged(path, members, name)
  return store_lib.Scores(stores)


def _opened(folder, shape, batch_size, about, path):
  """The member's store, without blocks of which it is not known how they went."""
  store = store_lib.create(folder, shape, batch_size, about, holder=path)
  if not _has_facts(store) and parallel.owner():
    store_lib.forget(store)  # else its seconds would be unknown
  return store


def _say_unconverged(path, members, name):
  """Warns if a member's solver did not converge, also in an earlier call."""
  facts = [
    record.read_json(pathlib.Path(path) / str(e) / 'facts.json')
    for e in members
  ]
  solvers = [
    (of['converged'], of['worst_residual']) for of in facts if 'converged' in of
  ]
  if solvers:
    shares, residuals = zip(*solvers, strict=True)
    residuals = [trace[-1] for trace in residuals if trace]
    worst = max(residuals) if residuals else None
    door.warn_short(1 - sum(shares) / len(shares), worst, name)


def _has_facts(store) -> bool:
  """Whether facts.json is there and of this store; it precedes any block."""
  try:
    facts = record.read_json(store.path / 'facts.json')
  except ValueError:
    return False
  return facts.get('store') == _name_of(store)


def _name_of(store) -> str:
  """A short name of what the store says of itself."""
  return hashlib.sha256(store.about.encode()).hexdigest()[:16]


def _fill(store, numbers, train, blocks: Callable) -> None:
  """Writes the blocks of these numbers; the next is computed meanwhile."""
  pending = None
  for number in numbers:
    first = int(number) * store.rows_per_block
    batch = next(rows_lib.batches(train, store.rows_per_block, first))
    block = blocks(jax.tree.map(jnp.asarray, batch))
    if pending is not None:
      _write(store, *pending)
    pending = batch, block
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
