"""First-order methods: inner products and cosines of gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.curvature import gram
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib
from tda_jax.methods.method import Method, Prepared
from tda_jax.problem import Problem
from tda_jax.settings import kept
from tda_jax.trees import PyTree

ROWS_AT_ONCE = 256  # whose self-products are taken together


@kept
def grad_dot() -> Method:
  """score[i, q] = −(1/N) ∇measure_q · ∇loss_i, TracIn's inner product.

  It is in the measure's unit, for one step of gradient descent with rate 1;
  positive supports. Neither gradient is formed: see `curvature.gram`. Pruthi et
  al. 2020, https://arxiv.org/abs/2002.08484.
  """

  def prepare(problem, run, train, queries, key):
    del key
    factors = factors_of(problem, run.params, queries)
    return Prepared((factors, 1 / rows_lib.count(train)))

  def score(problem, run, prepared, batch):
    factors, share = prepared.state
    return -share * dots(problem, run.params, batch, factors)

  def self_influence(problem, run, train, key):
    del key
    share = 1 / rows_lib.count(train)
    return -share * self_products(problem, run.params, train)

  def vectors(problem, run, prepared, batch):
    factors, share = prepared.state
    matrices = gram.formed(
      _layers(problem, run.params, batch.examples), factors
    )
    matrices = trees.scaled(-share, matrices)
    example = rows_lib.take(batch.examples, 0)
    return run.params, gram.vectors_of(problem, run.params, example, matrices)

  return Method(prepare, score, self_influence=self_influence, vectors=vectors)


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
    losses = gram.factors(problem, run.params, batch, 'loss')
    layers = _layers(problem, run.params, batch.examples)
    size = gram.norms(layers, losses)[:, None] * norms[None, :]
    dots = gram.gram(layers, losses, factors)[:, 0, :, 0]
    return -_ratio(dots, size)

  def self_influence(problem, run, train, key):
    del key

    def cosine(layers, losses, measures):
      size = gram.norms(layers, losses) * gram.norms(layers, measures)
      return _ratio(gram.row_products(layers, losses, measures), size)

    return -self_products(problem, run.params, train, cosine)

  return Method(prepare, score, unit='none', self_influence=self_influence)


def self_products(
  problem: Problem,
  params: PyTree,
  train: PyTree,
  product: Callable[..., jax.Array] = gram.row_products,
) -> jax.Array:
  """∇loss_i · ∇measure_i of all rows, [N], without forming a gradient.

  Args:
    product: (layers, factors of the loss, factors of the measure) -> [B], what
      stands for the inner product.
  """
  layers = _layers(problem, params, train)

  def of_batch(batch):
    both = [
      gram.factors(problem, params, batch, f) for f in ('loss', 'measure')
    ]
    return product(layers, *both)

  return rows_lib.each(of_batch, train, ROWS_AT_ONCE)


def factors_of(
  problem: Problem, params: PyTree, queries: PyTree
) -> dict[str, gram.Factor]:
  """The factors of the measure's gradient at all queries (`gram.factors`)."""
  batch = jax.tree.map(jnp.asarray, rows_lib.whole(queries))
  return gram.factors(problem, params, batch, 'measure')


def dots(
  problem: Problem,
  params: PyTree,
  batch: rows_lib.Batch,
  factors: dict[str, gram.Factor],
  only: str | None = None,
) -> jax.Array:
  """∇loss_i · ∇measure_q, [B, Q], from `factors_of` the queries.

  Args:
    only: name of the one layer to sum over; None: all.
  """
  losses = gram.factors(problem, params, batch, 'loss')
  layers = _layers(problem, params, batch.examples)
  if only is not None:
    layers = {only: layers[only]}
  return gram.gram(layers, losses, factors)[:, 0, :, 0]


def _ratio(dots, size):
  return jnp.where(size == 0, 0.0, dots / jnp.where(size == 0, 1.0, size))


def _layers(problem, params, rows):
  example = rows_lib.take(rows, 0)
  return layers_lib.find(problem.outputs, params, example, problem.as_leaf)
