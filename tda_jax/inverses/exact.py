"""The exact inverse, by the dual Gram matrix of the GGN's rows.

G = BᵀB / N with N·K rows S_iᵀJ_i in B, so (Woodbury)

  (G + λ)⁻¹ v = (1/λ) [v − Bᵀ (λN·I + BBᵀ)⁻¹ B v],   λ = damping + l2.

BBᵀ is computed layer by layer (`curvature.gram`); B itself is only ever applied.
BBᵀ has (N·K)² entries. This is the oracle for every other inverse, and the best
method where it fits into memory.
"""

import jax
import jax.numpy as jnp

from tda_jax import memory, trees
from tda_jax.curvature import ekfac as ekfac_lib
from tda_jax.curvature import gram as gram_lib
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Damping, Inverse
from tda_jax.layers import find as layers_lib
from tda_jax.layers import reads
from tda_jax.problem import Problem, num_outputs
from tda_jax.settings import kept
from tda_jax.trees import PyTree


@kept
def exact(
  damping: Damping, *, batch_size: int = 256, memory_limit: float = 8e9
) -> Inverse:
  """(G + damping)⁻¹ v to rounding, with one step of iterative refinement.

  Args:
    damping: a number, or 'heuristic': 0.1 · trace(G) / number of parameters.
    memory_limit: bytes that the Gram matrix and its factor may take; they must
      be free too.

  Raises:
    ValueError: they would take more; the sentence says how much.
  """

  def fit(problem, params, train, key):
    del key
    inverse_lib.check_damping(damping, problem.l2)
    n = rows_lib.count(train)
    example = rows_lib.take(train, 0)
    k = num_outputs(problem, params, example)
    need = 3 * 4 * (n * k) ** 2  # the matrix, its factor, a block in the making
    what = f'the Gram matrix of {n} rows x {k} outputs, with its factor,'
    memory.check(need, memory_limit, what, 'use cg or astra')
    matrix = dual(problem, params, train, batch_size)
    shift = (
      jnp.asarray(damping, jnp.float32)
      if damping != 'heuristic'
      else (0.1 * jnp.trace(matrix) / (n * trees.size(params)))
    )
    shifted = matrix + (shift + problem.l2) * n * jnp.eye(
      n * k, dtype=matrix.dtype
    )
    # It is symmetric but for rounding; to make it so is one more pass over it.
    return jax.lax.linalg.cholesky(shifted, symmetrize_input=False), shift

  def solve(state, problem, params, train, vectors, key):
    del key
    factor, shift = state
    total = shift + problem.l2
    forward, transpose = _rows_of_ggn(problem, params, train, batch_size)

    def once(v):
      inner = jax.scipy.linalg.cho_solve((factor, True), forward(v).T).T
      return trees.scaled(1 / total, trees.add(v, transpose(inner), -1.0))

    space = coordinates_lib.coordinates(None, problem, params, train)
    system = inverse_lib.damped(space, space.product, train, batch_size, shift)
    return inverse_lib.refined_solution(once, system, vectors, shift)

  return inverse_lib.inverse(fit, solve)


def dual(
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
  of_all = {
    name: _all_rows(layers[name], factor) for name, factor in parts.items()
  }
  blocks = jax.lax.map(lambda one: gram_lib.gram(layers, one, of_all), parts)
  k = blocks.shape[2]
  rows = blocks.reshape(-1, k, blocks.shape[3], k)[:n, :, :n]
  return rows.reshape(n * k, n * k)


def _all_rows(layer, factor):
  """A stack of batches' factors as the factor of all their rows."""
  depth = len(layer.stack)

  def merged(x, at):  # the batch axis is `at` without the stacking axis 0
    x = jnp.moveaxis(x, 0, at)
    return x.reshape(x.shape[:at] + (-1,) + x.shape[at + 2 :])

  return gram_lib.Factor(merged(factor.a, depth), merged(factor.g, depth + 1))


def _rows_of_ggn(problem, params, train, batch_size):
  """(v -> B v [Q, N·K], c -> Bᵀc [Q, ...]) for stacks of Q vectors."""
  stack = rows_lib.stacked(train, batch_size)
  n = rows_lib.count(train)
  root = jax.vmap(lambda z, e: ekfac_lib.loss_hessian_root(problem, z, e))

  def linear(batch):
    model = jax.vmap(reads.agreeing(problem).outputs, (None, 0))
    z, jvp = jax.linearize(lambda p: model(p, batch.examples), params)
    vjp = jax.linear_transpose(jvp, params)
    roots = root(z, batch.examples) * batch.mask[:, None, None]
    return z, jvp, vjp, roots

  def forward(v):
    def part(batch):
      z, jvp, _, roots = linear(batch)
      tangents = jax.vmap(jvp)(v).reshape(-1, len(z), roots.shape[-1])
      return jnp.einsum('qbj,bjk->bqk', tangents, roots)

    rows = rows_lib.mapped(part, stack)  # [C, B, Q, K]
    rows = rows.reshape(-1, *rows.shape[2:])[:n]
    return rows.transpose(1, 0, 2).reshape(rows.shape[1], -1)

  def transpose(c):
    c = c.reshape(len(c), n, -1).transpose(1, 0, 2)
    pad = stack.mask.size - n
    c = jnp.pad(c, ((0, pad), (0, 0), (0, 0)))
    c = c.reshape(*stack.mask.shape, *c.shape[1:])

    def part(batch_and_c):
      batch, c = batch_and_c
      z, _, vjp, roots = linear(batch)
      u = jnp.einsum('bqk,bjk->qbj', c, roots)
      return jax.vmap(lambda one: vjp(one.reshape(z.shape))[0])(u)

    return rows_lib.total(part, (stack, c))

  return forward, transpose
