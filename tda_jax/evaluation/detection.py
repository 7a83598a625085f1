"""Mislabel detection: a row that supports itself most has the label it must
remember."""

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from sklearn import metrics

from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.training.fit import Run


def self_influence(
  method: Method,
  problem: Problem,
  run: Run,
  train: dict,
  *,
  key: jax.Array | None = None,
  at_once: int = 256,
  name: str = 'the method',
  progress: bool = False,
) -> np.ndarray:
  """score[i, i] of every training row, [N]: each is its own query.

  As all scores it is of the problem's measure; for self-influence in the loss
  give a problem whose measure is minus the loss.

  Rows are taken `at_once`, and only scores of a row for those beside it are
  computed. The method is prepared for each of these blocks on all rows, with
  the same key, so that what it fits is the same.

  Args:
    run: one model; or members, for an `ensemble` method.
    at_once: memory grows with it; what the method fits is fitted N / at_once
      times.
    name: of the method, for errors and the bar.

  Raises:
    ValueError: bad rows; a solver diverged.
  """
  rows_lib.check(train, 'train')
  key = jax.random.key(0) if key is None else key
  rows = jax.tree.map(jnp.asarray, train)

  @jax.jit
  def block(run, rows, batch, key):
    prepared = method_lib.prepare(
      method, problem, run, rows, batch.examples, key
    )
    scores = method_lib.score(method, problem, run, prepared, batch)
    return jnp.diagonal(scores), prepared

  found = []
  size = min(at_once, rows_lib.count(train))
  every = rows_lib.batches(train, size)
  total = -(-rows_lib.count(train) // size)
  for batch in tqdm.tqdm(every, name, total, disable=not progress):
    scores, prepared = block(run, rows, jax.tree.map(jnp.asarray, batch), key)
    method_lib.check_solution(prepared, name)
    found.append(np.asarray(scores)[batch.mask > 0])
  return np.concatenate(found)


def auc(scores: np.ndarray, flagged: np.ndarray) -> tuple[float, float]:
  """Area under the ROC curve and its standard error (DeLong et al. 1988).

  The chance that a flagged row has a larger score than one that is not, ties
  counted half: .5 is chance. The error is NaN where one row only is flagged, or
  not flagged, of whose group nothing tells the spread.

  Args:
    scores: [N].
    flagged: [N] bool.

  Raises:
    ValueError: shapes that differ, scores that are not finite, all rows
      flagged or none.
  """
  scores, flagged = np.asarray(scores, np.float64), np.asarray(flagged, bool)
  if scores.ndim != 1 or scores.shape != flagged.shape:
    raise ValueError(
      f'scores {scores.shape} and flags {flagged.shape}: give one of each a row'
    )
  if not np.isfinite(scores).all():
    raise ValueError('scores are not finite: run the stage that makes them')
  if flagged.all() or not flagged.any():
    raise ValueError(
      'an area under the curve compares two groups, and'
      f' {flagged.sum()} of {len(flagged)} rows are flagged: flag some'
    )
  above, below = scores[flagged], scores[~flagged]
  # Of each row: the share of the other group that is on the right side of it.
  wins = _share_below(below, above), 1 - _share_below(above, below)
  known = min(len(above), len(below)) > 1
  error = sum(w.var(ddof=1) / len(w) for w in wins) ** 0.5 if known else np.nan
  return float(metrics.roc_auc_score(flagged, scores)), float(error)


def _share_below(values, of):
  """Of each of `of`: the share of `values` below it, ties counted half."""
  values = np.sort(values)
  sides = [np.searchsorted(values, of, side) for side in ('left', 'right')]
  return np.mean(sides, 0) / len(values)
