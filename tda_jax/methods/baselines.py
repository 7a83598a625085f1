"""Baselines that do not look at the pair: what other methods must beat."""

import jax
import jax.numpy as jnp

from tda_jax.data import rows as rows_lib
from tda_jax.methods.method import Method, Prepared
from tda_jax.problem import losses
from tda_jax.settings import kept


@kept
def random() -> Method:
  """score[i, q]: independent standard normal numbers, functions of (key, i, q).

  They have no unit and no sign.
  """

  def prepare(problem, run, train, queries, key):
    del problem, run, train
    return Prepared(jax.random.split(key, rows_lib.count(queries)))

  def score(problem, run, prepared, batch):
    del problem, run
    draw = lambda i, key: jax.random.normal(jax.random.fold_in(key, i))
    of_row = jax.vmap(draw, (None, 0))
    return jax.vmap(of_row, (0, None))(batch.index, prepared.state)

  return Method(prepare, score, unit='none')


@kept
def loss_only() -> Method:
  """score[i, q] = loss_i, in the loss's unit, the same for all queries."""

  def prepare(problem, run, train, queries, key):
    del problem, run, train, key
    return Prepared(jnp.zeros(rows_lib.count(queries)))

  def score(problem, run, prepared, batch):
    by_row = losses(problem, run.params, batch.examples)
    return by_row[:, None] + prepared.state

  return Method(prepare, score, unit='loss')
