"""Random projections of each row's gradient, which is never held as a whole.

A projection of P parameters to k numbers is drawn from a key while it is
applied, one layer at a time and, inside a layer, one block of rows of its
matrix at a time: neither the P x k signs nor the B x P gradients exist whole.
Signs come from the bits of random words, 32 of a word. Both kinds are linear in
the gradient, keep inner products in expectation, E⟨φ, φ'⟩ = ⟨g, g'⟩, and have
independent signs in every layer and every entry of its stack:

  dense     φ = Rᵀ g / √k, R of signs [P, k]; costs B·P·k;
            Var⟨φ, φ'⟩ ≤ (‖g‖²‖g'‖² + ⟨g, g'⟩²) / k
  factored  φ_j = Σ_layers Σ_s (a_s · p_j)(Hδ_s · r_j) / √k, p_j and r_j of
            signs: R's columns are p_j ⊗ H r_j. Costs B·S·(I + O)·k, forms no
            gradient; Var⟨φ, φ'⟩ ≤ 9 ‖g‖²‖g'‖² / k

H is the reflection of e_1 into (1, …, 1)/√O. The gradient δ of a softmax sums to 0
over its O outputs, and r_j alone would annihilate it where its signs are all equal,
in every row: in a share 2^(1 − O) of the columns, half of them for two classes. The
first entry of Hδ is 0 instead, and no column misses the others. H is orthogonal: it
changes neither expectation nor bound.

Signs take the place of Gaussian numbers (Achlioptas 2003,
https://doi.org/10.1016/S0022-0000(03)00025-4). Products p ⊗ r as columns are a
Khatri-Rao product of two projections; 9 bounds the fourth moments of a form of
degree two in signs (Bonami).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax.data import rows
from tda_jax.layers import find as layers_lib
from tda_jax.layers import taps, walk
from tda_jax.problem import Problem
from tda_jax.trees import PyTree

BLOCK = 2**22  # signs of a dense projection that exist at one time


def project(
  scalar: Callable[[PyTree, PyTree], jax.Array],
  problem: Problem,
  params: PyTree,
  batch: rows.Batch,
  key: jax.Array,
  size: int,
  kind: str = 'factored',
) -> jax.Array:
  """φ, the projection of a function's gradient at each row, [B, k].

  The same key gives the same projection, whatever the rows and the batch.

  Args:
    scalar: (outputs, example) -> number, as `problem.loss` or `problem.measure`.
    size: k.
    kind: 'factored' or 'dense'.

  Raises:
    ValueError: unknown `kind`; `size` below 1; one parameter belongs to two
      layers.
  """
  if kind not in KINDS:
    raise ValueError(f'projection={kind!r} is unknown: use one of {[*KINDS]}')
  if size < 1:
    raise ValueError(f'projection_dim={size}: give at least 1')
  example = rows.take(batch.examples, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  check_apart(layers, params)
  with jax.default_matmul_precision('highest'):
    return taps.collect_rows(
      functools.partial(KINDS[kind], size),
      problem,
      scalar,
      params,
      batch,
      layer_keys(layers, key),
      total=True,
    )


def layer_keys(
  layers: dict[str, layers_lib.Layer], key: jax.Array
) -> dict[str, jax.Array]:
  """A key for each entry of each layer's stack, [*stack]."""
  return {
    name: jax.random.split(jax.random.fold_in(key, i), layer.stack)
    for i, (name, layer) in enumerate(layers.items())
  }


def check_apart(layers: dict[str, layers_lib.Layer], params: PyTree) -> None:
  """Raises ValueError if a parameter belongs to two layers.

  Its gradient is then a sum over both, which projections of each alone miss. A
  layer that is applied more than once is allowed.
  """
  parts = {}
  for layer in layers.values():
    parts.setdefault(layer.leaf, []).append(layer)
  for leaf, group in parts.items():
    if not any(layer.shared for layer in group):
      continue
    shape = jax.tree.leaves(params)[leaf].shape
    at = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    entries = [walk.apply_steps(layer.steps, at).ravel() for layer in group]
    entries = np.concatenate(entries)
    if np.unique(entries).size < entries.size:
      names = [layer.name for layer in group]
      raise ValueError(
        f'the layers {names} share parameters, so that their gradients cannot'
        f' be projected apart: {layers_lib.remedies(group[0])}'
      )


# --- projections of one layer, for taps.collect -----------------------------


def _factored(size, layer, a, g, key):
  """Σ_s (a_s · p_j)(Hδ_s · r_j) / √k, [B, k]."""
  p_key, r_key = jax.random.split(key)
  p = _words(p_key, layer.num_in, size)
  r = _words(r_key, layer.num_out, size)
  if layer.kind == 'embed':
    inside = (a < layer.num_in)[..., None]  # padding is out of range
    inputs = inside * _signs(p.at[a].get(mode='clip'), size, g.dtype)
  else:
    inputs = a @ _signs(p, size, g.dtype)
  outputs = _reflected(g) @ _signs(r, size, g.dtype)
  return jnp.sum(inputs * outputs, 1) / np.sqrt(size)


def _reflected(g):
  """H g on the last axis: g − 2 v (v·g)/‖v‖², v = e_1 − (1, …, 1)/√O."""
  outs = g.shape[-1]
  if outs == 1:
    return g
  v = np.eye(1, outs)[0] - outs**-0.5
  v = jnp.asarray(v * np.sqrt(2 / (v @ v)), g.dtype)
  return g - (g @ v)[..., None] * v


def _dense(size, layer, a, g, key):
  """Σ_io ∇W_io R_io / √k, [B, k]; the signs of row i from fold i of the key."""
  if layer.kind == 'leaf':  # its gradient g as a column: blocks are short
    a, g = g, a
  outs = g.shape[-1]

  def signs(row):
    words = _words(jax.random.fold_in(key, row), outs, size)
    return _signs(words, size, g.dtype)

  together = max(1, BLOCK // (outs * size))
  if layer.kind == 'embed':
    parts = jax.lax.map(
      lambda pair: pair[1] @ signs(pair[0]),
      (
        a.ravel(),
        jnp.where((a < layer.num_in)[..., None], g, 0).reshape(-1, outs),
      ),
      batch_size=together,
    )
    return parts.reshape(*a.shape, size).sum(1) / np.sqrt(size)
  together = min(together, a.shape[-1])
  count = -(-a.shape[-1] // together)
  a = jnp.pad(a, ((0, 0), (0, 0), (0, count * together - a.shape[-1])))

  def add(total, block):
    first = block * together
    cut = jax.lax.dynamic_slice_in_dim(a, first, together, 2)
    gradient = jnp.einsum('bsi,bso->bio', cut, g)
    r = jax.vmap(signs)(first + jnp.arange(together))
    return total + jnp.einsum('bio,iok->bk', gradient, r), None

  zero = jnp.zeros((len(a), size), g.dtype)
  return jax.lax.scan(add, zero, jnp.arange(count))[0] / np.sqrt(size)


def _words(key, rows, size):
  """Random words whose bits are [rows, size] signs."""
  return jax.random.bits(key, (rows, -(-size // 32)), jnp.uint32)


def _signs(words, size, dtype):
  """Bits as ±1, [..., size]."""
  bits = words[..., None] >> jnp.arange(32, dtype=jnp.uint32) & 1
  flat = bits.reshape(*words.shape[:-1], -1)[..., :size]
  return 1 - 2 * flat.astype(dtype)


KINDS = {'factored': _factored, 'dense': _dense}
