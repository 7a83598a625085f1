"""Brittleness: does a prediction change once its top supporters are removed?

Ilyas et al. 2022 (datamodels), §5: for each query its k strongest supporters are
removed, models are trained on the other rows, and the share of queries whose
class changes from right to wrong tells how well the method finds support.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax.evaluation import agreement, retraining
from tda_jax.problem import Problem
from tda_jax.training.fit import Recipe

PyTree = Any


def leads(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  removed: np.ndarray,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  **options: Any,
) -> np.ndarray:
  """Lead of each query's own class after its rows were removed, [Q, R].

  Args:
    removed: [Q, k] rows that are removed for each query (k = 0: none).
    options: `at_once` and `progress` of `leads_without`.

  Raises:
    ValueError: as `leads_without`.
  """
  removed, count = np.asarray(removed), len(queries['y'])
  if removed.ndim != 2 or len(removed) != count:
    raise ValueError(
      f'removed has shape {removed.shape}: give [Q, k] rows for each of the'
      f' {count} queries'
    )
  found = leads_without(
      problem, recipe, train, queries, removed, repeats, key, path,
      kind='brittleness', **options,
  )  # fmt: skip
  return np.einsum('qrq->qr', found)


def leads_without(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  removed: np.ndarray,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  *,
  kind: str,
  at_once: int = 50,
  progress: bool = True,
) -> np.ndarray:
  """Lead of each query's own class after each removal, [M, R, Q].

  The lead, output_y − max_{k≠y} output_k, is above 0 where the class is right.
  A model is trained for each removal and repeat; results are kept in `path` as
  `retraining.outcomes` keeps them, and the same call continues.

  Args:
    removed: [M, k] rows.
    kind: what the removals are for, as the record has it.

  Raises:
    ValueError: as `outcomes`; rows that do not exist or are named twice.
  """
  removed = np.asarray(removed)
  if removed.ndim != 2:
    raise ValueError(f'removed has shape {removed.shape}: give [M, k] rows')
  return retraining.outcomes(
      problem._replace(measure=lead), recipe, train, queries,
      kept(removed, len(train['y'])), repeats, key, path,
      at_once=at_once, progress=progress, attributes={'kind': kind},
  )  # fmt: skip


def lead(outputs: jax.Array, example: PyTree) -> jax.Array:
  """output_y − max_{k≠y} output_k, a measure: above 0 for the right class."""
  own = jnp.arange(outputs.shape[-1]) == example['y']
  return outputs[example['y']] - jnp.max(outputs, where=~own, initial=-jnp.inf)


def flips(before: np.ndarray, after: np.ndarray) -> np.ndarray:
  """Which queries change from right to wrong, [Q' ≤ Q] bool.

  Leads are averaged over repeats. Queries that were wrong before have nothing
  to lose and are left out; the mean of the rest is the flip rate.

  Args:
    before: [Q, R'] leads of models trained on all rows.
    after: [Q, R] leads after removal.

  Raises:
    ValueError: another number of queries; no query was right; a lead that is not
      finite.
  """
  before, after = np.asarray(before), np.asarray(after)
  if not (np.isfinite(before).all() and np.isfinite(after).all()):
    raise ValueError('leads are not finite: a model diverged in its training')
  if len(before) != len(after):
    raise ValueError(
      f'leads of {len(before)} queries before and {len(after)} after: give both'
      ' the same queries'
    )
  right = before.mean(1) > 0
  if not right.any():
    raise ValueError('no query is classified rightly: train a better model')
  return after.mean(1)[right] <= 0


def top(scores: np.ndarray, k: int) -> np.ndarray:
  """The k strongest supporters of each query, [Q, k], from scores [N, Q].

  Raises:
    ValueError: k is not from 0 to N − 1; scores that are not finite.
  """
  scores = agreement.matrix(scores, 'scores')
  if not 0 <= k < len(scores):
    raise ValueError(
      f'{k} of {len(scores)} rows cannot be removed: give 0 to'
      f' {len(scores) - 1}'
    )
  return np.argsort(-scores, axis=0, kind='stable')[:k].T


def kept(removed: np.ndarray, rows: int) -> np.ndarray:
  """The other rows, [M, N − k], for each line of removed ones [M, k].

  Raises:
    ValueError: rows that do not exist or are named twice.
  """
  stay = np.ones((len(removed), rows), bool)
  inside = (removed >= 0) & (removed < rows)
  if inside.all():
    np.put_along_axis(stay, removed, False, 1)
  if not inside.all() or (stay.sum(1) != rows - removed.shape[1]).any():
    raise ValueError(
      f'removed must hold different rows from 0 to {rows - 1} in each line'
    )
  return np.nonzero(stay)[1].reshape(len(removed), -1).astype(np.int32)
