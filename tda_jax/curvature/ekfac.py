"""KFAC and EKFAC: the Fisher in a Kronecker-factored eigenbasis, per layer.

A layer y = W a with gradient δ = ∂loss/∂y has the factors A = E[a aᵀ] and
S = E[δ δᵀ] = Q_S Λ_S Q_Sᵀ, A = Q_A Λ_A Q_Aᵀ, and the Fisher block

  KFAC   F ≈ T·A ⊗ S             (T positions a layer is applied to: "expand")
  EKFAC  F ≈ (Q_A ⊗ Q_S) diag(Λ) (Q_A ⊗ Q_S)ᵀ,  Λ = E[(Q_Aᵀ ∇W Q_S)²],

expectations over examples and over labels of the model. A and S are means over
the positions that count in each row (`curvature.positions`), T is the mean of
their number: of rows of different length, each position is one observation. Martens & Grosse 2015;
George et al. 2018; Grosse et al. 2023, §2.4; Eschenhagen et al. 2023 (expand).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import trees
from tda_jax.curvature import layers as layers_lib
from tda_jax.curvature import positions, taps
from tda_jax.data import rows
from tda_jax.problem import Problem, bound, num_outputs

PyTree = Any


KINDS = ('ekfac', 'kfac', 'diagonal')


class Block(NamedTuple):
  """Eigenbasis and eigenvalues of one layer's block; None is the identity."""

  inputs: jax.Array | None  # Q_A [*stack, I, I]
  outputs: jax.Array | None  # Q_S [*stack, O, O]
  eigenvalues: jax.Array  # Λ [*stack, I, O]


def fit(
  problem: Problem,
  params: PyTree,
  stack: rows.Batch,
  key: jax.Array,
  *,
  kind: str = 'ekfac',
  labels: str = 'sampled',
) -> dict[str, Block]:
  """Fits the blocks on a stack of batches.

  Args:
    stack: the training rows, every field with a leading axis C
      (`rows.stacked`).
    kind: 'ekfac', 'kfac', or 'diagonal' (Q_A = Q_S = I).
    labels: 'sampled' draws one label a row from the model, afresh for the
      eigenvalues; 'exact' takes the expectation over labels, by one backward
      pass per model output (the GGN's factors); 'data' uses the rows' labels
      (the empirical Fisher).

  Raises:
    ValueError: unknown `kind` or `labels`; a layer that is applied more than once.
  """
  mean = functools.partial(_mean, problem, params, stack)
  return _fitted(mean, problem, params, stack, key, kind, labels)


def fit_average(
  problem: Problem,
  checkpoints: PyTree,
  stack: rows.Batch,
  key: jax.Array,
  *,
  frozen: PyTree = None,
  kind: str = 'ekfac',
  labels: str = 'sampled',
) -> dict[str, Block]:
  """Blocks of the mean Fisher of C checkpoints, in one basis.

  The eigenbasis is that of the factors' means over checkpoints, the eigenvalues
  are the means of those that each checkpoint has in it (Bae et al. 2024, SOURCE,
  App. D.2). One checkpoint is in memory at a time.

  Args:
    checkpoints: parameters, leaves [C, ...].
    frozen: what to bind to the problem at each of them, [C, ...]; None: nothing.
    stack, kind, labels: see `fit`, and for what it raises.
  """
  count = trees.count(checkpoints)

  def mean(key, *statistic):
    def of(checkpoint):
      params, held, key = checkpoint
      return _mean(bound(problem, held), params, stack, key, *statistic)

    keys = jax.random.split(key, count)
    total = rows.total(of, (checkpoints, frozen, keys))
    return jax.tree.map(lambda x: x / count, total)

  first = trees.row(checkpoints, 0)
  return _fitted(mean, problem, first, stack, key, kind, labels)


def _fitted(mean, problem, params, stack, key, kind, labels):
  """The blocks from `mean`: (key, labels, statistic, aux) -> its mean."""
  if labels not in LABELS:
    raise ValueError(f'labels={labels!r} is unknown: use one of {[*LABELS]}')
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r} is unknown: use one of {KINDS}')
  example = jax.tree.map(lambda x: x[0, 0], stack.examples)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  _refuse_shared(layers)
  if kind == 'diagonal':
    blocks = {name: Block(None, None, None) for name in layers}
  else:
    first = jax.random.fold_in(key, 0)
    moments = mean(first, labels, second_moments)
    if labels == 'exact':  # every one of the K passes has added the inputs
      k = num_outputs(problem, params, example)
      moments = {n: (a / k, s, t / k) for n, (a, s, t) in moments.items()}
    blocks = {n: _kfac(layer, *moments[n]) for n, layer in layers.items()}
  if kind != 'kfac':
    second = jax.random.fold_in(key, 1)
    values = mean(second, labels, squares, blocks)
    blocks = {
      name: block._replace(eigenvalues=values[name])
      for name, block in blocks.items()
    }
  return blocks


def apply(
  blocks: dict[str, Block],
  function: Callable,
  problem: Problem,
  params: PyTree,
  example: PyTree,
  vectors: PyTree,
) -> PyTree:
  """f(F) v for a stack of vectors: Q_A [f(Λ) ∘ (Q_Aᵀ V Q_S)] Q_Sᵀ, per layer.

  Args:
    function: (layer name, eigenvalues) -> what multiplies each eigendirection:
      1/(Λ + damping) is the damped inverse, exp(−t·Λ) a decay, Λ**-.5 a root.
    vectors: [Q, ...].
  """
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)

  def one(vector):
    matrices = rotated(blocks, layers, vector)
    scaled = {
      name: function(name, block.eigenvalues) * matrices[name]
      for name, block in blocks.items()
    }
    return unrotated(blocks, layers, scaled, params)

  return jax.vmap(one)(vectors)


def rotated(blocks, layers, vector: PyTree) -> dict[str, jax.Array]:
  """A parameter tree in the eigenbasis: {layer: Q_Aᵀ V Q_S [*stack, I, O]}."""
  return {
    name: _rotate(
      block.inputs, layers_lib.matrix(layers[name], vector), block.outputs
    )
    for name, block in blocks.items()
  }


def unrotated(blocks, layers, matrices, params: PyTree) -> PyTree:
  """The parameter tree whose `rotated` is `matrices`."""
  total = jax.tree.map(jnp.zeros_like, params)
  for name, block in blocks.items():
    w = _rotate(
      _transposed(block.inputs), matrices[name], _transposed(block.outputs)
    )
    part = layers_lib.unmatrix(layers[name], w, params)
    total = jax.tree.map(jnp.add, total, part)
  return total


def mean_eigenvalue(blocks: dict[str, Block]) -> jax.Array:
  """trace(F) divided by the number of parameters in blocks."""
  total = sum(jnp.sum(b.eigenvalues) for b in blocks.values())
  return total / sum(b.eigenvalues.size for b in blocks.values())


# --- statistics of one layer, for taps.collect ------------------------------


def second_moments(layer, a, g, here):
  """(Σ a aᵀ, Σ δ δᵀ, Σ 1) over the positions `here` [B, S]; [I] where diagonal."""
  real = here[..., None] != 0  # padding may be not a number
  g = jnp.where(real, g, 0)
  if layer.kind == 'embed':
    here = jnp.where(a < layer.num_in, here.astype(g.dtype), 0)
    inputs = jnp.zeros(layer.num_in, g.dtype)
    inputs = inputs.at[a.ravel()].add(here.ravel(), mode='drop')
  else:
    a = jnp.where(real, a, 0)
    inputs = jnp.einsum('bsi,bsj->ij', a, a)
  if layer.kind == 'leaf':
    return inputs, jnp.einsum('bso,bso->o', g, g), here.sum()
  return inputs, jnp.einsum('bso,bsp->op', g, g), here.sum()


def turned(a, g, block):
  """(a Q_A, δ Q_S): a layer's inputs and gradients in its eigenbasis."""
  g = g if block.outputs is None else g @ block.outputs
  return (a if block.inputs is None else a @ block.inputs), g


def squares(layer, a, g, block):
  """Σ_examples (Q_Aᵀ ∇W Q_S)², [I, O]."""
  a, g = turned(a, g, block)
  if layer.kind == 'embed':
    return _embedding_squares(layer, a, g)
  if layer.positions == 1:
    return jnp.einsum('bsi,bso->io', a**2, g**2)
  return jnp.sum(jnp.einsum('bsi,bso->bio', a, g) ** 2, 0)


def _embedding_squares(layer, ids, g):
  """An id that occurs twice in an example has one row of gradient."""
  same = ids[:, :, None] == ids[:, None, :]
  first = jnp.argmax(same, -1) == jnp.arange(ids.shape[1])
  rows_of = jnp.einsum('bst,bto->bso', same.astype(g.dtype), g) ** 2
  flat = (rows_of * first[..., None]).reshape(-1, layer.num_out)
  zero = jnp.zeros((layer.num_in, layer.num_out))
  return zero.at[ids.ravel()].add(flat, mode='drop')


def _kfac(layer, inputs, outputs, count):
  (a, qa), (s, qs) = _eigh(inputs, layer.stack), _eigh(outputs, layer.stack)
  # T·(A ⊗ S) from factors that are summed, not averaged, over T positions. An
  # expert to which nothing was sent has none, and factors of zero.
  t = jnp.where(count == 0, 1, count)[..., None, None]
  return Block(qa, qs, a[..., :, None] * s[..., None, :] / t)


def _refuse_shared(layers):
  for layer in layers.values():
    if layer.shared:
      raise ValueError(
        f'{layer.name} is applied more than once, so its squared gradients'
        f' do not add over applications: give the problem as_leaf=({layer.name!r},)'
        ' or use a solver without Kronecker factors'
      )


# --- averages over data and labels ------------------------------------------


def _mean(problem, params, stack, key, labels, statistic, aux=None):
  """Mean over rows, expectation over labels, of a statistic of the layers."""

  def of_batch(batch):
    of = aux
    if statistic is second_moments:
      of = positions.counted(problem, params, batch)

    def collect(loss):
      return taps.of_keyed_rows(
        statistic, problem, loss, params, batch, key, of
      )

    if labels == 'exact':
      columns = jnp.arange(
        num_outputs(problem, params, rows.take(batch.examples, 0))
      )
      every = jax.vmap(lambda k: collect(_root_loss(problem, k)))(columns)
      return jax.tree.map(lambda x: x.sum(0), every)
    return collect(LABELS[labels](problem))

  total = rows.total(of_batch, stack)
  return jax.tree.map(lambda x: x / stack.mask.sum(), total)


def _sampled_loss(problem):
  def loss(outputs, row, key):
    fixed = jax.lax.stop_gradient(outputs)
    return problem.loss(outputs, problem.sample(key, fixed, row))

  return loss


def _root_loss(problem, k):
  """s_kᵀ outputs, with S Sᵀ = ∂²loss/∂outputs²: E over labels, no sampling."""

  def loss(outputs, row, key):
    del key
    root = loss_hessian_root(problem, jax.lax.stop_gradient(outputs), row)
    return jnp.vdot(root[:, k], outputs.ravel())

  return loss


LABELS = {
  'sampled': _sampled_loss,
  'exact': None,
  'data': lambda problem: lambda outputs, row, key: problem.loss(outputs, row),
}


def loss_hessian_root(problem: Problem, outputs: jax.Array, example: PyTree):
  """S [K, K] with S Sᵀ = ∂²loss/∂outputs² (K outputs, flattened)."""
  flat = lambda z: problem.loss(z.reshape(outputs.shape), example)
  values, vectors = jnp.linalg.eigh(jax.hessian(flat)(outputs.ravel()))
  return vectors * jnp.sqrt(jnp.maximum(values, 0))


def _eigh(factor, stack):
  """Eigenvalues of a factor, none below 0; a vector is diagonal."""
  if factor.ndim == len(stack) + 1:
    return factor, None
  values, vectors = eigh(factor)
  return jnp.maximum(values, 0), vectors


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Eigenvalues, rising, and eigenvectors, on the host in float64."""
  shapes = (matrix.shape[:-1], matrix.shape)
  return jax.pure_callback(
    _host_eigh,
    tuple(jax.ShapeDtypeStruct(s, matrix.dtype) for s in shapes),
    matrix,
    vmap_method='broadcast_all',
  )


def _host_eigh(matrix):
  matrix = np.asarray(matrix)
  if not np.isfinite(matrix).all():  # the solution will say so
    return np.full_like(matrix[..., 0], np.nan), np.full_like(matrix, np.nan)
  values, vectors = np.linalg.eigh(matrix.astype(np.float64))
  return values.astype(matrix.dtype), vectors.astype(matrix.dtype)


def _rotate(left, w, right):
  """leftᵀ w right; None is the identity."""
  if left is not None:
    w = jnp.einsum('...ij,...io->...jo', left, w)
  return w if right is None else w @ right


def _transposed(basis):
  return None if basis is None else jnp.swapaxes(basis, -1, -2)
