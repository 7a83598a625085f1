"""Brittleness: does a prediction change once its top supporters are removed?

For each query, its k strongest supporters are removed and models are trained on
the other rows. The share of queries whose class changes from right to wrong
measures how well the method finds support.

Source: Ilyas et al. 2022, "Datamodels: Predicting Predictions from Training
Data", §5, https://arxiv.org/abs/2202.00622
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import door
from tda_jax.data import subsets
from tda_jax.evaluation import agreement, retraining
from tda_jax.problem import Problem
from tda_jax.training.fit import Recipe
from tda_jax.trees import PyTree


@door.renamed(at_once='members_at_once')
def margins(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  removed: np.ndarray,
  *,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  **options: Any,
) -> np.ndarray:
  """Margin of each query's class after its own rows were removed, [Q, R].

  Args:
    removed: [Q, k] rows that are removed for each query (k = 0: none).
    options: `members_at_once` and `progress` of `margins_without`.

  Raises:
    ValueError: as `margins_without`.
  """
  removed, count = np.asarray(removed), len(queries['y'])
  if removed.ndim != 2 or len(removed) != count:
    raise ValueError(
      f'removed has shape {removed.shape}: give [Q, k] rows for each of the'
      f' {count} queries'
    )
  margins = margins_without(
    problem,
    recipe,
    train,
    queries,
    removed,
    repeats=repeats,
    key=key,
    path=path,
    kind='brittleness',
    **options,
  )
  return np.einsum('qrq->qr', margins)


@door.renamed(at_once='members_at_once')
def margins_without(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  removed: np.ndarray,
  *,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  kind: str,
  members_at_once: int = 50,
  progress: bool = True,
) -> np.ndarray:
  """Margin of each query's class after each removal, [M, R, Q].

  The margin is `correct_class_margin`.

  One model is trained for each removal and repeat. Results are stored in `path`
  as `retraining.outcomes` stores them, and the same call continues.

  Args:
    removed: [M, k] rows.
    kind: purpose of the removals, stored in the record.

  Raises:
    ValueError: as `outcomes`; rows that do not exist or are named twice.
  """
  kept = subsets.complement(removed, len(train['y']), 'removed')
  return retraining.outcomes(
    problem._replace(measure=correct_class_margin),
    recipe,
    train,
    queries,
    kept,
    repeats=repeats,
    key=key,
    path=path,
    members_at_once=members_at_once,
    progress=progress,
    attributes={'kind': kind},
  )


def correct_class_margin(outputs: jax.Array, example: PyTree) -> jax.Array:
  """The measure output_y − max_{k≠y} output_k: above 0 if the class is right."""
  is_label = jnp.arange(outputs.shape[-1]) == example['y']
  return outputs[example['y']] - jnp.max(
    outputs, where=~is_label, initial=-jnp.inf
  )


def flips(before: np.ndarray, after: np.ndarray) -> np.ndarray:
  """Which of the queries that were right are wrong after, [Q' ≤ Q] bool.

  Margins are averaged over repeats. Queries that were wrong before are left out;
  the mean of the others is the flip rate, from 0 to 1, larger is better.

  Args:
    before: [Q, R'] margins of models trained on all rows.
    after: [Q, R] margins after removal.

  Raises:
    ValueError: another number of queries; no query was right; a margin that is not
      finite.
  """
  before, after = np.asarray(before), np.asarray(after)
  if not (np.isfinite(before).all() and np.isfinite(after).all()):
    raise ValueError('margins are not finite: a model diverged in its training')
  if len(before) != len(after):
    raise ValueError(
      f'margins of {len(before)} queries before and {len(after)} after: give both'
      ' the same queries'
    )
  right = before.mean(1) > 0
  if not right.any():
    raise ValueError('no query is classified rightly: train a better model')
  return after.mean(1)[right] <= 0


def top_rows(scores: np.ndarray, k: int) -> np.ndarray:
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
