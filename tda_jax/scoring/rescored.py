"""Candidates of a cheap method, put in order by a dear one."""

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import door, memory, parallel
from tda_jax.data import rows as rows_lib
from tda_jax.methods import fitted as fitted_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.fitted import Fitted
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.scoring import programs
from tda_jax.trees import Array, PyTree


@door.verb('rescored')
def rescored(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  candidates: Array,
  *,
  k: int | None = None,
  key: jax.Array | int | None = None,
  batch_size: int = 256,
  fitted: Fitted | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The strongest supporters among each query's candidates: (scores, rows), [Q, k].

  _, candidates = top_k(cheap, problem, run, train, queries, 100)
  scores, rows = rescored(dear, problem, run, train, queries, candidates, k=10)

  Queries are prepared once, and of the training rows only those are scored that
  are candidates of some query; a fit still goes through all of them.

  Args:
    method: whose scores are wanted.
    run: one model, as a Run or its parameters; an ensemble's members for an
      `ensemble` method.
    candidates: numbers of training rows [Q, C], as of `top_k`; no row twice for a
      query.
    k: how many are returned; None: all C.
    key, fitted: see `attribute`.

  Raises:
    ValueError: what `door.enter` refuses, the candidates or k; a solver
      diverged; `fitted` is of something else.
  """
  entered = door.enter(method, problem, run, train, queries, key)
  door.check_batch_size(batch_size)
  name = method_lib.name_of(method)
  rows = _checked(candidates, entered)
  k = rows.shape[1] if k is None else k
  door.check_batch_size(k, 'k')
  if k > rows.shape[1]:
    raise ValueError(
      f'k={k} of {rows.shape[1]} candidates: give 1 to {rows.shape[1]}'
    )
  state = fitted_lib.state_of(fitted, method, problem, entered, name)
  given = parallel.replicate((entered.run, entered.train, entered.queries))
  with memory.explained('prepare', name):
    prepared = programs.prepare(method, problem, *given, entered.key, state)
    method_lib.check_solution(prepared, name, method.hint)

  def score(batch):
    batch = jax.tree.map(jnp.asarray, batch)
    return programs.score(method, problem, given[0], prepared, batch)

  with memory.explained('score', name):
    values = _of_candidates(score, entered.train, rows, batch_size)
  door.warn_unconverged(prepared.solution, name)
  door.warn_left_out(prepared.left_out, name)
  values = door.finite(values, name, method.hint)
  order = np.lexsort((rows, -values))[:, :k]  # of equal scores the first row's
  take = lambda x: np.take_along_axis(x, order, 1)
  return take(values), take(rows)


def _of_candidates(score, train, rows, batch_size):
  """The score of each query's candidates [Q, C], batch by batch of their union."""
  union = np.unique(rows)
  place = np.searchsorted(union, rows)
  size = min(batch_size, len(union))
  values = np.zeros(rows.shape, np.float32)
  batches = rows_lib.batches(train, size, chosen=union)
  for number, batch in enumerate(batches):
    block = np.asarray(score(batch))
    here = place // size == number
    values[here] = block[place[here] % size, np.nonzero(here)[0]]
  return values


def _checked(candidates, entered):
  """The candidates as an array of row numbers [Q, C]."""
  rows = np.asarray(candidates)
  n, q = (rows_lib.count(x) for x in (entered.train, entered.queries))
  whole = np.issubdtype(rows.dtype, np.integer)
  if not whole or rows.ndim != 2 or rows.shape[0] != q or not rows.size:
    raise ValueError(
      f'candidates are {rows.dtype}{list(rows.shape)}: give numbers of training'
      f' rows [{q}, C], as the rows that top_k returns'
    )
  if rows.min() < 0 or rows.max() >= n:
    raise ValueError(
      f'candidates are from {rows.min()} to {rows.max()}, and there are {n}'
      f' training rows: give numbers from 0 to {n - 1}'
    )
  sorted_rows = np.sort(rows, 1)
  twice = (sorted_rows[:, 1:] == sorted_rows[:, :-1]).any(1)
  if twice.any():
    raise ValueError(
      f'a row is twice among the candidates of query {np.argmax(twice)}: give'
      ' each once'
    )
  return rows
