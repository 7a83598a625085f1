"""Scores of a row split by the terms of its loss, in forward mode.

A method whose scores are products with one vector for each query has

  score[i, q] = ⟨∇loss_i(θ), v_q⟩ = Σ_t d/dε term_it(θ + ε v_q) at ε = 0,

loss_i = Σ_t term_it, for example a term for each token: one forward pass with
tangents along v_q splits it exactly, and no gradient of a term is taken.
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
  part, _ = method_lib.attributed(problem, run)

  def of_point(part, params, stack, batch):
    part = reads.agreeing(part)
    of_terms = lambda params: problem_lib.terms(part, params, batch.examples)
    _, along = jax.linearize(of_terms, params)
    return jnp.moveaxis(jax.lax.map(along, stack), 0, -1)

  def of_share(batch):
    if isinstance(at, tuple):
      return of_point(part, *at, batch)
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
