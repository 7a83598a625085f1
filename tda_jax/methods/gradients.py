"""First-order methods: what the gradients alone say."""

import jax
import jax.numpy as jnp

from tda_jax.curvature import gram
from tda_jax.curvature import layers as layers_lib
from tda_jax.data import rows as rows_lib
from tda_jax.methods.method import Method, Prepared
from tda_jax.settings import kept

ROWS_AT_ONCE = 256  # whose self-products are taken together


@kept
def grad_dot() -> Method:
  """score[i, q] = −(1/N) ∇measure_q · ∇loss_i (TracIn's inner product).

  Neither gradient is formed: see `curvature.gram`.
  """

  def prepare(problem, run, train, queries, key):
    del key
    factors = factors_of(problem, run.params, queries)
    return Prepared((factors, 1 / rows_lib.count(train)))

  def score(problem, run, prepared, batch):
    factors, share = prepared.state
    return -share * dots(problem, run.params, batch, factors)

  def own(problem, run, train, key):
    del key
    share = 1 / rows_lib.count(train)
    return -share * self_products(problem, run.params, train)

  return Method(prepare, score, own=own)


@kept
def grad_cos() -> Method:
  """score[i, q] = −cos(∇measure_q, ∇loss_i), without unit; 0 for a zero gradient."""

  def prepare(problem, run, train, queries, key):
    del train, key
    factors = factors_of(problem, run.params, queries)
    norms = gram.norms(_layers(problem, run.params, queries), factors)
    return Prepared((factors, norms))

  def score(problem, run, prepared, batch):
    factors, norms = prepared.state
    left = gram.factors(problem, run.params, batch, 'loss')
    layers = _layers(problem, run.params, batch.examples)
    size = gram.norms(layers, left)[:, None] * norms[None, :]
    dots = gram.gram(layers, left, factors)[:, 0, :, 0]
    return -_ratio(dots, size)

  def own(problem, run, train, key):
    del key

    def cosine(layers, left, right):
      size = gram.norms(layers, left) * gram.norms(layers, right)
      return _ratio(gram.own(layers, left, right), size)

    return -self_products(problem, run.params, train, cosine)

  return Method(prepare, score, unit='none', own=own)


def self_products(problem, params, train, weigh=gram.own) -> jax.Array:
  """∇loss_i · ∇measure_i of all rows, [N], no gradient formed.

  Args:
    weigh: (layers, factors of the loss, of the measure) -> [B]: the product.
  """
  layers = _layers(problem, params, train)

  def of_batch(batch):
    both = [
      gram.factors(problem, params, batch, f) for f in ('loss', 'measure')
    ]
    return weigh(layers, *both)

  return rows_lib.each(of_batch, train, ROWS_AT_ONCE)


def factors_of(problem, params, queries):
  """The factors of the measure's gradient at all queries (`gram.factors`)."""
  batch = jax.tree.map(jnp.asarray, rows_lib.whole(queries))
  return gram.factors(problem, params, batch, 'measure')


def dots(problem, params, batch, factors, only=None):
  """∇loss_i · ∇measure_q, [B, Q], from `factors_of` the queries.

  Args:
    only: name of the one layer to take it over; None: all.
  """
  left = gram.factors(problem, params, batch, 'loss')
  layers = _layers(problem, params, batch.examples)
  if only is not None:
    layers = {only: layers[only]}
  return gram.gram(layers, left, factors)[:, 0, :, 0]


def _ratio(dots, size):
  return jnp.where(size == 0, 0.0, dots / jnp.where(size == 0, 1.0, size))


def _layers(problem, params, rows):
  example = rows_lib.take(rows, 0)
  return layers_lib.find(problem.outputs, params, example, problem.as_leaf)
