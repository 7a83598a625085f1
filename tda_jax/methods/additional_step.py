"""Additional training step: the effect of one more step on a row alone."""

import jax
import optax

from tda_jax import door, trees
from tda_jax.methods.method import Method, Prepared
from tda_jax.problem import loss_of, measure_of
from tda_jax.settings import kept

QUERIES_AT_ONCE = 512


@door.renamed(at_once='batch_size')
@kept
def additional_step(
  optimizer: optax.GradientTransformation, *, batch_size: int = 8
) -> Method:
  """score[i, q] = measure_q(θ + step_i) − measure_q(θ).

  step_i is one optimizer step, from a fresh state, on loss_i + ½·l2·‖θ‖² alone
  (ATS: Nguyen, Seo & Oh 2023, §4.1, https://arxiv.org/abs/2305.19765, after
  Pruthi et al. 2020). Positive: the step helps the query; the paper's
  l_after − l_before has the other sign. The score is in the measure's unit, for
  one step and not for a removal: it carries no 1/N.

  The step needs the row's gradient as a vector: optimizers such as Adam are not
  linear in it, and the queries are evaluated after it. Memory holds the
  parameters of `batch_size` rows and no more.

  Args:
    optimizer: any of optax. Adam's first step is ±learning rate in every
      parameter, whatever the size of the gradient.
    batch_size: rows taken together.

  Raises:
    ValueError: `optimizer` is none.
  """
  if not callable(getattr(optimizer, 'update', None)):
    raise ValueError(
      f'optimizer={optimizer!r}: give one of optax, for example'
      ' optax.adam(1e-3)'
    )

  def prepare(problem, run, train, queries, key):
    del train, key
    return Prepared((queries, _measures(problem, run.params, queries)))

  def score(problem, run, prepared, batch):
    queries, before = prepared.state
    start = optimizer.init(run.params)

    def one(example):
      gradient = jax.grad(loss_of, 1)(problem, run.params, example)
      if problem.l2:
        gradient = trees.add(gradient, run.params, problem.l2)
      updates, _ = optimizer.update(gradient, start, run.params)
      after = optax.apply_updates(run.params, updates)
      return _measures(problem, after, queries) - before

    return jax.lax.map(one, batch.examples, batch_size=batch_size)

  return Method(prepare, score, unit='measure, one step')


def _measures(problem, params, queries):
  """The measure of each query, [Q]; QUERIES_AT_ONCE are evaluated together."""

  one = lambda query: measure_of(problem, params, query)
  size = min(QUERIES_AT_ONCE, trees.count(queries))
  return jax.lax.map(one, queries, batch_size=size)
