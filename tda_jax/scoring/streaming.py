"""Scores of many rows, streamed to disk; a killed call can be continued.

Memory holds the gradients of one batch of rows and one block of prepared queries,
for any N and Q: blocks of queries outside, batches of rows inside.
"""

import functools
import hashlib
import os
import pathlib
import time
from typing import NamedTuple

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
from tda_jax.scoring import fits as fits_lib
from tda_jax.scoring import programs
from tda_jax.scoring.about import about_of
from tda_jax.storage import record
from tda_jax.storage import scores as store_lib
from tda_jax.trees import PyTree

# Bytes of the prepared queries of one block, about, where nothing else is asked for.
QUERIES = 2**31


class Work(NamedTuple):
  """What is computed for one member, and where it is kept."""

  method: Method
  problem: Problem
  entered: door.Entered  # with the member's own run and key
  train: PyTree  # as it was given, of which batches are taken
  name: str
  store: store_lib.Store
  fits: pathlib.Path | None


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
  queries_at_once: int | None = None,
  fits: str | os.PathLike | None = None,
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
    queries_at_once: queries that are prepared together, for each of which memory
      holds about a gradient; all rows are gone through for each block of them.
      None: as many as take 2 GB. A method that cannot fit apart draws anew for
      each block.
    fits: a folder that keeps what the method fits of each member, for other
      queries, and for other arguments of its solver; see `tda_jax.fit`.
    attributes: further fields of the stores' records; they must agree on resume.

  Raises:
    ValueError: what `door.enter` refuses; a solver diverged; the store was
      computed by something else; `fits`, and the method fits nothing.
  """
  door.check_method(method)
  door.check_path(path, needed=True)
  door.check_path(fits)
  name = name or method_lib.name_of(method)
  door.check_batch_size(batch_size)
  if queries_at_once is not None:
    door.check_batch_size(queries_at_once, 'queries_at_once')
  if method.members:
    raise ValueError(
      f'{name} is an ensemble, whose scores are of all members at once: use'
      ' attribute, or score its members and take the mean'
    )
  entered = door.enter(method, problem, runs, train, queries, key, stacked=True)
  runs = members_of(entered.run)
  about = about_of(method, problem, entered, name, trees.row(runs, 0))
  about = record.join_attributes({**about, 'member': 0}, attributes)
  shape = (rows_lib.count(entered.train), rows_lib.count(entered.queries))
  columns = queries_at_once or _columns(entered.member[0])
  on_devices = entered._replace(train=parallel.replicate(entered.train))
  members = range(trees.count(runs.params))
  stores = []
  for member in tqdm.tqdm(members, name, unit='model', disable=not progress):
    run = trees.row(runs, member)
    own = on_devices._replace(
      run=run,
      key=jax.random.fold_in(entered.key, member),
      member=(run.params, run.frozen),
    )
    folder = pathlib.Path(path) / str(member)
    block, own_about = (batch_size, columns), {**about, 'member': member}
    store = parallel.in_turn(
      functools.partial(_opened, folder, shape, block, own_about, path)
    )
    kept = None if fits is None else pathlib.Path(fits) / str(member)
    work = Work(method, problem, own, entered.train, name, store, kept)
    _of_member(work)
    parallel.barrier()
    stores.append(store)
  _say_unconverged(path, members, name)
  return store_lib.Scores(stores)


def _columns(params) -> int:
  """Queries whose prepared state takes about QUERIES bytes."""
  return max(1, QUERIES // (4 * trees.size(params)))


def _of_member(work: Work) -> None:
  """Computes what the member's store lacks, one block of queries at a time."""
  fitted = None
  for column in range(store_lib.columns(work.store)):
    missing = np.flatnonzero(~store_lib.done(work.store, column))
    parallel.barrier()  # all have looked before one writes
    if not missing.size:
      continue
    started = time.monotonic()
    if fitted is None and _fits_apart(work):
      fitted = fits_lib.computed(
        work.method, work.problem, work.entered, work.name, work.fits
      ).state
    prepared = _prepared(work, column, fitted)
    facts = {
      'prepare_seconds': time.monotonic() - started,
      'score_seconds': 0.0,
      **_solver_facts(prepared),
    }
    _write_facts(work.store, column, facts)
    started = time.monotonic()
    with memory.explained('score', work.name):
      _fill(work, column, parallel.share(missing), prepared)
    seconds = time.monotonic() - started
    _write_facts(work.store, column, {**facts, 'score_seconds': seconds})


def _fits_apart(work: Work) -> bool:
  """Whether what is fitted is kept, or serves for several blocks of queries."""
  several = store_lib.columns(work.store) > 1 and work.method.fit is not None
  return work.fits is not None or several


def _prepared(work: Work, column: int, fitted: PyTree) -> method_lib.Prepared:
  """The method's prepared queries of one block of columns."""
  run, train, queries, key, _ = work.entered
  queries = rows_lib.take(queries, store_lib.span(work.store, column))
  if column and work.method.fit is None:  # else blocks would have equal draws
    key = jax.random.fold_in(key, column)
  with memory.explained('prepare', work.name):
    prepared = parallel.by_all_hosts(
      functools.partial(programs.prepare, work.method, work.problem),
      *(run, train, queries, key, fitted),
    )
    method_lib.check_solution(prepared, work.name, work.method.hint)
    return jax.block_until_ready(prepared)


def _opened(folder, shape, block, about, holder):
  """The member's store, without blocks of which it is not known how they went."""
  rows, columns = block
  store = store_lib.create(
    folder, shape, rows, about, holder=holder, columns_per_block=columns
  )
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
  door.warn_left_out([of.get('left_out', 0.0) for of in facts], name)


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


def _write_facts(store, column: int, facts: dict) -> None:
  """Writes what is known of a block of queries, and of all so far, to facts.json."""
  file = store.path / 'facts.json'
  head = {'store': _name_of(store)}
  if store_lib.columns(store) == 1:
    record.write_json(file, {**head, **facts})
    return
  span = store_lib.span(store, column)
  facts = {**facts, 'queries': span.stop - span.start}
  known = record.read_json(file)['blocks'] if _has_facts(store) else {}
  known = {**known, str(column): record.plain(facts)}
  record.write_json(file, {**head, **_joined(known), 'blocks': known})


def _joined(blocks: dict[str, dict]) -> dict:
  """The facts of blocks of queries, as those of all their queries."""
  each = [*blocks.values()]
  weights = np.array([one['queries'] for one in each], float)
  seconds = ('prepare_seconds', 'score_seconds')
  joined = {field: sum(one[field] for one in each) for field in seconds}
  if 'damping' not in each[0]:  # no solver
    return joined
  values = lambda field: [np.asarray(one[field], float) for one in each]
  mean = lambda field: np.average(values(field), axis=0, weights=weights)
  return {
    **joined,
    'damping': mean('damping'),
    'steps': np.max(values('steps'), axis=0, initial=0).astype(int),
    'residual': mean('residual'),
    **({'left_out': max(values('left_out'))} if 'left_out' in each[0] else {}),
    'worst_residual': np.max(values('worst_residual'), axis=0, initial=0),
    'converged': mean('converged'),
  }


def _fill(work: Work, column, numbers, prepared) -> None:
  """Writes the blocks of these numbers; the next is computed meanwhile."""
  run = parallel.replicate(work.entered.run)
  score = functools.partial(programs.score, work.method, work.problem, run)
  store, pending = work.store, None
  for number in numbers:
    first = int(number) * store.rows_per_block
    batch = next(rows_lib.batches(work.train, store.rows_per_block, first))
    block = score(prepared, jax.tree.map(jnp.asarray, batch))
    if pending is not None:
      _write(store, column, *pending)
    pending = batch, block
  if pending is not None:
    _write(store, column, *pending)


def _write(store, column, batch, block):
  values = np.asarray(block)[batch.mask > 0]
  store_lib.write(store, int(batch.index[0]), values, column)


def _solver_facts(prepared):
  solution, left_out = prepared.solution, prepared.left_out
  if solution is None:
    return {}
  objectives = solution.objectives
  return {
    **({} if left_out is None else {'left_out': np.asarray(left_out).max()}),
    **({} if objectives is None else {'objective': np.mean(objectives, 1)}),
    'damping': float(solution.damping),
    'steps': np.asarray(solution.steps),
    'residual': np.asarray(solution.residuals).mean(1),
    'worst_residual': np.asarray(solution.residuals).max(1, initial=0),
    'converged': float(np.asarray(solution.converged).mean()),
  }
