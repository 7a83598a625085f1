"""Similarity of representations: no gradient, no training, only the model."""

import jax
import jax.numpy as jnp

from tda_jax.curvature import layers as layers_lib
from tda_jax.curvature import positions, taps
from tda_jax.data import rows as rows_lib
from tda_jax.methods.method import Method, Prepared
from tda_jax.settings import kept

KINDS = ('cosine', 'dot', 'euclidean')
POOLS = ('flat', 'mean')


@kept
def similarity(
  layer: str | None = None, kind: str = 'cosine', pool: str = 'flat'
) -> Method:
  """score[i, q] = how alike rows i and q are as inputs h of a layer.

  cosine: h_i·h_q / (‖h_i‖‖h_q‖), 0 for a zero h; dot: h_i·h_q; euclidean:
  −‖h_i − h_q‖ (Caruana et al. 1999; compared by Hanawa et al. 2021). Without
  unit: it says nothing of the effect of a row, nor, but for being larger for
  the more alike, of its sign.

  Args:
    layer: name of a layer, as of `tda_jax.find_layers`; None: the last dense
      one. Its bias is left out. A scanned layer has the inputs of all its steps.
    kind: 'cosine', 'dot' or 'euclidean'.
    pool: of a layer that is applied at S positions, 'flat' takes all S·I
      numbers, 0 where padding is, 'mean' the mean over those that are no
      padding (convolutions have patches for inputs).

  Raises:
    ValueError: unknown kind, pool or layer; the layer has no inputs (the message
      lists those that do).
  """
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r} is unknown: use one of {[*KINDS]}')
  if pool not in POOLS:
    raise ValueError(f'pool={pool!r} is unknown: use one of {[*POOLS]}')

  def prepare(problem, run, train, queries, key):
    del train, key
    every = rows_lib.whole(queries)
    return Prepared(_inputs(problem, run.params, every, layer, pool))

  def score(problem, run, prepared, batch):
    left = _inputs(problem, run.params, batch, layer, pool)
    return _alike(left, prepared.state, kind)

  return Method(prepare, score, unit='none')


def _alike(left, right, kind):
  """[B, Q] from [B, F] and [Q, F]."""
  if kind == 'euclidean':
    # One query at a time: no cancellation, as in ‖a‖² + ‖b‖² − 2a·b.
    far = jax.lax.map(lambda h: jnp.linalg.norm(left - h, axis=1), right)
    return -far.T
  if kind == 'cosine':
    left, right = _normalised(left), _normalised(right)
  return jnp.matmul(left, right.T, precision='highest')


def _normalised(h):
  norms = jnp.linalg.norm(h, axis=1, keepdims=True)
  return h / jnp.where(norms == 0, 1.0, norms)


def _inputs(problem, params, batch, layer, pool):
  """Inputs of the layer at every row, [B, F]."""
  example = rows_lib.take(batch.examples, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  layer = layers_lib.dense(layers, layer)
  found = layers[layer]

  def statistic(of, a, g, here):
    del g
    if of.name != layer:
      return ()
    h = a if of.bias is None else a[..., :-1]
    h = jnp.where(here[..., None] != 0, h, 0)  # not where padding is
    if pool == 'mean':
      return h.sum(1) / jnp.maximum(here.sum(1), 1)[:, None]
    return h.reshape(len(h), -1)

  any_loss = lambda outputs, example: jnp.sum(outputs)
  here = positions.counted(problem, params, batch)
  h = taps.of_rows(statistic, problem, any_loss, params, batch, here)[layer]
  depth = len(found.stack)
  h = h.reshape(-1, *h.shape[depth:])  # the stack's entries side by side
  return jnp.moveaxis(h, 0, 1).reshape(h.shape[1], -1)
