"""Predictions of models for queries: right or wrong, and how sure they are.

The problem's loss decides what outputs are. If it is −log p of the softmax of
outputs [K], they are classes; if it is −log p of independent labels of 0 or 1,
labels; if there are as many outputs as targets, numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import problem as problem_lib
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.trees import PyTree, widened


class Predictions(NamedTuple):
  """Predictions of E models together: means of probabilities, or of numbers.

  Attributes:
    labels: like the queries' 'y': class numbers [Q], labels of 0 or 1 [Q] or
      [Q, K], or numbers.
    chances: probability of each class, [Q, K] (with one label, of 0 and of 1),
      or that each of K labels is 1; None: the loss is no −log p, so that outputs
      are no probabilities; or the outputs are numbers.
    sure: [Q], probability of what is predicted. For classes without
      probabilities it is the softmax of the outputs, which only orders queries.
      None for numbers.
    wrong: [Q] bool; None for numbers.
    error: [Q], Σ_k |prediction_k − target_k|; None except for numbers.
    per_model: [E], each model's own share of right queries, or mean error.
  """

  labels: np.ndarray
  chances: np.ndarray | None
  sure: np.ndarray | None
  wrong: np.ndarray | None
  error: np.ndarray | None
  per_model: np.ndarray


def of_models(
  problem: Problem, runs: Run, queries: PyTree
) -> Predictions | None:
  """The predictions of E models (leading member axis of `runs`).

  Returns:
    None if this module does not know how outputs and labels are related: rows
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
  error = lambda predicted: np.abs(predicted - y).reshape(len(y), -1).sum(-1)
  mean = outputs.mean(0)
  per_model = np.stack(
    [error(member_outputs).mean() for member_outputs in outputs]
  )
  return Predictions(mean, None, None, None, error(mean), per_model)


def order(predictions: Predictions) -> np.ndarray:
  """The order in which to show queries, [Q]: wrong and least sure ones first.

  With numbers, the largest errors come first.
  """
  if predictions.error is not None:
    return np.argsort(-predictions.error, kind='stable')
  sure, wrong = predictions.sure, predictions.wrong
  assert sure is not None and wrong is not None  # they are no numbers
  return np.lexsort((sure, ~wrong))


def with_predicted_labels(
  queries: PyTree, predictions: Predictions, index: np.ndarray
) -> PyTree:
  """The queries at `index`, with the predicted labels in place of their own."""
  chosen_queries = jax.tree.map(lambda leaf: leaf[index], queries)
  kind = np.asarray(queries['y']).dtype
  return {**chosen_queries, 'y': predictions.labels[index].astype(kind)}


def _evaluated(problem, runs, queries):
  """Outputs [E, Q, ...] and losses [E, Q]."""

  @jax.jit
  def evaluate(params, frozen):
    member_problem = problem_lib.bound(problem, frozen)
    outputs = jax.vmap(
      lambda row: widened(member_problem.outputs(params, row))
    )(queries)
    return outputs, jax.vmap(member_problem.loss)(outputs, queries)

  queries = jax.tree.map(jnp.asarray, queries)
  return jax.lax.map(
    lambda member: evaluate(*member), (runs.params, runs.frozen)
  )


def _classes(outputs, losses, y):
  from scipy import special

  each = special.softmax(outputs, -1)
  negative_log_likelihood = -special.log_softmax(outputs, -1)[
    :, np.arange(len(y)), y
  ]
  chances = each.mean(0)
  labels = chances.argmax(-1)
  return Predictions(
    labels,
    chances if _close(losses, negative_log_likelihood) else None,
    chances.max(-1),
    labels != y,
    None,
    (each.argmax(-1) == y).mean(-1),
  )


def _labels(outputs, y):
  from scipy import special

  each = special.expit(outputs)
  ones = each.mean(0)
  labels = (ones > 0.5).astype(int)
  chosen_probability = np.where(labels == 1, ones, 1 - ones).reshape(len(y), -1)
  all_right = lambda predicted: (predicted == y).reshape(len(y), -1).all(-1)
  return Predictions(
    labels,
    np.stack([1 - ones, ones], -1) if y.ndim == 1 else ones,
    chosen_probability.prod(-1),
    ~all_right(labels),
    None,
    np.array(
      [
        all_right(member_probability > 0.5).mean()
        for member_probability in each
      ]
    ),
  )


def _close(losses, likely):
  return np.allclose(losses, likely, rtol=1e-3, atol=1e-3)
