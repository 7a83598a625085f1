"""What models answer to queries: right or wrong, and how sure they are.

Outputs are read as the problem's loss reads them. Where it is −log p of the
softmax of outputs [K], they are classes; where it is that of independent labels
of 0 or 1, labels; where there are as many outputs as targets, numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from tda_jax import problem as problem_lib
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.trees import widened

PyTree = Any


class Predictions(NamedTuple):
  """Of E models together: means of their probabilities, or of their numbers.

  Attributes:
    labels: like the queries' 'y': class numbers [Q], labels of 0 or 1 [Q] or
      [Q, K], or numbers.
    chances: probability of each class, [Q, K] (of 0 and of 1 where one label is
      asked for), or that each of K labels is 1; None: the loss is no −log p, so
      that outputs are no probabilities; or numbers.
    sure: [Q], probability of what is predicted; of classes without
      probabilities, the softmax of their outputs, which is for their order
      only; None of numbers.
    wrong: [Q] bool; None of numbers.
    error: [Q], Σ_k |prediction_k − target_k|; None but of numbers.
    alone: [E], each model's own share of right queries, or mean error.
  """

  labels: np.ndarray
  chances: np.ndarray | None
  sure: np.ndarray | None
  wrong: np.ndarray | None
  error: np.ndarray | None
  alone: np.ndarray


def of_models(problem: Problem, runs: Run, queries: PyTree):
  """`Predictions` of E models (leading member axis of `runs`).

  Returns:
    None where outputs and labels are in no relation that is known here: rows
    without 'y', sequences, losses of other labels.
  """
  if not hasattr(queries, 'get') or queries.get('y') is None:
    return None
  outputs, losses = jax.tree.map(np.asarray, _evaluated(problem, runs, queries))
  y = np.asarray(queries['y'])
  whole = y.dtype == bool or bool((y == np.floor(y)).all())
  size = outputs[0, 0].size
  if y.ndim == 1 and outputs.ndim == 3 and size > 1:
    if whole and 0 <= y.min() and y.max() < size:
      return _classes(outputs, losses, y.astype(int))
  if y[0].size != size:
    return None
  outputs = outputs.reshape(len(outputs), *y.shape)
  if np.isin(y, (0, 1)).all() and y[0].ndim < 2:
    likely = np.logaddexp(0, np.where(y == 1, -outputs, outputs))
    if _close(losses, likely.reshape(*losses.shape, -1).sum(-1)):
      return _labels(outputs, y.astype(int))
  error = lambda found: np.abs(found - y).reshape(len(y), -1).sum(-1)
  mean = outputs.mean(0)
  alone = np.stack([error(one).mean() for one in outputs])
  return Predictions(mean, None, None, None, error(mean), alone)


def order(found: Predictions) -> np.ndarray:
  """[Q] queries: wrong first, then the least sure; the largest errors first."""
  if found.error is not None:
    return np.argsort(-found.error, kind='stable')
  return np.lexsort((found.sure, ~found.wrong))


def asked(queries: PyTree, found: Predictions, which: np.ndarray) -> PyTree:
  """Some queries, asked about what is predicted instead of their labels."""
  some = jax.tree.map(lambda leaf: leaf[which], queries)
  kind = np.asarray(queries['y']).dtype
  return {**some, 'y': found.labels[which].astype(kind)}


def _evaluated(problem, runs, queries):
  """Outputs [E, Q, ...] and losses [E, Q]."""

  @jax.jit
  def one(params, frozen):
    own = problem_lib.bound(problem, frozen)
    outputs = jax.vmap(lambda row: widened(own.outputs(params, row)))(queries)
    return outputs, jax.vmap(own.loss)(outputs, queries)

  queries = jax.tree.map(jnp.asarray, queries)
  return jax.lax.map(lambda member: one(*member), (runs.params, runs.frozen))


def _classes(outputs, losses, y):
  each = special.softmax(outputs, -1)
  own = -special.log_softmax(outputs, -1)[:, np.arange(len(y)), y]
  chances = each.mean(0)
  labels = chances.argmax(-1)
  return Predictions(
    labels,
    chances if _close(losses, own) else None,
    chances.max(-1),
    labels != y,
    None,
    (each.argmax(-1) == y).mean(-1),
  )


def _labels(outputs, y):
  each = special.expit(outputs)
  ones = each.mean(0)
  labels = (ones > 0.5).astype(int)
  own = np.where(labels == 1, ones, 1 - ones).reshape(len(y), -1)
  same = lambda found: (found == y).reshape(len(y), -1).all(-1)
  return Predictions(
    labels,
    np.stack([1 - ones, ones], -1) if y.ndim == 1 else ones,
    own.prod(-1),
    ~same(labels),
    None,
    np.array([same(one > 0.5).mean() for one in each]),
  )


def _close(losses, likely):
  return np.allclose(losses, likely, rtol=1e-3, atol=1e-3)
