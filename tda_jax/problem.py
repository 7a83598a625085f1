"""The problem: what a user gives, as pure functions of ONE example."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


class Problem(NamedTuple):
  """A model and what is asked of it; `vmap` makes the batch.

  The objective is L(θ) = (1/N) Σ_i loss_i(θ) + ½·l2·‖θ‖².

  Attributes:
    outputs: (params, example) -> [..., K]; or (params, example, frozen), for
      models that have more than their trained parameters, as a dropout mask
      (see `bound`).
    loss: (outputs, example) -> scalar, summed over the example's own terms.
    measure: (outputs, example) -> scalar a query is asked about; higher is
      better.
    sample: (key, outputs, example) -> example with labels drawn from the model
      (the likelihood whose negative logarithm `loss` is).
    check: (outputs shape, rows) -> None; raises ValueError on rows whose labels
      do not fit the outputs.
    l2: coefficient of ½‖θ‖² in the objective; l2·I belongs to the curvature.
    as_leaf: patterns of parameter names to hold as diagonal blocks, where
      `curvature.layers.find` asks for it.
  """

  outputs: Callable
  loss: Callable
  measure: Callable
  sample: Callable
  check: Callable
  l2: float = 0.0
  as_leaf: tuple[str, ...] = ()


def classification(apply: Callable, l2: float = 0.0) -> Problem:
  """Softmax classification of examples {'x': [...], 'y': integer label}.

  loss = −log p_y; measure = the margin log p_y − log(1 − p_y) (Park et al.
  2023, TRAK, §3); labels are sampled from softmax(outputs).

  Args:
    apply: (params, x [B, ...]) -> logits [B, K], each row depending on its own
      example only; (params, x, key) for a model with dropout, as those of
      `models`.
    l2: see `Problem`.
  """

  def loss(outputs, example):
    return -jax.nn.log_softmax(outputs)[example['y']]

  def measure(outputs, example):
    own = jnp.arange(outputs.shape[-1]) == example['y']
    return outputs[example['y']] - jax.nn.logsumexp(outputs, where=~own)

  def sample(key, outputs, example):
    return {**example, 'y': jax.random.categorical(key, outputs)}

  def check(shape, rows):
    labels = np.asarray(rows['y'])
    if not np.issubdtype(labels.dtype, np.integer):
      raise ValueError(
        f'class labels have type {labels.dtype}; give integers from 0 to'
        f' {shape[-1] - 1}'
      )
    if labels.min() < 0 or labels.max() >= shape[-1]:
      bad = int(np.argmax((labels < 0) | (labels >= shape[-1])))
      raise ValueError(
        f'row {bad} has label {labels[bad]}, but the model has'
        f' {shape[-1]} classes (0 to {shape[-1] - 1}): relabel the rows or'
        ' widen the model'
      )

  return Problem(_alone(apply), loss, measure, sample, check, l2)


def regression(apply: Callable, l2: float = 0.0) -> Problem:
  """Least squares on examples {'x': [...], 'y': number or [K]}.

  loss = Σ_k (output_k − y_k)², the negative logarithm (up to a constant) of a
  Gaussian of variance ½, from which labels are sampled; measure = −Σ_k
  |output_k − y_k|.

  Args:
    apply: (params, x [B, ...]) -> predictions [B] or [B, K], each row depending
      on its own example only.
    l2: see `Problem`.
  """

  def error(outputs, example):
    return outputs - jnp.reshape(example['y'], outputs.shape)

  def loss(outputs, example):
    return jnp.sum(error(outputs, example) ** 2)

  def measure(outputs, example):
    return -jnp.sum(jnp.abs(error(outputs, example)))

  def sample(key, outputs, example):
    noise = jnp.sqrt(0.5) * jax.random.normal(key, outputs.shape, outputs.dtype)
    return {**example, 'y': jnp.reshape(outputs + noise, example['y'].shape)}

  def check(shape, rows):
    labels = np.asarray(rows['y'])
    if labels[0].size != int(np.prod(shape)):
      raise ValueError(
        f'each row has {labels[0].size} targets, but the model gives'
        f' {int(np.prod(shape))} numbers: make the two agree'
      )

  return Problem(_alone(apply), loss, measure, sample, check, l2)


def language_modeling(apply: Callable, l2: float = 0.0) -> Problem:
  """Reserved: next-token prediction on examples {'x': ids [T], 'mask': [T]}.

  Raises:
    NotImplementedError: always; a mask per position is not supported yet.
  """
  del apply, l2
  raise NotImplementedError(
    'language_modeling is reserved: give tda_jax.Problem your own outputs, loss,'
    ' measure, sample and check'
  )


def bound(problem: Problem, frozen: PyTree) -> Problem:
  """The problem of a model with `frozen`, whose outputs take no third argument.

  Args:
    frozen: what the model has besides its parameters; None: nothing, which is
      the problem itself.
  """
  if frozen is None:
    return problem
  return problem._replace(
    outputs=lambda params, example: problem.outputs(params, example, frozen)
  )


def num_outputs(problem: Problem, params: PyTree, example: PyTree) -> int:
  """K, the number of model outputs of one example."""
  return math.prod(jax.eval_shape(problem.outputs, params, example).shape)


def outputs_shape(problem: Problem, params: PyTree, example: PyTree) -> tuple:
  """Shape of the outputs of one example."""
  return jax.eval_shape(problem.outputs, params, example).shape


def losses(problem: Problem, params: PyTree, examples: PyTree) -> jax.Array:
  """loss of each example, [B]."""
  outputs = jax.vmap(problem.outputs, (None, 0))(params, examples)
  return jax.vmap(problem.loss)(outputs, examples)


def measures(problem: Problem, params: PyTree, examples: PyTree) -> jax.Array:
  """measure of each example, [B]."""
  outputs = jax.vmap(problem.outputs, (None, 0))(params, examples)
  return jax.vmap(problem.measure)(outputs, examples)


def _alone(apply):
  """outputs of one example: the model is run on a batch of one.

  A third argument, or else the leaf 'dropout' of the example, is the key of a
  dropout mask. The example's own goes before: it is there in training only.
  """

  def outputs(params, example, *frozen):
    key = (example['dropout'],) if 'dropout' in example else frozen
    return apply(params, example['x'][None], *key)[0]

  return outputs
