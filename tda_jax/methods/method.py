"""A method scores training rows for queries; it is a pair (prepare, score).

score[i, q] ≈ measure_q(trained on D) − measure_q(trained on D∖{i}): positive
where row i supports query q, in the unit of the measure.
"""

import functools
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from tda_jax import chosen, door, memory, parallel, settings, trees
from tda_jax.data import rows as rows_lib
from tda_jax.data.rows import Batch
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.methods import fitted as fitted_lib
from tda_jax.methods.compiled import compiled
from tda_jax.methods.fitted import Fitted
from tda_jax.problem import Problem, bound
from tda_jax.run import Run, members_of
from tda_jax.settings import Settings
from tda_jax.trees import PyTree, widened


class Prepare(Protocol):
  """Computes once what scoring needs: fits a solver, solves for the queries."""

  def __call__(
    self,
    problem: Problem,
    run: Run,
    train: PyTree,
    queries: PyTree,
    key: jax.Array,
    /,
  ) -> 'Prepared':
    """What the method keeps of its queries.

    Args:
      problem: with the loss of a row and the measure of a query.
      run: ONE trained model, without member axis; with it, if `Method.members`.
      train: all training rows, leaves [N, ...].
      queries: query rows, leaves [Q, ...].
      key: for solvers that draw labels or minibatches.
      fitted: only of a method with a `fit`: what that returned for the same
        problem, run, rows and key; None, the default: it is fitted here.
    """
    ...


class Fit(Protocol):
  """Computes what does not depend on the queries."""

  def __call__(
    self, problem: Problem, run: Run, train: PyTree, key: jax.Array, /
  ) -> PyTree:
    """A tree of arrays; arguments as for `Prepare`."""
    ...


class Score(Protocol):
  """Scores a batch of training rows for all prepared queries."""

  def __call__(
    self, problem: Problem, run: Run, prepared: 'Prepared', batch: Batch, /
  ) -> jax.Array:
    """Scores [B, Q]; those of padding rows are ignored.

    Args:
      problem, run: as for `Prepare`.
      prepared: what `prepare` returned.
      batch: training rows, with their global index and a mask [B].
    """
    ...


class Along(NamedTuple):
  """Vectors at several parameters, of which a score adds up.

  Attributes:
    params: θ_p, leaves [P, ...].
    vectors: stacks of v_pq, leaves [P, Q, ...].
    held: what θ_p holds beside the parameters that rows are scored by, leaves
      [P, ...]; None: nothing.
  """

  params: PyTree
  vectors: PyTree
  held: PyTree


class Vectors(Protocol):
  """Gives the one vector for each query that scores are products with."""

  def __call__(
    self, problem: Problem, run: Run, prepared: 'Prepared', batch: Batch, /
  ) -> tuple[PyTree, PyTree] | list[Along]:
    """(θ, stack of v_q [Q, ...]) with score[b, q] = ⟨∇loss_b(θ), v_q⟩.

    Or of several θ_p: `Along` with score[b, q] = Σ_p ⟨∇loss_b(θ_p), v_pq⟩.

    Args:
      problem, run, prepared: as for `Score`.
      batch: rows, of which only shapes matter.
    """
    ...


class SelfInfluence(Protocol):
  """Scores every training row as its own query."""

  def __call__(
    self, problem: Problem, run: Run, train: PyTree, key: jax.Array, /
  ) -> jax.Array:
    """score[i, i] of every row, [N]; arguments as for `Prepare`."""
    ...


class Method(NamedTuple):
  """A way of attributing queries to training rows, as a pair of functions.

  Attributes:
    prepare: computes what scoring needs of the queries.
    score: scores a batch of training rows for all queries.
    members: whether its run has a leading member axis, as an ensemble's.
    unit: of its scores.
    hint: what to do if its solver diverged; None: the hint of its inverse.
    self_influence: score[i, i] of every row, without a gradient of a query;
      None: it takes one.
    settings: what it was made with (`settings.kept`); None: not known.
    factors: methods whose product it is, and whose means over members make the
      scores of an ensemble (TRAK); empty: those are the mean of its scores.
    fit: the part of `prepare` that does not depend on the queries; None: there is
      none, or it is not apart.
    fits_as: the inverse whose fit that is, and by whose settings it is known;
      None: by the method's own.
    solve_only: names of its arguments that its fit does not read.
    vectors: what a row's gradient is multiplied by; None: its score is no such
      product.
    terms: `score` by term of a row's loss, [B, ..., Q]; None: by `vectors`, where
      there are some.
  """

  prepare: Prepare
  score: Score
  members: bool = False
  unit: str = 'measure, removal of one row'
  hint: str | None = None
  self_influence: SelfInfluence | None = None
  settings: Settings | None = None
  factors: tuple['Factor', ...] = ()
  fit: Fit | None = None
  fits_as: inverse_lib.Inverse | None = None
  solve_only: tuple[str, ...] = ()
  vectors: Vectors | None = None
  terms: Score | None = None


class Factor(NamedTuple):
  """One factor of a method's score."""

  name: str
  method: Method
  of_queries: bool = True  # whether it differs by query


class Prepared(NamedTuple):
  """What a method keeps of its queries."""

  state: PyTree
  solution: inverse_lib.Solution | None = None  # without x; None: no solver
  left_out: jax.Array | None = None  # [Q] of the queries' norms; None: nothing


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
  fitted: Fitted | None = None,
) -> np.ndarray:
  """Scores of all training rows for all queries, in memory, [N, Q].

  Args:
    run: a trained model: a Run without member axis, or just its parameters. An
      `ensemble` method takes a Run with one.
    train, queries: rows (see `data.rows`), leaves [N, ...] and [Q, ...].
    key: for solvers that draw labels or minibatches; an integer is the seed of
      one; None: key 0.
    fitted: what `tda_jax.fit` returned for the same method, problem, run, rows and
      key; None: the method is fitted here.

  Raises:
    ValueError: what `door.enter` refuses; a solver that diverged; scores that
      are not finite; `fitted` is of something else.
  """
  entered = door.enter(method, problem, run, train, queries, key)
  door.check_batch_size(batch_size)
  name = name_of(method)
  state = fitted_lib.state_of(fitted, method, problem, entered, name)
  run, train, queries, key, _ = entered
  with memory.explained('prepare', name):
    prepared = parallel.by_all_hosts(
      functools.partial(compiled(prepare), method, problem),
      *(run, train, queries, key, state),
    )
    check_solution(prepared, name, method.hint)
  run = parallel.replicate(run)
  call = compiled(score)

  def block(number):
    batch = next(rows_lib.batches(train, batch_size, number * batch_size))
    return np.asarray(call(method, problem, run, prepared, batch))

  count = rows_lib.count(train)
  with memory.explained('score', name):
    blocks = parallel.by_share(block, -(-count // batch_size))
  door.warn_unconverged(prepared.solution, name)
  door.warn_left_out(prepared.left_out, name)
  return door.finite(np.concatenate(blocks)[:count], name, method.hint)


def name_of(method: Method) -> str:
  """The name of a method: that of its inverse, or of its factory."""
  recorded = settings.of(method)
  if recorded is None:
    return 'the method'
  data = settings.readable(recorded.data)
  while isinstance(data.get('method'), dict):  # of an ensemble
    data = data['method']
  inner = data.get('inverse')
  if data['name'] == 'influence' and isinstance(inner, dict):
    return inner['name']
  return data['name']


def prepare(
  method: Method,
  problem: Problem,
  run: Run,
  train: PyTree,
  queries: PyTree,
  key: jax.Array,
  fitted: PyTree = None,
) -> Prepared:
  """`method.prepare` in the parameters that rows are scored by.

  Args:
    fitted: what `fit` returned; None: it is fitted here.

  Matrix products are full float32: an accelerator's default rounds their factors
  to 10 bits, which an inverse amplifies in the directions of little curvature.
  """
  part, run = _scored_part(method, problem, run)
  with jax.default_matmul_precision('highest'):
    if method.fit is None:
      return method.prepare(part, run, train, queries, key)
    of_fitted = cast(Any, method.prepare)  # takes one argument more
    return of_fitted(part, run, train, queries, key, fitted)


def fit(
  method: Method, problem: Problem, run: Run, train: PyTree, key: jax.Array
) -> PyTree:
  """`method.fit` in the parameters that rows are scored by; None if it has none."""
  if method.fit is None:
    return None
  part, run = _scored_part(method, problem, run)
  with jax.default_matmul_precision('highest'):
    return method.fit(part, run, train, key)


def score(
  method: Method, problem: Problem, run: Run, prepared: Prepared, batch: Batch
) -> jax.Array:
  """`method.score` in the parameters that rows are scored by, [B, Q].

  Each device has a share of the batch's rows.
  """
  return _by_rows(method, method.score, problem, run, prepared, batch)


def terms(
  method: Method, problem: Problem, run: Run, prepared: Prepared, batch: Batch
) -> jax.Array:
  """`method.terms` in the parameters that rows are scored by, [B, ..., Q]."""
  of_terms = method.terms
  assert of_terms is not None  # callers ask methods that have it
  return _by_rows(method, of_terms, problem, run, prepared, batch)


def _by_rows(method, function, problem, run, prepared, batch):
  part, run = _scored_part(method, problem, run)

  def of_share(batch):
    return function(part, run, prepared, batch)

  with jax.default_matmul_precision('highest'):
    return parallel.apart(of_share, jax.tree.map(jnp.asarray, batch))


def self_influence(
  method: Method, problem: Problem, run: Run, train: PyTree, key: jax.Array
) -> jax.Array:
  """`method.self_influence` in the parameters that rows are scored by, [N]."""
  part, run = _scored_part(method, problem, run)
  of_rows = method.self_influence
  assert of_rows is not None  # callers ask methods that have it
  with jax.default_matmul_precision('highest'):
    return of_rows(part, run, train, key)


def attributed(problem: Problem, run: Run) -> tuple[Problem, Run]:
  """The problem and run in the parameters that rows are scored by (`chosen`).

  Their numbers are float32 at least (`chosen.precise`), and what the run has
  frozen is bound to the problem. The `frozen` of the returned run is what its
  checkpoints hold beside those parameters, leaves [C, ...], which a method that
  visits a checkpoint binds itself; None: nothing. Its `base` is a pair: the base's
  parameters, and what it holds beside them.
  """
  part = chosen.precise(bound(problem, run.frozen), run.params)
  params, checkpoints = widened((run.params, run.checkpoints))
  run = run._replace(
    params=params,
    checkpoints=checkpoints,
    frozen=None,
    second_moments=widened(run.second_moments),
    base=None if run.base is None else (widened(run.base), None),
  )
  if not part.only and not part.leave_out:
    return part, run
  kept, held = chosen.split(part, run.params)
  if run.checkpoints is not None:
    checkpoints, others = chosen.split(part, run.checkpoints)
    run = run._replace(checkpoints=checkpoints, frozen=others)
  if run.second_moments is not None:
    moments, _ = chosen.split(part, run.second_moments)
    run = run._replace(second_moments=moments)
  if run.base is not None:
    run = run._replace(base=chosen.split(part, run.base[0]))
  return chosen.part(part, kept, held), run._replace(params=kept)


def _scored_part(method, problem, run):
  """`attributed`, except for ensembles, which do it member by member."""
  return (problem, run) if method.members else attributed(problem, run)


@settings.kept
def ensemble(method: Method) -> Method:
  """The mean of a method's scores over the members of an ensemble.

  Wang et al. 2025 (ASTRA), Eq. 15, https://arxiv.org/abs/2507.14740. Its `run`
  has a leading member axis E; members are taken one at a time, so that memory
  does not grow with E. Scores are averaged, never weights.
  """
  if method.members:
    raise ValueError(
      'the method is an ensemble already: give the method of one model'
    )
  door.check_method(method)

  # Its fit and self_influence are not called where they are None.
  of_one = cast(Any, method)

  def fit(problem, run, train, key):
    def one(problem, run, key):
      return of_one.fit(problem, run, train, key)

    return _by_member(one, problem, run, _member_keys(run, key))

  def prepare(problem, run, train, queries, key, fitted=None):
    def one(problem, run, key, *fitted):
      return of_one.prepare(problem, run, train, queries, key, *fitted)

    more = () if method.fit is None else (fitted,)
    return _by_member(one, problem, run, _member_keys(run, key), *more)

  def score(problem, run, prepared, batch):
    def one(problem, run, prepared):
      return method.score(problem, run, prepared, batch)

    return _by_member(one, problem, run, prepared).mean(0)

  def self_influence(problem, run, train, key):
    def one(problem, run, key):
      return of_one.self_influence(problem, run, train, key)

    return _by_member(one, problem, run, _member_keys(run, key)).mean(0)

  return method._replace(
    prepare=prepare,
    score=score,
    members=True,
    self_influence=self_influence if method.self_influence else None,
    fit=fit if method.fit else None,
    vectors=None,  # there is one for each member
    terms=None,
  )


def _member_keys(run, key):
  """A key for each member of a run, [E]."""
  return jax.random.split(key, trees.count(run.params))


def _by_member(function, problem, run, *others):
  """function(problem, run, *others) of each member, as `attributed`, [E, ...].

  Args:
    others: trees with a leading member axis.
  """

  def one(member):
    run, others = member
    return function(*attributed(problem, run), *others)

  return jax.lax.map(one, (members_of(run), others))


def check_checkpoints(run: Run, name: str) -> None:
  """Raises ValueError if a run has no checkpoints, or not what goes with them.

  Args:
    name: of the method that needs them, for the error.
  """
  count = check_snapshots(run, name)
  for field in ('learning_rates', 'steps'):
    given = getattr(run, field)
    if given is None or jnp.shape(given) != (count,):
      raise ValueError(
        f'the run has {count} checkpoints and {field}={given}: give one number'
        ' for each checkpoint'
      )


def check_snapshots(run: Run, name: str) -> int:
  """The number of the run's checkpoints; raises ValueError if it has none."""
  if run.checkpoints is None or not jax.tree.leaves(run.checkpoints):
    raise ValueError(
      f'{name} follows a run by its checkpoints, and this one has none: train'
      ' with checkpoints=C, for example checkpoints=6'
    )
  return trees.count(run.checkpoints)


def check_base(run: Run, name: str, beta: Any) -> None:
  """Raises ValueError if a run has no base, which a method is to subtract."""
  if run.base is None:
    said = '' if isinstance(beta, jax.core.Tracer) else f' with beta={beta}'
    raise ValueError(
      f'{name}{said} subtracts what the base says, and this run has none: give a Run'
      ' with `base`, the parameters before fine-tuning, or beta=0'
    )


def check_solution(
  prepared: Prepared, name: str, hint: str | None = None
) -> None:
  """Raises ValueError if the method's solver diverged.

  Args:
    name, hint: see `inverses.inverse.check`.
  """
  if prepared.solution is not None:
    inverse_lib.check(prepared.solution, name, hint)
