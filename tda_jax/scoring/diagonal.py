"""Self-influence: score[i, i] of every training row."""

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
  run, rows = parallel.replicate((run, train))
  if method.self_influence:
    values = programs.self_influence(method, problem, run, rows, key)
    return door.finite(np.asarray(values), name, method.hint)
  fitted = None
  if method.fit is not None:
    fitted = programs.fit(method, problem, run, rows, key)
  blocks, short, worst = [], [], []
  size = min(batch_size, rows_lib.count(train))
  batches = rows_lib.batches(train, size)
  total = -(-rows_lib.count(train) // size)
  for batch in tqdm.tqdm(batches, name, total, disable=not progress):
    batch = jax.tree.map(jnp.asarray, batch)
    scores, prepared = compiled(_of_block)(
      method, problem, run, rows, batch, key, fitted
    )
    method_lib.check_solution(prepared, name, method.hint)
    blocks.append(np.asarray(scores)[batch.mask > 0])
    if prepared.solution is not None:
      counts = np.flatnonzero(batch.mask > 0)  # a report may have more
      short.append(~np.asarray(prepared.solution.converged)[..., counts])
      residuals = np.asarray(prepared.solution.residuals)
      if residuals.size:
        worst.append(residuals[..., -1, :][..., counts].max())
  if short:
    share = np.concatenate(short, -1).mean()
    door.warn_short(share, max(worst, default=None), name)
  return door.finite(np.concatenate(blocks), name, method.hint)


def _of_block(method, problem, run, rows, batch, key, fitted):
  """(score[i, i] of a batch's rows [B], what the method keeps of them)."""
  prepared = method_lib.prepare(
    method, problem, run, rows, batch.examples, key, fitted
  )
  scores = method_lib.score(method, problem, run, prepared, batch)
  return jnp.diagonal(scores), prepared
