"""A method: how a training row is scored for a query. A pair (prepare, score).

score[i, q] ≈ measure_q(trained on D) − measure_q(trained on D∖{i}): positive
where row i supports query q, in the measure's own unit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.problem import Problem, bound
from tda_jax.training.fit import Run

PyTree = Any


class Method(NamedTuple):
  """Attributes:
  prepare: (problem, run, train rows, query rows, key) -> Prepared, for ONE
    trained model (a Run without member axis).
  score: (problem, run, prepared, batch) -> [B, Q].
  members: whether its run has a leading member axis, as an ensemble's.
  unit: of its scores.
  cure: what to do where its solver diverged; None: that of its inverse.
  own: (problem, run, train rows, key) -> score[i, i] of every row as its own
    query, [N], where that needs no gradient of a query; None: where it does.
  """

  prepare: Callable
  score: Callable
  members: bool = False
  unit: str = 'measure, removal of one row'
  cure: str | None = None
  own: Callable | None = None


class Prepared(NamedTuple):
  """What a method keeps of its queries."""

  state: PyTree
  solution: inverse_lib.Solution | None = None  # x left out


def attribute(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  *,
  key: jax.Array | None = None,
  batch_size: int = 256,
) -> np.ndarray:
  """Scores of all training rows for all queries, in memory, [N, Q].

  Args:
    run: a trained model: a Run without member axis, or just its parameters. An
      `ensemble` method takes a Run with one.
    train, queries: rows, as in `data.rows`.
    key: for solvers that draw labels or minibatches; None: key 0.

  Raises:
    ValueError: rows that are empty, not finite or do not fit the model; a
      solver that diverged.
  """
  if not isinstance(run, Run):
    run = Run(params=run, checkpoints=None, learning_rates=None, steps=None)
  if run.keys is not None and method.members != (jnp.ndim(run.keys) == 1):
    raise ValueError(
      'the method is an ensemble and the run one model: give the whole run'
      if method.members
      else 'the run has a member axis: give ensemble(method), or one member'
    )
  for rows, name in ((train, 'train'), (queries, 'queries')):
    rows_lib.check(rows, name)
    check_run(method, problem, run, rows)
  key = jax.random.key(0) if key is None else key
  train, queries = jax.tree.map(jnp.asarray, (train, queries))
  call = jax.jit(prepare, static_argnums=(0, 1))
  prepared = call(method, problem, run, train, queries, key)
  check_solution(prepared, 'the solver', method.cure)
  call = jax.jit(score, static_argnums=(0, 1))
  blocks = []
  for batch in rows_lib.batches(train, batch_size):
    block = np.asarray(call(method, problem, run, prepared, batch))
    blocks.append(block[batch.mask > 0])
  return np.concatenate(blocks)


def prepare(
  method: Method, problem: Problem, run: Run, train, queries, key
) -> Prepared:
  """`method.prepare`, with what the run has frozen bound to the problem."""
  own = problem if method.members else bound(problem, run.frozen)
  return method.prepare(own, run, train, queries, key)


def score(method: Method, problem: Problem, run: Run, prepared, batch):
  """`method.score`, with what the run has frozen bound to the problem."""
  own = problem if method.members else bound(problem, run.frozen)
  return method.score(own, run, prepared, batch)


def own(method: Method, problem: Problem, run: Run, train, key) -> jax.Array:
  """`method.own`, with what the run has frozen bound to the problem."""
  given = problem if method.members else bound(problem, run.frozen)
  return method.own(given, run, train, key)


def ensemble(method: Method) -> Method:
  """The mean of a method's scores over members (ASTRA paper, Eq. 15).

  Its `run` has a leading member axis E; members are taken one at a time, so
  that memory does not grow with E. Scores are averaged, never weights.
  """

  def prepare(problem, run, train, queries, key):
    keys = jax.random.split(key, trees.count(run.params))

    def one(member):
      run, key = member
      own = bound(problem, run.frozen)
      return method.prepare(own, run, train, queries, key)

    return jax.lax.map(one, (members_of(run), keys))

  def score(problem, run, prepared, batch):
    def one(member):
      run, prepared = member
      return method.score(bound(problem, run.frozen), run, prepared, batch)

    return jax.lax.map(one, (members_of(run), prepared)).mean(0)

  def own(problem, run, train, key):
    keys = jax.random.split(key, trees.count(run.params))

    def one(member):
      run, key = member
      return method.own(bound(problem, run.frozen), run, train, key)

    return jax.lax.map(one, (members_of(run), keys)).mean(0)

  return method._replace(
    prepare=prepare,
    score=score,
    members=True,
    own=own if method.own else None,
  )


def members_of(runs: Run) -> Run:
  """A Run whose every leaf has the member axis, to be indexed by member."""
  count = trees.count(runs.params)
  repeat = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))
  return runs._replace(
    learning_rates=jax.tree.map(repeat, runs.learning_rates),
    steps=jax.tree.map(repeat, runs.steps),
  )


def check_run(method: Method, problem: Problem, run: Run, rows: PyTree) -> None:
  """`check_labels` of the run, or of the first member of an ensemble's."""
  own = (run.params, run.frozen)
  params, frozen = trees.row(own, 0) if method.members else own
  check_labels(bound(problem, frozen), params, rows)


def check_labels(problem: Problem, params: PyTree, rows: PyTree) -> None:
  """Raises ValueError where labels do not fit the model's outputs."""
  outputs = jax.eval_shape(problem.outputs, params, rows_lib.take(rows, 0))
  problem.check(outputs.shape, rows)


def check_checkpoints(run: Run, name: str) -> None:
  """Raises ValueError where a run cannot be followed by its checkpoints."""
  if run.checkpoints is None or not jax.tree.leaves(run.checkpoints):
    raise ValueError(
      f'{name} follows a run by its checkpoints, and this one has none: train'
      ' with checkpoints=C, as 6'
    )
  count = trees.count(run.checkpoints)
  for field in ('learning_rates', 'steps'):
    given = getattr(run, field)
    if given is None or jnp.shape(given) != (count,):
      raise ValueError(
        f'the run has {count} checkpoints and {field}={given}: give one number'
        ' for each checkpoint'
      )


def check_solution(
  prepared: Prepared, name: str, cure: str | None = None
) -> None:
  """Raises ValueError if the method's solver diverged."""
  if prepared.solution is not None:
    inverse_lib.check(prepared.solution, name, cure)
