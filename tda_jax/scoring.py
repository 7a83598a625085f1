"""Scores of many rows, streamed to disk; killed at any moment, it continues.

Beside the training rows, memory holds the gradients of one batch of them and the
prepared queries, whatever N.
"""

import functools
import hashlib
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tda_jax import door, memory, settings, trees
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run, members_of
from tda_jax.storage import checkpoints, fingerprint, record
from tda_jax.storage import scores as store_lib
from tda_jax.storage.fingerprint import digest

PyTree = Any

# Of the module, so that a method that is asked of other data of the same shapes
# is not compiled again.
_prepare = jax.jit(method_lib.prepare, static_argnums=(0, 1))
_score = jax.jit(method_lib.score, static_argnums=(0, 1))


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
) -> np.ndarray:
  """Scores of every member, [E, N, Q]; member e is the store `path`/e.

  A member whose store is complete is not prepared again. facts.json beside it
  says how long it took and how well its solver did.

  Args:
    runs: trained models with a leading member axis, as a Run or bare
      parameters; one model is an ensemble of one.
    name: of the method, for errors and records; None: its own.
    key: folded by the member's number; as of `attribute`.
    attributes: what else the stores are to say of themselves; must agree on
      resume.

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
  about = record.joined({**about, 'member': 0}, attributes)
  train, queries = jax.tree.map(jnp.asarray, (train, queries))
  prepare = functools.partial(_prepare, method, problem)
  blocks = functools.partial(_score, method, problem)
  shape = (rows_lib.count(train), rows_lib.count(queries))
  members = range(trees.count(runs.params))
  every = []
  for member in tqdm.tqdm(members, name, unit='model', disable=not progress):
    folder = pathlib.Path(path) / str(member)
    store = store_lib.create(
      folder,
      shape,
      batch_size,
      {**about, 'member': member},
      holder=path,
    )
    if not _told(store):
      store_lib.forget(store)  # else its seconds would be of nothing
    if not store_lib.done(store).all():
      run = trees.row(runs, member)
      started = time.monotonic()
      own = jax.random.fold_in(key, member)
      with memory.explained('prepare', name):
        prepared = prepare(run, train, queries, own)
        method_lib.check_solution(prepared, name, method.cure)
        jax.block_until_ready(prepared)
      facts = {
        'store': _name_of(store),
        'prepare_seconds': time.monotonic() - started,
        **_solver_facts(prepared),
      }
      record.write_json(folder / 'facts.json', {**facts, 'score_seconds': 0.0})
      started = time.monotonic()
      with memory.explained('score', name):
        _fill(store, train, functools.partial(blocks, run, prepared))
      facts['score_seconds'] = time.monotonic() - started
      record.write_json(folder / 'facts.json', facts)
    every.append(store_lib.read(store))
  _say_unconverged(path, members, name)
  return np.stack(every)


def _say_unconverged(path, members, name):
  """Warns of what the members' solvers left, also of those done before."""
  facts = [
    record.read_json(pathlib.Path(path) / str(e) / 'facts.json')
    for e in members
  ]
  found = [
    (of['converged'], of['worst_residual']) for of in facts if 'converged' in of
  ]
  if found:
    shares, residuals = zip(*found, strict=True)
    residuals = [of[-1] for of in residuals if of]
    worst = max(residuals) if residuals else None
    door.say_short(1 - sum(shares) / len(shares), worst, name, level=4)


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
  save_seconds: float = 30.0,
  progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """The k strongest supporters of each query: (scores, rows), [Q, k].

  The N x Q matrix is never held. Strongest opponents: negate the scores, as in
  `m._replace(score=lambda *a: -m.score(*a))`.

  Args:
    run: one model, as a Run or its parameters; an ensemble's members for an
      `ensemble` method.
    name: of the method, for errors and records; None: its own.
    key: as of `attribute`.
    path: a folder that keeps what was found so far; the same call continues
      from it. None: nothing is kept.

  Raises:
    ValueError: what `door.enter` refuses, or k; a solver diverged; `path` was
      computed by something else.
  """
  entered = door.enter(method, problem, run, train, queries, key)
  door.check_batch_size(batch_size)
  run, train, queries, key, _ = entered
  name = name or method_lib.name_of(method)
  n, q = rows_lib.count(train), rows_lib.count(queries)
  door.check_batch_size(k, 'k')
  door.check_path(path)
  if k > n:
    raise ValueError(f'k={k} of {n} training rows: give 1 to {n}')
  start = {
    'values': np.full((q, k), -np.inf, np.float32),
    'rows': np.zeros((q, k), np.int32),
    'next': np.zeros((), np.int32),
  }
  best = start
  if path is not None:
    about = about_of(method, problem, entered, name, run)
    best = _top_so_far(path, start, about)
  queries = jax.tree.map(jnp.asarray, queries)
  train_rows = jax.tree.map(jnp.asarray, train)
  with memory.explained('prepare', name):
    prepared = _prepare(method, problem, run, train_rows, queries, key)
    method_lib.check_solution(prepared, name, method.cure)

  @jax.jit
  def merge(best, batch):
    block = method_lib.score(method, problem, run, prepared, batch)
    block = block.astype(best['values'].dtype)
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
  door.say_unconverged(prepared.solution, name)
  values = door.finite(np.asarray(best['values']), name, method.cure)
  return values, np.asarray(best['rows'])


def _top_so_far(path, start, about):
  path = pathlib.Path(path)
  record.begin(path, {**about, 'k': start['rows'].shape[1]})
  last = checkpoints.newest(path, 'top')
  return (
    start if last is None else checkpoints.load(path / f'top_{last}', start)
  )


def about_of(
  method: Method, problem: Problem, entered: door.Entered, name: str, one: Run
) -> dict:
  """What a store says of itself, so that nothing else continues it.

  Args:
    entered: of `door.enter`; without queries it is about self-influence.
    one: the run that `method.prepare` is given.
  """
  run, train, queries, key, member = entered
  asked = train if queries is None else queries
  functions = fingerprint.of_problem(
    problem, member[0], train, member[1], asked
  )
  made = settings.of(method)
  if made is None or not made.known:  # known by what it computes, then
    functions['method'] = _computed(method, problem, one, train, asked, key)
  return {
    'method': name,
    'settings': {} if made is None else settings.readable(made.data),
    'functions': functions,
    'unit': method.unit,
    'sign': 'positive supports',
    'reduction': 'mean loss',
    'l2': problem.l2,
    'models': digest(run.params),
    'checkpoints': digest((run.checkpoints, run.learning_rates, run.steps)),
    'train': digest(train),
    'queries': digest(queries),
    'key': digest(key),
    **({} if run.frozen is None else {'frozen': digest(run.frozen)}),
    **({'as_leaf': [*problem.as_leaf]} if problem.as_leaf else {}),
    **({'only': [*problem.only]} if problem.only else {}),
    **({'leave_out': [*problem.leave_out]} if problem.leave_out else {}),
    'versions': fingerprint.versions(),
  }


def _computed(method, problem, run, train, queries, key) -> str:
  """Hash of what a method computes at these shapes."""
  prepare = functools.partial(method_lib.prepare, method, problem)
  score = functools.partial(method_lib.score, method, problem)
  batch = next(rows_lib.batches(train, 1))
  given = fingerprint.abstract((run, train, queries, key))
  run, train, queries, key = given
  prepared = jax.eval_shape(prepare, *given)
  blocks = fingerprint.abstract(batch)
  return fingerprint.of_function(prepare, *given) + fingerprint.of_function(
    score, run, prepared, blocks
  )


def _told(store) -> bool:
  """Whether it is known how scoring went; it is written before any block.

  What is told of another store, which was put here, is not.
  """
  try:
    told = record.read_json(store.path / 'facts.json')
  except ValueError:
    return False
  return told.get('store') == _name_of(store)


def _name_of(store) -> str:
  """A short name of what the store says of itself."""
  return hashlib.sha256(store.about.encode()).hexdigest()[:16]


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
