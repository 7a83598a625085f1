"""Inverses by Kronecker factors: KFAC and EKFAC (`curvature.ekfac`).

Martens & Grosse 2015, https://arxiv.org/abs/1503.05671; George et al. 2018,
https://arxiv.org/abs/1806.03884; Grosse et al. 2023,
https://arxiv.org/abs/2308.03296.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from tda_jax import memory, parallel
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.data import rows
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.coordinates import Fitted
from tda_jax.inverses.inverse import Damping, Inverse, Scaling
from tda_jax.layers import find as layers_lib
from tda_jax.settings import kept


@kept
def ekfac(
  damping: Damping = 'heuristic',
  *,
  kind: str = 'ekfac',
  labels: str = 'sampled',
  batch_size: int = 256,
  memory_limit: float = 8e9,
) -> Inverse:
  """(F + l2 + damping)⁻¹ v, where F is EKFAC's approximation of the Fisher.

  Args:
    damping: a number, or 'heuristic': 0.1 · mean eigenvalue of each layer
      (Grosse et al. 2023, §3.1.1); of a scanned stack, of each of its blocks.
    kind, labels: see `curvature.ekfac.fit`.
    memory_limit: bytes that the factors of all layers may take with their
      eigenvectors; they must be free too.

  Raises:
    ValueError: they would take more; the sentence names the largest layer.
  """

  def fit(problem, params, train, key):
    inverse_lib.check_damping(damping, problem.l2)
    if kind != 'diagonal':
      example = rows.take(train, 0)
      _check_memory(problem, params, example, memory_limit)
    stack = rows.stacked(train, batch_size)
    blocks = blocks_lib.fit(
      problem,
      params,
      stack,
      key,
      kind=kind,
      labels=labels,
    )
    return Fitted(blocks)

  def scale(state, problem):
    inverse_lib.check_damping(damping, problem.l2)  # the fit may be another's
    shifts = layer_damping(state.blocks, damping)
    factors = {
      name: 1 / (block.eigenvalues + problem.l2 + shifts[name])
      for name, block in state.blocks.items()
    }
    return Scaling(factors, _mean_damping(state.blocks, shifts))

  def solve(state, problem, params, train, vectors, key):
    del key
    factors, shift = scale(state, problem)
    x = blocks_lib.apply(
      state.blocks,
      lambda name, _: factors[name],
      problem,
      params,
      rows.take(train, 0),
      vectors,
    )
    return inverse_lib.closed_form(x, shift)

  made = inverse_lib.inverse(fit, solve, scale)
  return made._replace(solve_only=('damping', 'memory_limit'))


@kept
def kfac(damping: Damping = 'heuristic', **kwargs: Any) -> Inverse:
  """(A ⊗ S + l2 + damping)⁻¹ v: EKFAC without its corrected eigenvalues.

  Args:
    damping, kwargs: see `ekfac`.
  """
  return ekfac(damping, kind='kfac', **kwargs)


@kept
def diagonal(damping: Damping = 'heuristic', **kwargs: Any) -> Inverse:
  """(diag(Fisher) + l2 + damping)⁻¹ v.

  Args:
    damping, kwargs: see `ekfac`.
  """
  return ekfac(damping, kind='diagonal', **kwargs)


def _check_memory(problem, params, example, memory_limit):
  """Raises ValueError if the factors do not fit into memory.

  A layer takes 3 (I² + O²) + I·O numbers: its factors, their eigenvectors and
  one copy of each. The A of an embedding is diagonal, and so is the S of a leaf
  and that of a wide layer (`curvature.ekfac.WIDE`).
  A mesh with an axis `model` divides them.
  """
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)

  def size(layer):
    wide = (layer.kind != 'embed') * layer.num_in**2
    high = blocks_lib.has_outputs(layer) * layer.num_out**2
    numbers = 3 * (wide + high) + layer.num_in * layer.num_out
    return 4 * math.prod(layer.stack) * numbers

  sizes = {name: size(layer) for name, layer in layers.items()}
  if not sizes:
    return
  largest = max(sizes, key=sizes.__getitem__)
  layer = layers[largest]
  memory.check(
    sum(sizes.values()) / parallel.parts(),
    memory_limit,
    f'EKFAC of {len(sizes)} layers (the largest is {largest}, {layer.num_in} x'
    f' {layer.num_out})',
    f'leave that layer out (leave_out={largest!r} of the problem), or use'
    ' diagonal or datainf',
  )


def layer_damping(
  blocks: dict[str, blocks_lib.Block], damping: Damping
) -> dict[str, jax.Array]:
  """The damping of each layer, [*stack, 1, 1]; a number is that of all."""
  if damping == 'heuristic':
    return {n: 0.1 * _means(b.eigenvalues) for n, b in blocks.items()}
  return {n: jnp.asarray(damping, jnp.float32) for n in blocks}


def _means(eigenvalues):
  """The mean of each block of a stack [*stack, 1, 1], or of all where it is 0."""
  own = jnp.mean(eigenvalues, (-2, -1), keepdims=True)
  # An expert to which no row was sent has eigenvalues of 0.
  return jnp.where(own > 0, own, jnp.mean(eigenvalues))


def _mean_damping(blocks, shifts):
  """The mean over parameters of the damping of their layers."""
  sizes = jnp.array([blocks[n].eigenvalues.size for n in shifts])
  means = jnp.stack([jnp.mean(shift) for shift in shifts.values()])
  return jnp.sum(sizes * means) / jnp.sum(sizes)


@kept
def projected(
  inner: Inverse,
  threshold: float,
  *,
  batch_size: int = 256,
  labels: str = 'sampled',
) -> Inverse:
  """`inner`'s solution restricted to EKFAC eigenvalues above `threshold`.

  Its difference from `inner` is what the directions of low curvature contribute
  (ASTRA paper, Fig. 4, https://arxiv.org/abs/2507.14740).
  """

  def fit(problem, params, train, key):
    stack = rows.stacked(train, batch_size)
    blocks = blocks_lib.fit(problem, params, stack, key, labels=labels)
    inner_key = jax.random.fold_in(key, 2)
    return blocks, inner.fit(problem, params, train, inner_key)

  def solve(state, problem, params, train, vectors, key):
    blocks, state = state
    solution = inner.solve(state, problem, params, train, vectors, key)
    keep = lambda _, values: (values > threshold).astype(jnp.float32)
    example = rows.take(train, 0)
    x = blocks_lib.apply(blocks, keep, problem, params, example, solution.x)
    # The residuals are those of the solution before it was projected.
    return inverse_lib.closed_form(x, solution.damping)._replace(
      diverged=solution.diverged, converged=solution.converged
    )

  return inverse_lib.inverse(fit, solve)
