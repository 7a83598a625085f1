"""Given runs once more, without some rows or some tokens.

What is removed weighs 0; initialisation, order of rows, batches and augmentation
stay those of the run, and a batch's mean is still over all its rows. So the models
differ by what was removed and by nothing else: the ground truth to which scores of
that very run, above all exact unrolling, can be held. The other ground truth,
`retraining.outcomes`, asks what training on other rows gives on average over
seeds.

Of one run without 1% of the rows, 100 times, the LDS of its scores [N, Q]:

  dropped = at_random(n, 100, seed)
  outcomes = without(problem, recipe, train, queries, dropped, keys=run.keys,
                     path=path)
  lds.lds(scores, outcomes.mean(1), subsets.complement(dropped, n))

and the query loss differences (`qld`), against the same random removals:

  filtered = without(..., removed=top(scores), ...)
  qld.interval(filtered, outcomes)

Source: Ilyas & Engstrom 2025, "MAGIC: Near-Optimal Data Attribution for Deep
Learning", https://arxiv.org/abs/2504.16430
"""

import os

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import door
from tda_jax.data import rows as rows_lib
from tda_jax.data import subsets
from tda_jax.evaluation import agreement, brittleness, retraining
from tda_jax.problem import Problem
from tda_jax.storage.fingerprint import digest
from tda_jax.training.fit import Member, Recipe
from tda_jax.trees import PyTree


def without(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  removed: np.ndarray,
  *,
  keys: jax.Array,
  path: str | os.PathLike,
  column: str | None = None,
  frozen: PyTree = None,
  members_at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
) -> np.ndarray:
  """Measures after given runs without each of M sets of rows, [M, R, Q].

  Model (m, r) is the run of keys[r] in which the rows removed[m] weigh 0; with
  k = 0 it is that run. A model of M·R is trained for each set and key, also where
  only one query is looked at afterwards (`qld`): Q sets for Q queries are Q·R
  trainings.

  Args:
    removed: [M, k] rows; with `column`, k of its entries, row·T + position.
    keys: [R] typed keys, for example `Run.keys`.
    path: score store [R·M, Q], row r·M + m; the same call continues it.
    column: None: rows are removed. Else a column [N, T] of weights of tokens,
      such as 'mask', of which the entries become 0: single terms of rows' losses
      are removed. What the loss divides by must not be their sum.
    frozen: what each model has besides its parameters, as the base of LoRA
      adapters, the same for all: leaves of one model, or None.
    members_at_once: models trained together; each takes N numbers besides its
      parameters, or N·T bytes with `column`.
    attributes: further fields of the store's record.

  Raises:
    ValueError: bad rows; removed names what there is not, or twice; there is no
      such column, or the problem does not read it; a model diverged; the store
      is of another run.
  """
  train = door.rows(train, 'train', problem)
  keys = jnp.atleast_1d(door.as_keys(keys))
  shape = _shape(problem, train, column)
  removed = subsets.check(removed, int(np.prod(shape)), 'removed')
  count = len(removed)

  def members_at(j):
    repeat, m = np.divmod(j, count)
    kept = np.ones((len(j), *shape), bool)
    np.put_along_axis(kept.reshape(len(j), -1), removed[m], False, 1)
    if column is None:
      return Member(keys[repeat], weights=kept.astype(np.float32))
    return Member(keys[repeat], masks={column: kept})

  def name(j):
    return f'the model without removed[{j % count}], key {j // count}'

  measured = retraining.measure_retrained(
    problem,
    recipe,
    train,
    queries,
    retraining.Models(members_at, name, count, len(keys), frozen),
    identity={
      'kind': 'without',
      'column': column,
      'removed': digest(removed),
      'keys': digest(keys),
    },
    path=path,
    members_at_once=members_at_once,
    attributes=attributes,
    progress=progress,
  )
  return measured[:, :, 0]


def top(
  scores: np.ndarray, share: float = 0.01, mask: np.ndarray | None = None
) -> np.ndarray:
  """The strongest supporters of each query, `removed` of `without`, [Q, k].

  k = max(1, round(share·N)) of N rows; of tokens, of those that count.

  Args:
    scores: [N, Q], or of tokens [N, T, Q].
    share: of what is removed.
    mask: of scores of tokens, [N, T]: 0 for those that do not count.

  Raises:
    ValueError: shapes that do not belong together, scores of what counts that
      are not finite, a share that leaves nothing.
  """
  scores = np.asarray(scores)
  if scores.ndim != (2 if mask is None else 3) or (
    mask is not None and np.shape(mask) != scores.shape[:2]
  ):
    raise ValueError(
      f'scores of shape {list(scores.shape)}: give [N, Q] of rows, or [N, T, Q] of'
      ' tokens with their mask [N, T]'
    )
  places = _places(len(scores) if mask is None else mask)
  flat = scores.reshape(-1, scores.shape[-1])[places]
  flat = agreement.matrix(flat, 'scores')
  return places[brittleness.top_rows(flat, _size(share, len(places)))]


def at_random(
  rows: int | np.ndarray, count: int, seed: int, share: float = 0.01
) -> np.ndarray:
  """`count` random removals of as many rows, or tokens, as `top`'s, [M, k].

  Removal m depends on (seed, N, share, m) only, so that a larger `count` only
  adds removals.

  Args:
    rows: their number N; or of tokens the mask [N, T].

  Raises:
    ValueError: a share that leaves nothing.
  """
  places = _places(rows)
  n = len(places)
  return places[subsets.half_subsets(seed, n, count, _size(share, n) / n)]


def _places(rows):
  """Row numbers; of a mask [N, T] the flat places of what counts."""
  return np.arange(rows) if np.ndim(rows) == 0 else np.flatnonzero(rows)


def _size(share, n):
  """How many of n are removed."""
  size = max(1, round(share * n)) if 0 < share < 1 else n
  if size >= n:
    raise ValueError(
      f'a share of {share} of {n} cannot be removed: give one above 0 that leaves'
      ' some'
    )
  return size


def _shape(problem, train, column):
  """Shape of what is masked: [N], or that of the column."""
  rows = rows_lib.count(train)
  if column is None:
    return (rows,)
  there = rows_lib.take(train, np.arange(1))
  read = there if problem.reads is None else problem.reads
  weights = [
    name
    for name in sorted({*there} & {*read})
    if np.issubdtype(there[name].dtype, np.floating)
  ]
  if column not in weights:
    raise ValueError(
      f'column={column!r} is no column of weights that the problem reads of the'
      f' rows: give that by which it weighs tokens, one of {weights}'
    )
  return (rows, *np.shape(there[column])[1:])
