"""A method: how a training row is scored for a query. A pair (prepare, score).

score[i, q] ≈ measure_q(trained on D) − measure_q(trained on D∖{i}): positive
where row i supports query q, in the measure's own unit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import chosen, door, memory, settings, trees
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.problem import Problem, bound
from tda_jax.run import Run, members_of
from tda_jax.settings import Settings
from tda_jax.trees import widened

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
  settings: what it was made with (`settings.kept`); None: not known.
  """

  prepare: Callable
  score: Callable
  members: bool = False
  unit: str = 'measure, removal of one row'
  cure: str | None = None
  own: Callable | None = None
  settings: Settings | None = None


class Prepared(NamedTuple):
  """What a method keeps of its queries."""

  state: PyTree
  solution: inverse_lib.Solution | None = None  # x left out


@door.verb('attribute')
def attribute(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  *,
  key: jax.Array | int | None = None,
  batch_size: int = 256,
) -> np.ndarray:
  """Scores of all training rows for all queries, in memory, [N, Q].

  Args:
    run: a trained model: a Run without member axis, or just its parameters. An
      `ensemble` method takes a Run with one.
    train, queries: rows, as in `data.rows`.
    key: for solvers that draw labels or minibatches; an integer is the seed of
      one; None: key 0.

  Raises:
    ValueError: what `door.enter` refuses; a solver that diverged; scores that
      are not finite.
  """
  entered = door.enter(method, problem, run, train, queries, key)
  door.check_batch_size(batch_size)
  run, train, queries, key, _ = entered
  train, queries = jax.tree.map(jnp.asarray, (train, queries))
  name = name_of(method)
  with memory.explained('prepare', name):
    call = jax.jit(prepare, static_argnums=(0, 1))
    prepared = call(method, problem, run, train, queries, key)
    check_solution(prepared, name, method.cure)
  blocks = []
  with memory.explained('score', name):
    call = jax.jit(score, static_argnums=(0, 1))
    for batch in rows_lib.batches(train, batch_size):
      block = np.asarray(call(method, problem, run, prepared, batch))
      blocks.append(block[batch.mask > 0])
  door.say_unconverged(prepared.solution, name)
  return door.finite(np.concatenate(blocks), name, method.cure)


def name_of(method: Method) -> str:
  """What a method is called: that of its inverse, or of its factory."""
  found = settings.of(method)
  if found is None:
    return 'the method'
  told = settings.readable(found.data)
  while isinstance(told.get('method'), dict):  # of an ensemble
    told = told['method']
  inner = told.get('inverse')
  plain = told['name'] == 'influence' and isinstance(inner, dict)
  return inner['name'] if plain else told['name']


def prepare(
  method: Method, problem: Problem, run: Run, train, queries, key
) -> Prepared:
  """`method.prepare` of the parameters that rows are scored by.

  Products are of whole float32: an accelerator's default rounds their factors to
  10 bits, which an inverse enlarges in the directions of little curvature.
  """
  own, run = _own(method, problem, run)
  with jax.default_matmul_precision('highest'):
    return method.prepare(own, run, train, queries, key)


def score(method: Method, problem: Problem, run: Run, prepared, batch):
  """`method.score` of the parameters that rows are scored by."""
  own, run = _own(method, problem, run)
  with jax.default_matmul_precision('highest'):
    return method.score(own, run, prepared, batch)


def own(method: Method, problem: Problem, run: Run, train, key) -> jax.Array:
  """`method.own` of the parameters that rows are scored by."""
  given, run = _own(method, problem, run)
  with jax.default_matmul_precision('highest'):
    return method.own(given, run, train, key)


def attributed(problem: Problem, run: Run) -> tuple[Problem, Run]:
  """(problem, run) of the parameters that rows are scored by (`chosen`).

  Their numbers are float32 at least (`chosen.precise`), and what the run has
  frozen is bound to the problem. Then the run's `frozen` is what its checkpoints
  hold beside those parameters, leaves [C, ...], which a method that goes to a
  checkpoint binds in its turn; None: nothing.
  """
  own = chosen.precise(bound(problem, run.frozen), run.params)
  params, along = widened((run.params, run.checkpoints))
  run = run._replace(params=params, checkpoints=along, frozen=None)
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


@settings.kept
def ensemble(method: Method) -> Method:
  """The mean of a method's scores over members (ASTRA paper, Eq. 15).

  Its `run` has a leading member axis E; members are taken one at a time, so
  that memory does not grow with E. Scores are averaged, never weights.
  """
  if method.members:
    raise ValueError(
      'the method is an ensemble already: give the method of one model'
    )
  door.check_method(method)

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
