"""Self-influence: score[i, i] of every training row."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tda_jax import door, parallel
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.compiled import compiled
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.scoring import programs
from tda_jax.trees import PyTree


@door.renamed(at_once='batch_size')
@door.verb('self_influence')
def self_influence(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  *,
  key: jax.Array | int | None = None,
  batch_size: int = 256,
  name: str | None = None,
  progress: bool = False,
) -> np.ndarray:
  """score[i, i] of every training row, [N]: each is its own query.

  Like all scores it is about the problem's measure, in the method's unit; for
  self-influence in the loss give a problem whose measure is minus the loss.

  Grad-Dot, Grad-Cos, influence by Kronecker factors, TracIn, TRAK and representer
  points need no gradient of a query for it (`Method.self_influence`), but one pass over
  the rows. Other methods take `batch_size` rows as queries and score only these rows
  for them. What they fit is fitted once, or, where a method cannot fit apart from
  its queries, for each of these blocks, with the same key.

  Args:
    run: one model; or members, for an `ensemble` method.
    batch_size: rows of a block. Memory grows with it.
    name: of the method, for errors and the progress bar; None: `name_of` it.

  Raises:
    ValueError: bad rows; a solver diverged.
  """
  entered = door.enter(method, problem, run, train, None, key)
  door.check_batch_size(batch_size, 'batch_size')
  run, train, _, key, _ = entered
  name = name or method_lib.name_of(method)
  if method.self_influence:
    diagonal = functools.partial(programs.self_influence, method, problem)
    scores = np.asarray(parallel.by_all_hosts(diagonal, run, train, key))
    return door.finite(scores, name, method.hint)
  block = _of_blocks(method, problem, run, train, key)
  count = rows_lib.count(train)
  size = min(batch_size, count)
  total = -(-count // size)
  own = len(parallel.share(np.arange(total)))
  with tqdm.tqdm(desc=name, total=own, disable=not progress) as bar:

    def work(number):
      batch = next(rows_lib.batches(train, size, number * size))
      scores, prepared = block(jax.tree.map(jnp.asarray, batch))
      method_lib.check_solution(prepared, name, method.hint)
      bar.update()
      return np.asarray(scores), _shortfall(prepared.solution, batch)

    blocks = parallel.by_share(work, total)
  scores, facts = zip(*blocks, strict=True)
  if facts[0] is not None:
    short, rows, worst = np.transpose(facts)
    worst = None if np.isnan(worst[0]) else worst.max()
    door.warn_short(short.sum() / rows.sum(), worst, name)
  return door.finite(np.concatenate(scores)[:count], name, method.hint)


def _of_blocks(method, problem, run, train, key) -> Callable:
  """batch -> (score[i, i] of its rows [B], what the method prepared for them)."""
  fitted = None
  if method.fit is not None:
    program = functools.partial(programs.fit, method, problem)
    fitted = parallel.by_all_hosts(program, run, train, key)

  program = functools.partial(
    compiled(_of_block), method, problem, *parallel.replicate((run, train))
  )
  return lambda batch: program(batch, key, fitted)


def _of_block(method, problem, run, rows, batch, key, fitted):
  """(score[i, i] of a batch's rows [B], what the method keeps of them)."""
  prepared = method_lib.prepare(
    method, problem, run, rows, batch.examples, key, fitted
  )
  scores = method_lib.score(method, problem, run, prepared, batch)
  return jnp.diagonal(scores), prepared


def _shortfall(solution, batch) -> np.ndarray | None:
  """[rows that did not converge, rows, worst residual or NaN]; None: no solver.

  Of an ensemble, a row counts once for each member.
  """
  if solution is None:
    return None
  counts = np.flatnonzero(batch.mask > 0)  # a report may have more
  converged = np.asarray(solution.converged)[..., counts]
  residuals = np.asarray(solution.residuals)
  worst = residuals[..., -1, :][..., counts].max() if residuals.size else np.nan
  return np.array([(~converged).sum(), converged.size, worst], np.float32)
