"""Scores of a row split, by the terms of its loss or by parameters, in forward mode.

A method whose scores are products with one vector for each query has

  score[i, q] = ⟨∇loss_i(θ), v_q⟩ = Σ_t d/dε term_it(θ + ε v_q) at ε = 0,

loss_i = Σ_t term_it, for example a term for each token: one forward pass with
tangents along v_q splits it exactly, and no gradient of a term is taken. Along the
part of v_q that lies in some parameters it is what they add to the score.
"""

import jax
import jax.numpy as jnp

from tda_jax import parallel
from tda_jax import problem as problem_lib
from tda_jax.data.rows import Batch
from tda_jax.layers import reads
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Along, Method, Prepared
from tda_jax.problem import Problem, bound
from tda_jax.run import Run
from tda_jax.trees import PyTree


def vectors(
  method: Method, problem: Problem, run: Run, prepared: Prepared, batch: Batch
) -> tuple[PyTree, PyTree] | list[Along]:
  """`method.vectors` in the parameters that rows are scored by."""
  part, run = method_lib.attributed(problem, run)
  of_queries = method.vectors
  assert of_queries is not None  # callers ask methods that have it
  with jax.default_matmul_precision('highest'):
    return of_queries(part, run, prepared, batch)


def by_term(
  problem: Problem,
  run: Run,
  at: tuple[PyTree, PyTree] | list[Along],
  batch: Batch,
) -> jax.Array:
  """The scores of a batch by term, [B, ..., Q].

  Each device has a share of the batch's rows. Queries are taken one at a time,
  from one linearisation of the model.

  Args:
    at: what `vectors` returned.
  """
  split = lambda derivative, v: derivative(v)
  return _derivatives(problem, run, at, batch, problem_lib.terms, split)


def by_part(
  problem: Problem,
  count: int,
  run: Run,
  at: tuple[PyTree, PyTree] | list[Along],
  batch: Batch,
  numbers: PyTree,
) -> jax.Array:
  """The scores of a batch by parts of the parameters, [B, P, Q].

  Args:
    count: P.
    at: what `vectors` returned.
    numbers: the part of each parameter, as integers that broadcast to its shape.
  """

  def split(derivative, v):
    only = lambda p: lambda x, number: jnp.where(number == p, x, 0)
    of_part = lambda p: derivative(jax.tree.map(only(p), v, numbers))
    return jnp.moveaxis(jax.lax.map(of_part, jnp.arange(count)), 0, 1)

  return _derivatives(problem, run, at, batch, problem_lib.losses, split)


def _derivatives(problem, run, at, batch, of_rows, split):
  """Derivatives of rows' values along the vectors, [B, ..., Q].

  Args:
    of_rows: (problem, params, examples) -> values [B, ...].
    split: (values' derivative along a vector, v) -> [B, ...].
  """
  part, _ = method_lib.attributed(problem, run)

  def of_point(part, params, stack, batch):
    part = reads.agreeing(part)
    values = lambda params: of_rows(part, params, batch.examples)
    _, derivative = jax.linearize(values, params)
    each = lambda v: split(derivative, v)
    return jnp.moveaxis(jax.lax.map(each, stack), 0, -1)

  def of_share(batch):
    if isinstance(at, tuple):
      params, stack = at
      return of_point(part, params, stack, batch)
    total = jnp.zeros(())
    for group in at:
      each = lambda p: of_point(bound(part, p.held), p.params, p.vectors, batch)
      total += jax.lax.map(each, group).sum(0)
    return total

  with jax.default_matmul_precision('highest'):
    return parallel.apart(of_share, jax.tree.map(jnp.asarray, batch))


def term_shape(problem: Problem, run: Run, batch: Batch) -> tuple[int, ...]:
  """The shape of the terms of one row.

  Raises:
    ValueError: the problem has none.
  """

  def of_batch(run, examples):
    part, run = method_lib.attributed(problem, run)
    return problem_lib.terms(part, run.params, examples)

  return jax.eval_shape(of_batch, run, batch.examples).shape[1:]
