"""A method: how a training row is scored for a query. A pair (prepare, score).

score[i, q] ≈ measure_q(trained on D) − measure_q(trained on D∖{i}): positive
where row i supports query q, in the measure's own unit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import chosen, trees
from tda_jax import problem as problem_lib
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
  for rows, name, asked in (
    (train, 'train', 'loss'),
    (queries, 'queries', 'measure'),
  ):
    rows_lib.check(rows, name)
    check_run(method, problem, run, rows, asked)
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
  """`method.prepare` of the parameters that rows are scored by."""
  own, run = _own(method, problem, run)
  return method.prepare(own, run, train, queries, key)


def score(method: Method, problem: Problem, run: Run, prepared, batch):
  """`method.score` of the parameters that rows are scored by."""
  own, run = _own(method, problem, run)
  return method.score(own, run, prepared, batch)


def own(method: Method, problem: Problem, run: Run, train, key) -> jax.Array:
  """`method.own` of the parameters that rows are scored by."""
  given, run = _own(method, problem, run)
  return method.own(given, run, train, key)


def attributed(problem: Problem, run: Run) -> tuple[Problem, Run]:
  """(problem, run) of the parameters that rows are scored by (`chosen`).

  What the run has frozen is bound to the problem. Then the run's `frozen` is
  what its checkpoints hold beside those parameters, leaves [C, ...], which a
  method that goes to a checkpoint binds in its turn; None: nothing.
  """
  own = bound(problem, run.frozen)
  run = run._replace(frozen=None)
  if not own.only and not own.leave_out:
    return own, run
  kept, held = chosen.split(own, run.params)
  if run.checkpoints is not None:
    along, others = chosen.split(own, run.checkpoints)
    run = run._replace(checkpoints=along, frozen=others)
  return chosen.part(own, kept, held), run._replace(params=kept)


def _own(method, problem, run):
  """`attributed`; an ensemble does that for each of its members itself."""
  return (problem, run) if method.members else attributed(problem, run)


def ensemble(method: Method) -> Method:
  """The mean of a method's scores over members (ASTRA paper, Eq. 15).

  Its `run` has a leading member axis E; members are taken one at a time, so
  that memory does not grow with E. Scores are averaged, never weights.
  """

  def prepare(problem, run, train, queries, key):
    keys = jax.random.split(key, trees.count(run.params))

    def one(member):
      run, key = member
      own, run = attributed(problem, run)
      return method.prepare(own, run, train, queries, key)

    return jax.lax.map(one, (members_of(run), keys))

  def score(problem, run, prepared, batch):
    def one(member):
      run, prepared = member
      return method.score(*attributed(problem, run), prepared, batch)

    return jax.lax.map(one, (members_of(run), prepared)).mean(0)

  def own(problem, run, train, key):
    keys = jax.random.split(key, trees.count(run.params))

    def one(member):
      run, key = member
      return method.own(*attributed(problem, run), train, key)

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


def check_run(
  method: Method, problem: Problem, run: Run, rows: PyTree, asked: str
) -> None:
  """`problem.check` of the run, or of the first member of an ensemble's."""
  own = (run.params, run.frozen)
  params, frozen = trees.row(own, 0) if method.members else own
  problem_lib.check(bound(problem, frozen), params, rows, asked)


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
