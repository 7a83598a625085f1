"""The exact inverse, by the dual Gram matrix of the GGN's rows.

G = BᵀB / N with N·K rows S_iᵀJ_i in B, so (Woodbury)

  (G + λ)⁻¹ v = (1/λ) [v − Bᵀ (λN·I + BBᵀ)⁻¹ B v],   λ = damping + l2.

BBᵀ is computed layer by layer (`curvature.dual`); B itself is only ever applied.
BBᵀ has (N·K)² entries. Where they do not fit, it has only the R largest rows of B
that do, taken apart by the eigenvectors of each row's loss; their G preconditions
conjugate gradients with the whole one. This is the oracle for every other inverse,
and the best method where it fits into memory.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import memory, trees
from tda_jax.curvature import dual
from tda_jax.curvature import ekfac as ekfac_lib
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import cg
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Damping, Inverse
from tda_jax.layers import reads
from tda_jax.problem import num_outputs
from tda_jax.settings import kept

# Bytes that an entry of BBᵀ takes: the matrix, its factor, a block in the making;
# or the matrix and, in float64, itself, its eigenvectors and what finds them.
BYTES = {'cholesky': 12, 'eigh': 36}


class State(NamedTuple):
  """BBᵀ in factors."""

  # The Cholesky factor of BBᵀ + λN; or BBᵀ's (eigenvalues, eigenvectors).
  factor: jax.Array | tuple[jax.Array, jax.Array]
  heuristic: jax.Array  # the damping of that name
  rows: dual.Rows | None  # those of B; None: all


@kept
def exact(
  damping: Damping,
  *,
  batch_size: int = 256,
  memory_limit: float = 8e9,
  factor: str = 'cholesky',
  tolerance: float = 1e-3,
  max_steps: int = 100,
) -> Inverse:
  """(G + damping)⁻¹ v to rounding, with one step of iterative refinement.

  If the Gram matrix of all rows takes more than `memory_limit`, it is that of the
  largest that fit, and v is solved for by conjugate gradients, to `tolerance`.

  Args:
    damping: a number, or 'heuristic': 0.1 · trace(G) / number of parameters.
    memory_limit: bytes that the Gram matrix and its factor may take; they must
      be free too.
    factor: 'cholesky', of one damping; or 'eigh', which takes much
      longer and serves all dampings, so that a fit that is kept does too.
    tolerance, max_steps: of the conjugate gradients, see `cg`.

  Raises:
    ValueError: not one row fits, or the memory is not free; the sentence says how
      much it needs. Another `factor`.
  """
  if factor not in BYTES:
    raise ValueError(f'factor={factor!r} is unknown: use one of {[*BYTES]}')

  def fit(problem, params, train, key):
    del key
    inverse_lib.check_damping(damping, problem.l2)
    count = _count_that_fits(problem, params, train, memory_limit, factor)
    n, rows = rows_lib.count(train), None
    if count is None:
      matrix = dual.gram_of_all(problem, params, train, batch_size)
      trace = jnp.trace(matrix)
    else:
      stack = rows_lib.stacked(train, batch_size)
      z = dual.outputs(problem, params, stack)
      rows, trace = dual.largest(problem, params, stack, z, count)
      matrix = dual.gram(problem, params, train, rows, batch_size)
    heuristic = 0.1 * trace / float(n * trees.size(params))  # no int32
    if factor == 'eigh':
      return State(ekfac_lib.eigh(matrix), heuristic, rows)
    shift = _shift(damping, heuristic) + problem.l2
    return State(dual.cholesky(matrix, shift * n), heuristic, rows)

  def solve(state, problem, params, train, vectors, key):
    del key
    inverse_lib.check_damping(damping, problem.l2)  # the fit may be another's
    shift = _shift(damping, state.heuristic)
    total = shift + problem.l2
    if state.rows is None:
      forward, transpose = _rows_of_ggn(problem, params, train, batch_size)
    else:
      forward, transpose = dual.products(
        problem, params, train, state.rows, batch_size
      )

    def once(v):
      inner = _inner(state.factor, total * rows_lib.count(train), forward(v))
      return trees.scaled(1 / total, trees.add(v, transpose(inner), -1.0))

    space = coordinates_lib.coordinates(None, problem, params, train)
    system = inverse_lib.damped(space, space.product, train, batch_size, shift)
    if state.rows is None:
      return inverse_lib.refined_solution(once, system, vectors, shift)
    limits = {'tolerance': tolerance, 'max_steps': max_steps}
    return cg.solved(system, once, vectors, shift, **limits)

  made = inverse_lib.inverse(fit, solve)
  only = ('tolerance', 'max_steps')
  return made._replace(
    solve_only=('damping', *only) if factor == 'eigh' else only
  )


def _shift(damping, heuristic):
  """The damping as a number."""
  if damping == 'heuristic':
    return heuristic
  return jnp.asarray(damping, jnp.float32)


def _count_that_fits(problem, params, train, memory_limit, factor):
  """The number of rows of B whose BBᵀ fits into memory; None: all.

  Raises:
    ValueError: none; the memory is not free.
  """
  n = rows_lib.count(train)
  k = num_outputs(problem, params, rows_lib.take(train, 0))
  most = math.isqrt(int(min(memory_limit, 1e18) / BYTES[factor]))
  what = f'the Gram matrix of {n} rows x {k} outputs, with its factor,'
  if n * k <= most or most == 0:
    need = BYTES[factor] * (n * k) ** 2
    memory.check(need, memory_limit, what, 'use cg or astra')
    return None
  what = (
    f"the loss's Hessians of {n} rows x {k} x {k} outputs, with their roots,"
  )
  memory.check(12 * n * k**2, memory_limit, what, 'use cg or astra')
  what = f'the Gram matrix of the largest {most} of {n} rows x {k} outputs'
  memory.check(
    BYTES[factor] * most**2, memory_limit, what, 'lower memory_limit'
  )
  return most


def _inner(factor, shift, b):
  """(BBᵀ + shift)⁻¹ b of a stack b [Q, R]; a Cholesky factor has its shift."""
  if not isinstance(factor, tuple):
    return jax.scipy.linalg.cho_solve((factor, True), b.T).T
  values, vectors = factor
  return ((b @ vectors) / (jnp.maximum(values, 0) + shift)) @ vectors.T


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
