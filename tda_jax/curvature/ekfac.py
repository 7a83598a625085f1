"""KFAC and EKFAC: the Fisher in a Kronecker-factored eigenbasis, per layer.

A layer y = W a with gradient δ = ∂loss/∂y has the factors A = E[a aᵀ] and
S = E[δ δᵀ] = Q_S Λ_S Q_Sᵀ, A = Q_A Λ_A Q_Aᵀ, and the Fisher block

  KFAC   F ≈ T·A ⊗ S             (T positions a layer is applied to: "expand")
  EKFAC  F ≈ (Q_A ⊗ Q_S) diag(Λ) (Q_A ⊗ Q_S)ᵀ,  Λ = E[(Q_Aᵀ ∇W Q_S)²],

expectations over examples and over labels of the model. A and S are means over
the positions that count in each row (`layers.positions`), and T is the mean of
their number: in rows of different length, each position is one observation.

The A of an embedding is diagonal. So is, by choice, the S of a layer with more
than WIDE outputs, the head of a language model: Q_S = I.

KFAC: Martens & Grosse 2015, https://arxiv.org/abs/1503.05671; EKFAC: George et
al. 2018, https://arxiv.org/abs/1806.03884, and for influence Grosse et al. 2023,
§2.4, https://arxiv.org/abs/2308.03296; "expand": Eschenhagen et al. 2023,
https://arxiv.org/abs/2311.00636.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import compiler, parallel, trees
from tda_jax.data import rows
from tda_jax.layers import find as layers_lib
from tda_jax.layers import positions, taps
from tda_jax.layers.find import Layer
from tda_jax.problem import Problem, bound, num_outputs
from tda_jax.trees import PyTree

# Outputs of a layer, above which its S is diagonal: whole, that of a vocabulary of
# 49,152 tokens takes 10 GB, and its eigenvectors as much again.
WIDE = 2**14
# Outputs of a model, at most, over whose labels an expectation is taken.
MOST_EXACT = 2048

KINDS = ('ekfac', 'kfac', 'diagonal')


class Block(NamedTuple):
  """Eigenbasis and eigenvalues of one layer's block; None is the identity.

  With `scales` (see `fit_average`) the bases are D_p Q_A and D_q Q_S.
  """

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
  """Fits the blocks of all layers on a stack of batches.

  Args:
    stack: the training rows, every field with a leading axis C
      (`rows.stacked`).
    kind: 'ekfac', 'kfac', or 'diagonal' (Q_A = Q_S = I).
    labels: 'sampled' draws one label a row from the model, anew for the
      eigenvalues; 'exact' takes the expectation over labels, by one backward
      pass per model output (the GGN's factors); 'data' uses the rows' labels
      (the empirical Fisher).

  Raises:
    ValueError: unknown `kind` or `labels`; a layer that is applied more than once.
  """
  mean = functools.partial(_mean, problem, params, stack)
  return _fitted(mean, problem, params, stack, key, kind=kind, labels=labels)


def fit_average(
  problem: Problem,
  checkpoints: PyTree,
  stack: rows.Batch,
  key: jax.Array,
  *,
  frozen: PyTree = None,
  kind: str = 'ekfac',
  labels: str = 'sampled',
  scales: dict[str, tuple[jax.Array, jax.Array]] | None = None,
) -> dict[str, Block]:
  """Fits the blocks of the mean Fisher of C checkpoints, in one basis.

  The eigenbasis is that of the factors' means over checkpoints; the eigenvalues
  are the means of those that each checkpoint has in it (Bae et al. 2024, SOURCE,
  App. D.2, https://arxiv.org/abs/2405.12186). One checkpoint is in memory at a
  time.

  Args:
    checkpoints: parameters, leaves [C, ...].
    frozen: what to bind to the problem at each of them, [C, ...]; None: nothing.
    stack, kind, labels: see `fit`, which raises the same errors.
    scales: layer -> (p [*stack, I], q [*stack, O]): the Fisher is that of the
      gradients D_p ∇W D_q, the ones in D_p⁻¹ W D_q⁻¹. An axis whose factor is
      diagonal keeps the identity, and the eigenvalues are then without its
      scale; None: ones.
  """
  count = trees.count(checkpoints)

  def mean(key, *statistic):
    def at_checkpoint(checkpoint):
      params, held, key = checkpoint
      return _mean(bound(problem, held), params, stack, key, *statistic)

    keys = jax.random.split(key, count)
    total = rows.total(at_checkpoint, (checkpoints, frozen, keys))
    return jax.tree.map(lambda x: x / count, total)

  first = trees.row(checkpoints, 0)
  options = {'kind': kind, 'labels': labels, 'scales': scales}
  return _fitted(mean, problem, first, stack, key, **options)


def _fitted(mean, problem, params, stack, key, *, kind, labels, scales=None):
  """The blocks of all layers.

  Args:
    mean: (key, labels, statistic, aux) -> the statistic's mean over rows and
      expectation over labels, of each layer.
  """
  if labels not in LABELS:
    raise ValueError(f'labels={labels!r} is unknown: use one of {[*LABELS]}')
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r} is unknown: use one of {KINDS}')
  example = rows.first(stack)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  _refuse_shared(layers)
  if labels == 'exact':
    _refuse_many(num_outputs(problem, params, example))
  if kind == 'diagonal':
    later = cast(jax.Array, None)  # set below
    blocks = {name: Block(None, None, later) for name in layers}
  else:
    first = jax.random.fold_in(key, 0)
    moments = mean(first, labels, second_moments)
    if labels == 'exact':  # each of the K passes added the inputs
      k = num_outputs(problem, params, example)
      moments = {n: (a / k, s, t / k) for n, (a, s, t) in moments.items()}
    blocks = _bases(layers, moments, scales)
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
  function: Callable[[str, jax.Array], jax.Array],
  problem: Problem,
  params: PyTree,
  example: PyTree,
  vectors: PyTree,
  back: dict[str, Block] | None = None,
) -> PyTree:
  """f(F) v for a stack of vectors: Q_A [f(Λ) ∘ (Q_Aᵀ V Q_S)] Q_Sᵀ, per layer.

  Args:
    function: (layer name, eigenvalues) -> what multiplies each eigendirection:
      1/(Λ + damping) is the damped inverse, exp(−t·Λ) a decay, Λ**-.5 a root.
    example: one row, from which the layers are found.
    vectors: parameter trees, leaves [Q, ...].
    back: the blocks with the bases Q_A and Q_S of the left side; None: the same.
  """
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)

  def one(vector):
    matrices = rotated(blocks, layers, vector)
    scaled = {
      name: function(name, block.eigenvalues) * matrices[name]
      for name, block in blocks.items()
    }
    return unrotated(back or blocks, layers, scaled, params)

  return jax.vmap(one)(vectors)


def rotated(
  blocks: dict[str, Block], layers: dict[str, Layer], vector: PyTree
) -> dict[str, jax.Array]:
  """A parameter tree in the eigenbasis: {layer: Q_Aᵀ V Q_S [*stack, I, O]}."""
  return {
    name: in_basis(block, layers_lib.matrix(layers[name], vector))
    for name, block in blocks.items()
  }


def in_basis(block: Block, matrix: jax.Array) -> jax.Array:
  """One layer's matrix W in the eigenbasis: Q_Aᵀ W Q_S [*stack, I, O]."""
  return _rotate(block.inputs, matrix, block.outputs)


def unrotated(
  blocks: dict[str, Block],
  layers: dict[str, Layer],
  matrices: dict[str, jax.Array],
  params: PyTree,
) -> PyTree:
  """The parameter tree whose `rotated` is `matrices`."""
  total = jax.tree.map(jnp.zeros_like, params)
  for name, block in blocks.items():
    w = _rotate(
      _transposed(block.inputs), matrices[name], _transposed(block.outputs)
    )
    part = layers_lib.unmatrix(layers[name], w, params)
    total = jax.tree.map(jnp.add, total, part)
  return total


def unrotated_stack(
  blocks: dict[str, Block],
  problem: Problem,
  params: PyTree,
  example: PyTree,
  matrices: dict[str, jax.Array],
) -> PyTree:
  """`unrotated` of matrices [*stack, Q, I, O]: a stack of Q trees.

  Args:
    example: one row, from which the layers are found.
  """
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  axes = {name: len(layers[name].stack) for name in matrices}
  one = lambda w: unrotated(blocks, layers, w, params)
  return jax.vmap(one, (axes,))(matrices)


def mean_eigenvalue(blocks: dict[str, Block]) -> jax.Array:
  """trace(F) divided by the number of parameters in blocks."""
  total = sum(jnp.sum(b.eigenvalues) for b in blocks.values())
  mean = total / sum(b.eigenvalues.size for b in blocks.values())
  return cast(jax.Array, mean)


# --- statistics of one layer, for taps.collect ------------------------------


def second_moments(
  layer: Layer, a: jax.Array, g: jax.Array, here: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(Σ a aᵀ, Σ δ δᵀ, Σ 1) over the positions that count.

  Args:
    here: [B, S], 1 at the positions that count.

  Returns:
    ([I, I], [O, O], number of positions); [I] for the A of an embedding and [O]
    for the S of a leaf or of a wide layer, which are diagonal.
  """
  real = here[..., None] != 0  # padding may be not a number
  g = jnp.where(real, g, 0)
  if layer.kind == 'embed':
    here = jnp.where(a < layer.num_in, here.astype(g.dtype), 0)
    inputs = jnp.zeros(layer.num_in, g.dtype)
    inputs = inputs.at[a.ravel()].add(here.ravel(), mode='drop')
  else:
    a = jnp.where(real, a, 0)
    inputs = jnp.einsum('bsi,bsj->ij', a, a)
  if not has_outputs(layer):
    return inputs, jnp.einsum('bso,bso->o', g, g), here.sum()
  return inputs, jnp.einsum('bso,bsp->op', g, g), here.sum()


def has_outputs(layer: Layer) -> bool:
  """Whether a layer's S is a matrix, and not its diagonal alone."""
  return layer.kind != 'leaf' and layer.num_out <= WIDE


def rotated_factors(
  a: jax.Array, g: jax.Array, block: Block
) -> tuple[jax.Array, jax.Array]:
  """(a Q_A, δ Q_S): a layer's inputs and output gradients in its eigenbasis."""
  g = g if block.outputs is None else g @ block.outputs
  return (a if block.inputs is None else a @ block.inputs), g


def squares(
  layer: Layer, a: jax.Array, g: jax.Array, block: Block
) -> jax.Array:
  """Σ_examples (Q_Aᵀ ∇W Q_S)², [I, O]."""
  a, g = rotated_factors(a, g, block)
  if layer.kind == 'embed':
    return _embedding_squares(layer, a, g)
  if layer.positions == 1:
    return jnp.einsum('bsi,bso->io', a**2, g**2)
  return jnp.sum(jnp.einsum('bsi,bso->bio', a, g) ** 2, 0)


def _embedding_squares(layer, ids, g):
  """`squares` of an embedding.

  An id that occurs twice in an example has one row of gradient, the sum of both.
  """
  same = ids[:, :, None] == ids[:, None, :]
  first = jnp.argmax(same, -1) == jnp.arange(ids.shape[1])
  rows_of = jnp.einsum('bst,bto->bso', same.astype(g.dtype), g) ** 2
  flat = (rows_of * first[..., None]).reshape(-1, layer.num_out)
  zero = jnp.zeros((layer.num_in, layer.num_out))
  return zero.at[ids.ravel()].add(flat, mode='drop')


def _bases(layers, moments, scales):
  """The blocks of all layers from their summed second moments.

  Args:
    scales: see `fit_average`; None where there are none.
  """
  scales = scales or dict.fromkeys(layers, (None, None))
  factors = {
    (name, side): _scaled(moments[name][side], scales[name][side])
    for name, layer in layers.items()
    for side in (0, 1)
    if moments[name][side].ndim == len(layer.stack) + 2  # else it is diagonal
  }
  spectra = parallel.dealt(eigh, factors)
  blocks = {}
  for name, (inputs, outputs, count) in moments.items():
    a, qa = spectra.get((name, 0), (inputs, None))
    s, qs = spectra.get((name, 1), (outputs, None))
    a, s = jnp.maximum(a, 0), jnp.maximum(s, 0)
    # T·(A ⊗ S) from factors that are summed, not averaged, over T positions. An
    # expert to which nothing was sent has none, and factors of zero.
    t = jnp.where(count == 0, 1, count)[..., None, None]
    p, q = scales[name]
    qa, qs = _times(p, qa), _times(q, qs)
    blocks[name] = Block(qa, qs, a[..., :, None] * s[..., None, :] / t)
  return parallel.held(blocks)


def _scaled(factor, scale):
  """D F D of a factor F, D the diagonal matrix of a scale; F of None."""
  if scale is None:
    return factor
  return scale[..., :, None] * factor * scale[..., None, :]


def _times(scale, vectors):
  """D Q of eigenvectors Q; Q where either is None."""
  if scale is None or vectors is None:
    return vectors
  return scale[..., :, None] * vectors


def _refuse_many(k):
  """Raises ValueError if the expectation over labels costs too much."""
  if k > MOST_EXACT:
    raise ValueError(
      f"labels='exact' takes a backward pass for each of the {k} outputs and the"
      f' eigenvectors of a {k} x {k} matrix for each row: use'
      " labels='sampled', whose cost does not grow with them"
    )


def _refuse_shared(layers):
  for layer in layers.values():
    if layer.shared:
      raise ValueError(
        f'{layer.name} is applied more than once, so its squared gradients'
        f' do not add over applications: {layers_lib.remedies(layer)}; or use a solver'
        ' without Kronecker factors'
      )


# --- averages over data and labels ------------------------------------------


def _mean(problem, params, stack, key, labels, statistic, aux=None):
  """The mean over rows and expectation over labels of a statistic, by layer."""

  def of_batch(batch):
    given = aux
    if statistic is second_moments:
      given = positions.counted(problem, params, batch)

    def collect(loss):
      return taps.collect_keyed_rows(
        statistic, problem, loss, params, batch, key, given
      )

    if labels == 'exact':
      columns = jnp.arange(
        num_outputs(problem, params, rows.take(batch.examples, 0))
      )
      by_column = jax.vmap(lambda k: collect(_root_loss(problem, k)))(columns)
      return jax.tree.map(lambda x: x.sum(0), by_column)
    return collect(LOSSES[labels](problem))

  total = rows.total(of_batch, stack)
  return jax.tree.map(lambda x: x / stack.mask.sum(), total)


def _sampled_loss(problem):
  """The loss at a label drawn from the model."""

  def loss(outputs, row, key):
    fixed = jax.lax.stop_gradient(outputs)
    return problem.loss(outputs, problem.sample(key, fixed, row))

  return loss


def _root_loss(problem, k):
  """s_kᵀ outputs, with S Sᵀ = ∂²loss/∂outputs².

  The sum of its squared gradients over k is the expectation over labels.
  """

  def loss(outputs, row, key):
    del key
    root = loss_hessian_root(problem, jax.lax.stop_gradient(outputs), row)
    return jnp.vdot(root[:, k], outputs.ravel())

  return loss


# Labels of which one backward pass is enough: problem -> (outputs, row, key) ->
# loss. 'exact' takes one for each model output.
LOSSES = {
  'sampled': _sampled_loss,
  'data': lambda problem: lambda outputs, row, key: problem.loss(outputs, row),
}
LABELS = ('sampled', 'exact', 'data')


def loss_hessian_root(
  problem: Problem, outputs: jax.Array, example: PyTree
) -> jax.Array:
  """S [K, K] with S Sᵀ = ∂²loss/∂outputs² (K outputs, flattened).

  S is the symmetric one: columns q √λ alone turn with rounding where eigenvalues
  are close, as those of tokens that do not count, and another program's would be
  those of another S.
  """
  flat = lambda z: problem.loss(z.reshape(outputs.shape), example)
  eigh_of_one = compiler.one_by_one(jnp.linalg.eigh)
  values, vectors = eigh_of_one(jax.hessian(flat)(outputs.ravel()))
  return (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Ascending eigenvalues and eigenvectors, on the host in float64.

  On a CPU within the program: JAX does not keep programs that call back into
  Python, so that every process would compile them again.
  """
  return jax.lax.platform_dependent(
    matrix, cpu=_eigh_of_cpu, default=_eigh_back
  )


@compiler.one_by_one
def _eigh_of_cpu(matrix):
  with jax.enable_x64(True):
    wide = jax.lax.convert_element_type(matrix, jnp.float64)
    values, vectors = jnp.linalg.eigh(wide, symmetrize_input=False)
    # Not a number where an entry is none: the solution will say so.
    none = 0 * wide.sum((-2, -1))
    values, vectors = values + none[..., None], vectors + none[..., None, None]
    narrow = lambda x: jax.lax.convert_element_type(x, matrix.dtype)
    return narrow(values), narrow(vectors)


def _eigh_back(matrix):
  shapes = (matrix.shape[:-1], matrix.shape)
  like = tuple(jax.ShapeDtypeStruct(s, matrix.dtype) for s in shapes)
  return parallel.from_host(_host_eigh, like, matrix)


def _host_eigh(matrix):
  matrix = np.asarray(matrix)
  if not np.isfinite(matrix).all():  # the solution will say so
    return np.full_like(matrix[..., 0], np.nan), np.full_like(matrix, np.nan)
  values, vectors = np.linalg.eigh(matrix.astype(np.float64))
  return values.astype(matrix.dtype), vectors.astype(matrix.dtype)


def _rotate(inputs, w, outputs):
  """inputsᵀ w outputs, of a matrix w and two bases; None is the identity."""
  if inputs is not None:
    w = jnp.einsum('...ij,...io->...jo', inputs, w)
  return w if outputs is None else w @ outputs


def _transposed(basis):
  return None if basis is None else jnp.swapaxes(basis, -1, -2)
