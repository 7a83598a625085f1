"""Similarity of representations: needs the model, but no gradient.

Hanawa et al. 2021, https://arxiv.org/abs/2006.04528, compare such measures.
"""

import jax
import jax.numpy as jnp

from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib
from tda_jax.layers import positions, taps
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
  −‖h_i − h_q‖ (Caruana et al. 1999). The score has no unit and no sign; larger
  means more similar.

  Args:
    layer: name of a layer in `layers.find.find`; None: the last dense one.
      Its bias is left out. A scanned layer has the inputs of all its steps.
    kind: 'cosine', 'dot' or 'euclidean'.
    pool: for a layer that is applied at S positions: 'flat' takes all S·I
      numbers, with 0 at padding; 'mean' averages over the positions that are not
      padding (the inputs of a convolution are patches).

  Raises:
    ValueError: unknown kind, pool or layer; the layer has no inputs (the message
      lists those that do).
  """
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r} is unknown: use one of {[*KINDS]}')
  if pool not in POOLS:
    raise ValueError(f'pool={pool!r} is unknown: use one of {[*POOLS]}')

  def prepare(problem, run, train, queries, key):
    del key
    _check_alike(train, queries)
    batch = rows_lib.whole(queries)
    return Prepared(_inputs(problem, run.params, batch, layer, pool))

  def score(problem, run, prepared, batch):
    inputs = _inputs(problem, run.params, batch, layer, pool)
    return _similarities(inputs, prepared.state, kind)

  return Method(prepare, score, unit='none')


def _check_alike(train, queries):
  """Raises ValueError if a query is two rows, a contrast."""
  example = rows_lib.take(train, 0)
  for name in sorted(queries) if isinstance(queries, dict) else ():
    if jnp.ndim(queries[name]) - 1 > jnp.ndim(example[name]):
      raise ValueError(
        'similarity compares a row with a query, and the queries are contrasts,'
        f' two rows each (column {name!r}, {list(jnp.shape(queries[name]))}): ask'
        ' about one of the two, [Q, T]'
      )


def _similarities(rows, queries, kind):
  """[B, Q] from inputs [B, F] of rows and [Q, F] of queries."""
  if rows.shape[1] != queries.shape[1]:
    raise ValueError(
      f'rows have {rows.shape[1]} inputs of the layer and queries'
      f" {queries.shape[1]}, as they have other numbers of positions: give pool='mean'"
    )
  if kind == 'euclidean':
    # One query at a time: ‖a‖² + ‖b‖² − 2a·b would suffer from cancellation.
    far = jax.lax.map(lambda h: jnp.linalg.norm(rows - h, axis=1), queries)
    return -far.T
  if kind == 'cosine':
    rows, queries = _normalised(rows), _normalised(queries)
  return jnp.matmul(rows, queries.T, precision='highest')


def _normalised(h):
  norms = jnp.linalg.norm(h, axis=1, keepdims=True)
  return h / jnp.where(norms == 0, 1.0, norms)


def _inputs(problem, params, batch, layer, pool):
  """Inputs of the layer at every row, [B, F]."""
  example = rows_lib.take(batch.examples, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  wanted = layers[layers_lib.dense(layers, layer)]

  def statistic(layer, a, g, here):
    del g
    if layer.name != wanted.name:
      return ()
    h = a if layer.bias is None else a[..., :-1]
    h = jnp.where(here[..., None] != 0, h, 0)  # not where padding is
    if pool == 'mean':
      return h.sum(1) / jnp.maximum(here.sum(1), 1)[:, None]
    return h.reshape(len(h), -1)

  any_loss = lambda outputs, example: jnp.sum(outputs)
  here = positions.counted(problem, params, batch)
  h = taps.collect_rows(statistic, problem, any_loss, params, batch, here)
  h, depth = h[wanted.name], len(wanted.stack)
  h = h.reshape(-1, *h.shape[depth:])  # the stack's entries side by side
  return jnp.moveaxis(h, 0, 1).reshape(h.shape[1], -1)
