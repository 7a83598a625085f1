"""Scores of training rows split: by token, or other terms of the loss; by parameter."""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import door, memory, parallel, trees
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

# How far the sum over a row's parts may be from its score, of the largest one:
# more than the rounding of a model in bfloat16.
APART = 0.05


class Begun(NamedTuple):
  """What both verbs have before they score.

  Attributes:
    entered: what was given, checked.
    rows: numbers of the rows that are scored [R].
    batches: makes their batches, each of `size`.
    state: what the method fitted.
  """

  entered: door.Entered
  rows: np.ndarray
  batches: Callable[[], Iterator[rows_lib.Batch]]
  size: int
  state: PyTree


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
  given = (method, problem, run, train, queries)
  if method.terms is None:
    _check_vectors(method, 'tokens')
  begun = _begin(*given, key, rows, batch_size, fitted)
  shape = by_term.term_shape(problem, begun.entered.run, next(begun.batches()))
  values = np.empty(
    (len(begun.rows), *shape, rows_lib.count(begun.entered.queries)), np.float32
  )

  def of_batch(given, prepared, batch, at):
    if method.terms is not None:
      return programs.terms(method, problem, given, prepared, batch)
    return programs.by_term(problem, given, at, batch)

  return _scored(method, problem, begun, values, of_batch, 'term')


@door.verb('parameter_scores')
def parameter_scores(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  *,
  stacked: str | Sequence[str] = (),
  rows: Array | None = None,
  key: jax.Array | int | None = None,
  batch_size: int = 256,
  fitted: Fitted | None = None,
) -> dict[str, np.ndarray]:
  """Scores of rows for all queries, split by parameter: name -> [R, Q].

  The sum over parameters is the row's score, in its unit and sign: which layers a
  row is said to have taught. It is in forward mode, which covers every parameter;
  for each query it costs a forward pass for each of them.

  Args:
    method: as for `token_scores`, but no covariances.
    stacked: patterns ('blocks/*') of parameters whose first axis is the layers of
      one scan, each of which is then one of its own: 'blocks/kernel/0', ...
    problem, run, rows, key, batch_size, fitted: see `token_scores`.

  Raises:
    ValueError: what `door.enter` refuses; the method has no such vectors; a pattern
      matches no parameter, or some with other numbers of layers; a solver diverged.
  """
  given = (method, problem, run, train, queries)
  _check_vectors(method, 'parameters')
  begun = _begin(*given, key, rows, batch_size, fitted)
  _, attributed = method_lib.attributed(problem, begun.entered.run)
  patterns = (stacked,) if isinstance(stacked, str) else tuple(stacked)
  names, numbers = _parts(attributed.params, patterns)
  values = np.empty(
    (len(begun.rows), len(names), rows_lib.count(begun.entered.queries)),
    np.float32,
  )

  def of_batch(given, prepared, batch, at):
    return programs.by_part(problem, len(names), given, at, batch, numbers)

  found = _scored(method, problem, begun, values, of_batch, 'parameter')
  return {name: found[:, i] for i, name in enumerate(names)}


def _begin(
  method, problem, run, train, queries, key, rows, batch_size, fitted
) -> Begun:
  """Checks what was given; raises ValueError."""
  entered = door.enter(method, problem, run, train, queries, key)
  door.check_batch_size(batch_size)
  name = method_lib.name_of(method)
  rows = _checked(rows, rows_lib.count(entered.train))
  size = min(batch_size, len(rows))
  batches = lambda: rows_lib.batches(entered.train, size, chosen=rows)
  state = fitted_lib.state_of(fitted, method, problem, entered, name)
  return Begun(entered, rows, batches, size, state)


def _scored(method, problem, begun: Begun, values, of_batch, part):
  """`values` [R, ..., Q] filled batch by batch.

  Args:
    of_batch: (run, prepared, batch, vectors of the queries) -> its values.
    part: what scores are split by, for the sentence of sums that are wrong.
  """
  name, entered = method_lib.name_of(method), begun.entered
  given = parallel.replicate((entered.run, entered.train, entered.queries))
  with memory.explained('prepare', name):
    prepared = programs.prepare(
      method, problem, *given, entered.key, begun.state
    )
    method_lib.check_solution(prepared, name, method.hint)
  with memory.explained('score', name):
    at = None
    for number, batch in enumerate(begun.batches()):
      batch = jax.tree.map(jnp.asarray, batch)
      if at is None and method.vectors is not None:
        at = programs.vectors(method, problem, given[0], prepared, batch)
      block = np.asarray(of_batch(given[0], prepared, batch, at))
      if not number:
        whole = programs.score(method, problem, given[0], prepared, batch)
        _check_sums(block, np.asarray(whole), name, part)
      here = slice(number * begun.size, (number + 1) * begun.size)
      values[here] = block[np.asarray(batch.mask) > 0]
  door.warn_unconverged(prepared.solution, name)
  door.warn_left_out(prepared.left_out, name)
  return door.finite(values, name, method.hint)


def _parts(
  params: PyTree, patterns: tuple[str, ...]
) -> tuple[list[str], PyTree]:
  """(names of the parts, the number of each parameter's part, broadcast to it)."""
  leaves, structure = jax.tree.flatten(params)
  paths, names, numbers = trees.names(params), [], []
  apart = [any(fnmatch.fnmatch(p, one) for one in patterns) for p in paths]
  _check_stacked(
    patterns,
    paths,
    [leaf.shape if a else None for leaf, a in zip(leaves, apart, strict=True)],
  )
  for path, leaf, stacked in zip(paths, leaves, apart, strict=True):
    if stacked:
      layers = len(names) + np.arange(leaf.shape[0])
      numbers.append(layers.reshape(-1, *(1,) * (leaf.ndim - 1)))
      names += [f'{path}/{k}' for k in range(leaf.shape[0])]
    else:
      numbers.append(np.asarray(len(names)))
      names.append(path)
  return names, jax.tree.unflatten(structure, numbers)


def _check_stacked(patterns, paths, shapes):
  """Raises ValueError unless the patterns name parameters of one scan.

  Args:
    shapes: of each parameter that a pattern matches; None of the others.
  """
  said = f'stacked={list(patterns)}'
  for pattern in patterns:
    if not fnmatch.filter(paths, pattern):
      raise ValueError(
        f'{said}: {pattern!r} matches no parameter: give patterns of their names,'
        f' which are {paths}'
      )
  layers = {p: s for p, s in zip(paths, shapes, strict=True) if s is not None}
  for path, shape in layers.items():
    if len(shape) < 2:
      raise ValueError(
        f'{said}: {path!r} of shape {list(shape)} has no axis of layers before its'
        ' own: leave it out of the patterns'
      )
  if len({shape[0] for shape in layers.values()}) > 1:
    told = ', '.join(
      f'{shape[0]} of {path!r}' for path, shape in layers.items()
    )
    raise ValueError(
      f'{said}: the parameters of one scan have as many layers each, and these'
      f' have {told}: give patterns of those that are scanned together'
    )


def _check_vectors(method, parts):
  """Raises ValueError unless scores are products with one vector a query."""
  if method.vectors is None:
    raise ValueError(
      f'{method_lib.name_of(method)} has no one vector for each query, along which'
      f' the score of a row could be split into those of its {parts}: use'
      ' influence, grad_dot, logra or displaced_influence, of one model'
    )


def _check_sums(split, scores, name, part):
  """Raises ValueError unless parts [B, ..., Q] add up to scores [B, Q]."""
  sums = split.sum(tuple(range(1, split.ndim - 1)))
  apart, most = np.abs(sums - scores).max(), np.abs(scores).max()
  if apart > APART * most:
    raise ValueError(
      f'the scores of a row by {part} do not add up to its score by {name}: they'
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
