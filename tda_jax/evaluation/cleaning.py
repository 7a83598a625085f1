"""Dataset cleaning: is a model better without the rows that are ranked first?

Khanna et al. 2019, "Interpreting black box predictions using Fisher kernels",
§5, and Quanda's first releases: rank all rows, train again without the first k,
and compare. Here accuracy is that on queries, and what it is compared with is
training without k random rows, so that the effect of fewer rows cancels.

Rank rows by what makes a row suspect, largest first: self-influence in the loss
(a label that had to be remembered), or minus the mean score over queries of a
measure of their true class (rows that harm).
"""

import os
from typing import Any

import jax
import numpy as np

from tda_jax.evaluation import brittleness, retraining
from tda_jax.problem import Problem
from tda_jax.training.fit import Recipe

PyTree = Any


def first(ranking: np.ndarray, k: int) -> np.ndarray:
  """The k rows of the largest value, [k], tied ones in their order.

  Args:
    ranking: [N].

  Raises:
    ValueError: not [N] finite values, k not from 0 to N − 1.
  """
  ranking = np.asarray(ranking, np.float64)
  if ranking.ndim != 1 or not np.isfinite(ranking).all():
    raise ValueError(
      f'a ranking of shape {ranking.shape}: give one finite value a row'
    )
  return brittleness.top(ranking[:, None], k)[0]


def controls(rows: int, k: int, draws: int, seed: int) -> np.ndarray:
  """`draws` random sets of k of the rows, [draws, k].

  Raises:
    ValueError: k is not from 0 to `rows` − 1.
  """
  values = np.random.default_rng(seed).random((rows, draws))
  return brittleness.top(values, k)


def leads(
  problem: Problem,
  recipe: Recipe,
  train: PyTree,
  queries: PyTree,
  removed: np.ndarray,
  repeats: int,
  key: jax.Array,
  path: str | os.PathLike,
  *,
  at_once: int = 50,
  attributes: dict | None = None,
  progress: bool = True,
) -> np.ndarray:
  """Lead of each query's own class after each removal, [M, R, Q].

  Above 0 where the class is right (`brittleness.lead`). Results are kept in
  `path` as `retraining.outcomes` keeps them, and the same call continues.

  Args:
    removed: [M, k], `first` of some rankings and `controls`, of one k.

  Raises:
    ValueError: as `outcomes`; rows that do not exist or are named twice.
  """
  removed = np.asarray(removed)
  if removed.ndim != 2:
    raise ValueError(f'removed has shape {removed.shape}: give [M, k] rows')
  return retraining.outcomes(
      problem._replace(measure=brittleness.lead), recipe, train, queries,
      brittleness.kept(removed, len(train['y'])), repeats, key, path,
      at_once=at_once, progress=progress,
      attributes={'kind': 'cleaning', **(attributes or {})},
  )  # fmt: skip


def gain(cleaned: np.ndarray, control: np.ndarray) -> np.ndarray:
  """Accuracy without the rows ranked first − without random rows, [Q].

  Of each query: the share of models that are right. The mean over queries is
  from −1 to 1; larger is better, 0 is chance.

  Args:
    cleaned: [R, Q] leads after removing `first`.
    control: [C, R, Q] leads after removing each of `controls`.

  Raises:
    ValueError: other shapes, another number of queries, a lead that is not
      finite.
  """
  cleaned, control = np.asarray(cleaned), np.asarray(control)
  if (cleaned.ndim, control.ndim) != (2, 3) or (
    cleaned.shape[-1] != control.shape[-1]
  ):
    raise ValueError(
      f'leads {cleaned.shape} after cleaning and {control.shape} of controls:'
      ' give [R, Q] and [C, R, Q] of the same queries'
    )
  if not (np.isfinite(cleaned).all() and np.isfinite(control).all()):
    raise ValueError('leads are not finite: a model diverged in its training')
  return (cleaned > 0).mean(0) - (control > 0).mean((0, 1))
