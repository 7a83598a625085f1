"""Products v -> A v of curvature matrices with parameter trees.

Each constructor linearises the model once; the product it returns can then be
applied to many vectors with `jax.vmap`. Each is a mean over the unmasked rows of
the batch, plus l2·v if the problem has an l2 term.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tda_jax import parallel, trees
from tda_jax.data import rows
from tda_jax.layers import reads
from tda_jax.problem import Problem
from tda_jax.trees import PyTree

Product = Callable[[PyTree], PyTree]


def hessian(problem: Problem, params: PyTree, batch: rows.Batch) -> Product:
  """v -> (1/B) Σ_i ∇²loss_i(θ) v + l2·v."""

  problem = reads.agreeing(problem)

  def mean_loss(params):
    outputs = jax.vmap(problem.outputs, (None, 0))(params, batch.examples)
    losses = jax.vmap(problem.loss)(outputs, batch.examples)
    return jnp.sum(losses * _weights(batch))

  _, product = jax.linearize(jax.grad(mean_loss), params)
  return lambda v: trees.add(product(v), v, problem.l2)


def ggn(
  problem: Problem,
  params: PyTree,
  batch: rows.Batch,
  at: jax.Array | None = None,
) -> Product:
  """v -> (1/B) Σ_i J_iᵀ (∂²loss_i/∂outputs²) J_i v + l2·v, J = ∂outputs/∂θ.

  The generalised Gauss-Newton matrix (Schraudolph 2002,
  https://doi.org/10.1162/08997660260028683), by one Jacobian-vector product, the
  derivative of the loss gradient in the outputs, and one vector-Jacobian product.
  Any twice differentiable loss will do.

  Args:
    at: outputs [B, ...] at which the loss is curved; None: the model's.
  """
  jvp, vjp, outputs = _jacobian(problem, params, batch)
  gradient = lambda z: jax.vmap(jax.grad(problem.loss))(z, batch.examples)
  _, loss_hessian = jax.linearize(gradient, outputs if at is None else at)
  weights = _weights(batch)

  def product(v):
    curved = loss_hessian(jvp(v))
    return trees.add(vjp(_per_row(weights, curved) * curved), v, problem.l2)

  return product


def gradient(
  problem: Problem, params: PyTree, batch: rows.Batch, at: jax.Array
) -> PyTree:
  """(1/B) Σ_i J_iᵀ ∂loss_i/∂outputs at the outputs `at` [B, ...]."""
  _, vjp, _ = _jacobian(problem, params, batch)
  slopes = jax.vmap(jax.grad(problem.loss))(at, batch.examples)
  return vjp(_per_row(_weights(batch), slopes) * slopes)


def fisher(
  problem: Problem, params: PyTree, batch: rows.Batch, key: jax.Array
) -> Product:
  """v -> (1/B) Σ_i g_i g_iᵀ v + l2·v, g_i = ∇loss_i at a label of the model.

  One label per row is drawn by `problem.sample` from `fold_in(key, index)`, so
  the draw does not depend on the batch size. The expectation over labels is the
  GGN where the loss is a negative log-likelihood of an exponential family
  (Martens 2020, https://arxiv.org/abs/1412.1193).
  """
  jvp, vjp, outputs = _jacobian(problem, params, batch)
  drawn = sampled(problem, key, outputs, batch)
  gradient = jax.vmap(jax.grad(problem.loss))(outputs, drawn)
  weights = _weights(batch)

  def product(v):
    slopes = jax.vmap(jnp.vdot)(gradient, jvp(v)) * weights
    return trees.add(vjp(_per_row(slopes, gradient) * gradient), v, problem.l2)

  return product


def sampled(
  problem: Problem, key: jax.Array, outputs: PyTree, batch: rows.Batch
) -> PyTree:
  """The batch's examples, with labels drawn from the model's outputs."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
  return jax.vmap(problem.sample)(
    keys, jax.lax.stop_gradient(outputs), batch.examples
  )


def averaged(
  make: Callable[[rows.Batch], Product], stack: rows.Batch
) -> Product:
  """The mean of products over all rows of a stack of batches, one at a time.

  Args:
    make: batch -> product that is a mean over the rows of that batch.
    stack: batches with a leading axis C (`rows.stacked`).
  """
  n = stack.mask.sum()

  def product(v):
    def share(batch):
      return trees.scaled(batch.mask.sum() / n, make(batch)(v))

    return rows.total(share, stack)

  return product


def divided(
  make: Callable[[rows.Batch], Product], batch: rows.Batch
) -> Product:
  """The product of one batch, of which each device computes a share.

  Args:
    make: see `averaged`.
  """
  if parallel.devices() == 1:
    return make(batch)
  return averaged(make, rows.divided(batch))


def damped(product: Product, damping: float | jax.Array) -> Product:
  """v -> A v + damping·v."""
  return lambda v: trees.add(product(v), v, damping)


def gradients(
  scalar: Callable[[PyTree, PyTree], jax.Array],
  problem: Problem,
  params: PyTree,
  rows: PyTree,
) -> PyTree:
  """Gradients of a function of the outputs at each row, a stack [Q, ...].

  Args:
    scalar: (outputs, example) -> number, as `problem.loss` or `problem.measure`.
  """

  def value(params, example):
    return scalar(problem.outputs(params, example), example)

  return jax.vmap(jax.grad(value), (None, 0))(params, rows)


def _jacobian(problem, params, batch):
  """Jacobian of the batch's outputs: (jvp, vjp, outputs [B, ..., K])."""
  model = jax.vmap(reads.agreeing(problem).outputs, (None, 0))
  outputs, jvp = jax.linearize(lambda p: model(p, batch.examples), params)
  transpose = jax.linear_transpose(jvp, params)
  return jvp, lambda u: transpose(u)[0], outputs


def _weights(batch):
  """The share of each row in the mean over the batch, [B]."""
  return batch.mask / jnp.maximum(batch.mask.sum(), 1)  # 1: padding alone


def _per_row(weights, values):
  """Weights [B] in the type of values [B, ...], to multiply them."""
  weights = weights.astype(values.dtype)
  return weights.reshape(weights.shape + (1,) * (values.ndim - 1))
