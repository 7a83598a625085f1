"""Scores of training rows by token, or by other terms of their loss."""

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import door, memory, parallel
from tda_jax.data import rows as rows_lib
from tda_jax.methods import by_term
from tda_jax.methods import fitted as fitted_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.fitted import Fitted
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.scoring import programs
from tda_jax.trees import Array, PyTree

# How far the sum over a row's terms may be from its score, of the largest one:
# more than the rounding of a model in bfloat16.
APART = 0.05


@door.verb('token_scores')
def token_scores(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  *,
  rows: Array | None = None,
  key: jax.Array | int | None = None,
  batch_size: int = 256,
  fitted: Fitted | None = None,
) -> np.ndarray:
  """Scores of rows for all queries, split by the terms of the loss, [R, ..., Q].

  For language models [R, T, Q], one of each token that a row is learned from. The
  sum over all axes but the first and the last is the row's score, in its unit and
  sign.

  Args:
    method: one whose scores are products with one vector for each query:
      `influence` with any inverse, `grad_dot`, `logra`, `displaced_influence`; or
      covariances of losses: `laplace_influence`, `bayesian_influence`.
    problem: with `terms`.
    run: one model, as a Run or its parameters.
    rows: numbers of the training rows that are scored [R], in any order, as those
      that `top_k` returns for a query; None: all, in memory.
    key, batch_size, fitted: see `attribute`.

  Raises:
    ValueError: what `door.enter` refuses; the method has no such vectors or the
      problem no terms; `terms` do not add up to the loss; a solver diverged.
  """
  entered = door.enter(method, problem, run, train, queries, key)
  door.check_batch_size(batch_size)
  name = method_lib.name_of(method)
  if method.vectors is None and method.terms is None:
    raise ValueError(
      f'{name} has no one vector for each query, along which the score of a row'
      ' could be split into those of its tokens: use influence, grad_dot, logra or'
      ' displaced_influence, of one model'
    )
  rows = _checked(rows, rows_lib.count(entered.train))
  size = min(batch_size, len(rows))
  batches = lambda: rows_lib.batches(entered.train, size, chosen=rows)
  shape = by_term.term_shape(problem, entered.run, next(batches()))
  state = fitted_lib.state_of(fitted, method, problem, entered, name)
  given = parallel.replicate((entered.run, entered.train, entered.queries))
  with memory.explained('prepare', name):
    prepared = programs.prepare(method, problem, *given, entered.key, state)
    method_lib.check_solution(prepared, name, method.hint)
  q = rows_lib.count(entered.queries)
  values = np.empty((len(rows), *shape, q), np.float32)
  with memory.explained('score', name):
    at = None
    for number, batch in enumerate(batches()):
      batch = jax.tree.map(jnp.asarray, batch)
      of = (method, problem, given[0], prepared, batch)
      if method.terms is not None:
        block = np.asarray(programs.terms(*of))
      else:
        at = programs.vectors(*of) if at is None else at
        block = np.asarray(programs.by_term(problem, given[0], at, batch))
      if not number:
        _check_sums(block, np.asarray(programs.score(*of)), name)
      here = slice(number * size, (number + 1) * size)
      values[here] = block[np.asarray(batch.mask) > 0]
  door.warn_unconverged(prepared.solution, name)
  door.warn_left_out(prepared.left_out, name)
  return door.finite(values, name, method.hint)


def _check_sums(by_term, scores, name):
  """Raises ValueError unless terms [B, ..., Q] add up to scores [B, Q]."""
  sums = by_term.sum(tuple(range(1, by_term.ndim - 1)))
  apart, most = np.abs(sums - scores).max(), np.abs(scores).max()
  if apart > APART * most:
    raise ValueError(
      f'the scores of a row by term do not add up to its score by {name}: they'
      f' are up to {apart:.2g} apart, of scores up to {most:.2g}; give the problem'
      ' terms whose sum is its loss, and the method as its function made it'
    )


def _checked(rows, n):
  """The numbers of the rows that are scored [R]."""
  if rows is None:
    return np.arange(n)
  rows = np.asarray(rows)
  whole = np.issubdtype(rows.dtype, np.integer)
  if not whole or rows.ndim != 1 or not rows.size:
    raise ValueError(
      f'rows are {rows.dtype}{list(rows.shape)}: give numbers of training rows'
      ' [R], or None for all'
    )
  if rows.min() < 0 or rows.max() >= n:
    raise ValueError(
      f'rows are from {rows.min()} to {rows.max()}, and there are {n} training'
      f' rows: give numbers from 0 to {n - 1}'
    )
  return rows
