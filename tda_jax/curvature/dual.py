"""The dual of the GGN: inner products of its rows.

G = BᵀB / N, and what G has beyond 0 is in BBᵀ, which is small where there are fewer
rows than parameters. `gram_of_all` has all N·K rows S_iᵀJ_i, S_i the symmetric root of the
loss's Hessian in the outputs of row i.

Most of the curvature is in few rows, if they are taken apart by eigenvectors:
row (i, k) is s_ikᵀJ_i, s_ik = √λ_k q_k, and where the model is sure of row i, all
λ_k are small. `largest` finds those of the largest ‖s_ikᵀJ_i‖². Each is kept with
its s, as other programs may turn eigenvectors whose eigenvalues are close.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import compiler
from tda_jax.curvature import gram as gram_lib
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib
from tda_jax.layers import reads, taps
from tda_jax.problem import Problem
from tda_jax.trees import PyTree


class Rows(NamedTuple):
  """R rows s_rᵀJ of B."""

  index: jax.Array  # [R] number of the training row whose J it is
  roots: jax.Array  # [R, K] s; 0: a row that does not count


def gram_of_all(
  problem: Problem, params: PyTree, train: PyTree, batch_size: int
) -> jax.Array:
  """BBᵀ [N·K, N·K], rows ordered by example, then output."""
  n = rows_lib.count(train)
  example = rows_lib.take(train, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  stack = rows_lib.stacked(train, batch_size)
  parts = rows_lib.mapped(
    lambda b: gram_lib.factors(problem, params, b, 'curvature'), stack
  )
  blocks = _with_all(layers, parts)
  k = blocks.shape[2]
  rows = blocks.reshape(-1, k, blocks.shape[3], k)[:n, :, :n]
  return rows.reshape(n * k, n * k)


def outputs(
  problem: Problem, params: PyTree, stack: rows_lib.Batch
) -> jax.Array:
  """The model's outputs at all rows of a stack, [C, B, ...]."""
  model = jax.vmap(problem.outputs, (None, 0))
  return rows_lib.mapped(lambda b: model(params, b.examples), stack)


def largest(
  problem: Problem,
  params: PyTree,
  stack: rows_lib.Batch,
  z: jax.Array,
  count: int,
) -> tuple[Rows, jax.Array]:
  """The `count` rows of the largest ‖s_ikᵀJ_i‖², and Σ of it over all rows.

  Args:
    stack: training rows (`rows.stacked`).
    z: the outputs at which the loss is curved, [C, B, ...]: those of `outputs`,
      or of another model with the same J.
  """
  of_scalars = _of_scalars(problem)

  def of_batch(part):
    batch, z = part
    roots = jax.vmap(lambda z, e: _eigen_roots(problem, z, e))
    roots = roots(z, batch.examples) * batch.mask[:, None, None]

    def squares(s):
      rows = batch._replace(examples=(batch.examples, s))
      return taps.collect_rows(
        gram_lib.squared_norms,
        of_scalars,
        of_scalars.loss,
        params,
        rows,
        total=True,
      )

    return jax.vmap(squares, 2, 1)(roots), roots

  squares, roots = rows_lib.mapped(of_batch, (stack, z))
  k = squares.shape[-1]
  roots = roots.reshape(-1, k, k)
  _, places = jax.lax.top_k(squares.ravel(), count)
  batch_row, column = places // k, places % k
  index = jnp.asarray(stack.index).ravel()[batch_row]
  return Rows(index, roots[batch_row, :, column]), squares.sum()


def gram(
  problem: Problem, params: PyTree, train: PyTree, rows: Rows, batch_size: int
) -> jax.Array:
  """BBᵀ [R, R] of some rows."""
  problem = _of_scalars(problem)
  example = rows_lib.take(train, 0), rows.roots[0]
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  parts = rows_lib.mapped(
    lambda b: gram_lib.factors(problem, params, _read(train, b), 'loss'),
    rows_lib.stacked(rows, batch_size),
  )
  blocks = _with_all(layers, parts)
  size = len(rows.index)
  return blocks.reshape(-1, blocks.shape[3])[:size, :size]


def products(
  problem: Problem, params: PyTree, train: PyTree, rows: Rows, batch_size: int
) -> tuple[Callable, Callable]:
  """(v -> B v [Q, R], c -> Bᵀc [Q, ...]) of some rows, for stacks of Q vectors."""
  stack = rows_lib.stacked(rows, batch_size)
  size = len(rows.index)
  model = jax.vmap(_of_scalars(problem, agreeing=True).outputs, (None, 0))

  def linear(batch):
    examples = _read(train, batch).examples
    z, jvp = jax.linearize(lambda p: model(p, examples), params)
    roots = examples[1] * batch.mask[:, None]
    return jvp, jax.linear_transpose(jvp, params), roots.reshape(z.shape)

  def forward(v):
    def part(batch):
      jvp, _, roots = linear(batch)
      along = jax.vmap(jvp)(v) * roots
      return along.reshape(*along.shape[:2], -1).sum(-1).T

    values = rows_lib.mapped(part, stack)  # [C, B, Q]
    return values.reshape(-1, values.shape[-1])[:size].T

  def transpose(c):
    c = jnp.pad(c.T, ((0, stack.mask.size - size), (0, 0)))
    c = c.reshape(*stack.mask.shape, -1)

    def part(batch_and_c):
      batch, c = batch_and_c
      _, vjp, roots = linear(batch)
      scaled = lambda c: c.reshape(-1, *(1,) * (roots.ndim - 1)) * roots
      return jax.vmap(lambda c: vjp(scaled(c))[0], 1)(c)

    return rows_lib.total(part, (stack, c))

  return forward, transpose


def cholesky(matrix: jax.Array, shift: jax.Array | float) -> jax.Array:
  """The lower factor of matrix + shift."""
  shifted = matrix + shift * jnp.eye(len(matrix), dtype=matrix.dtype)
  # It is symmetric but for rounding; to make it so is one more pass over it.
  return jax.lax.linalg.cholesky(shifted, symmetrize_input=False)


def _of_scalars(problem: Problem, agreeing: bool = False) -> Problem:
  """The problem of examples (example, s), whose loss is sᵀoutputs."""
  inner = reads.agreeing(problem) if agreeing else problem
  return problem._replace(
    outputs=lambda params, pair: inner.outputs(params, pair[0]),
    loss=lambda z, pair: jnp.vdot(pair[1], z.ravel()),
  )


def _read(train, batch):
  """A batch of `Rows` as one of examples (example, s)."""
  rows = batch.examples
  return batch._replace(examples=(rows_lib.take(train, rows.index), rows.roots))


def _eigen_roots(problem, z, example):
  """√λ_k q_k in columns, [K, K]: S Sᵀ is the loss's Hessian at outputs z."""
  flat = lambda z_: problem.loss(z_.reshape(z.shape), example)
  eigh = compiler.one_by_one(jnp.linalg.eigh)
  values, vectors = eigh(jax.hessian(flat)(z.ravel()))
  return vectors * jnp.sqrt(jnp.maximum(values, 0))


def _with_all(layers, parts):
  """Inner products [C, B, K, C·B, K] of a stack's rows with all of its rows."""
  of_all = {
    name: _all_rows(layers[name], factor) for name, factor in parts.items()
  }
  return jax.lax.map(lambda one: gram_lib.gram(layers, one, of_all), parts)


def _all_rows(layer, factor):
  """A stack of batches' factors as the factor of all their rows."""
  depth = len(layer.stack)

  def merged(x, at):  # the batch axis is `at` without the stacking axis 0
    x = jnp.moveaxis(x, 0, at)
    return x.reshape(x.shape[:at] + (-1,) + x.shape[at + 2 :])

  return gram_lib.Factor(merged(factor.a, depth), merged(factor.g, depth + 1))
