"""The front door: checks and converts what users give.

Every verb (`attribute`, `score`, `top_k`, `rescored`, `self_influence`,
`token_scores`, `parameter_scores`, `predict_sets`, `train`, `outcomes`,
`leave_one_out`, `further_training`) and the command line call this before any work.
Rows become arrays of JAX's types, keys become typed keys, parameters become a `Run`. Input that is wrong or ambiguous
raises a ValueError of one sentence that names the problem and the cure.
"""

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import compiler, memory, parallel, shapes, sources, trees
from tda_jax import given as given_lib
from tda_jax import problem as problem_lib
from tda_jax import run as run_lib
from tda_jax.data import rows as rows_lib
from tda_jax.given import as_array, kind_of, name_of
from tda_jax.given import as_key as as_key
from tda_jax.given import as_keys as as_keys
from tda_jax.given import parameters as parameters
from tda_jax.problem import Problem, bound
from tda_jax.run import Run
from tda_jax.storage import files
from tda_jax.trees import PyTree

ORDER = {
  'method': 'attribute(method, problem, params, train, queries)',
  'problem': 'attribute(method, problem, params, train, queries)',
}


def verb(stage: str, knob: str = 'batch_size') -> Callable:
  """A decorator of every function that users call.

  It sets JAX's default rules of type promotion, which the library's arithmetic
  assumes, whatever the user's program has set, uses all devices, explains running
  out of memory in one sentence, and refuses a compiler that is wrong.

  Args:
    stage: what the function does, for that sentence.
    knob: the argument that its memory grows with.
  """

  def entry(function):
    @functools.wraps(function)
    def run(*args, **kwargs):
      with (
        jax.numpy_dtype_promotion('standard'),
        jax.numpy_rank_promotion('allow'),
        parallel.all_devices(),
        memory.explained(stage, 'this call', knob),
      ):
        compiler.check()
        args, kwargs = parallel.taken_in((args, kwargs))
        try:
          return function(*args, **kwargs)
        except Exception as error:
          read = sources.failure()
          if read is None or read is error:
            raise
          raise read from error

    return run

  return entry


def by_keyword(function: Callable) -> Callable:
  """A function whose keyword-only arguments may still be given by position.

  As they could be until 0.2; that is deprecated, and said.

  Raises:
    TypeError: there are more positional arguments than the function takes.
  """
  parameters = inspect.signature(function).parameters.values()
  count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
  names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

  @functools.wraps(function)
  def run(*args, **kwargs):
    if len(args) > count + len(names):
      raise TypeError(
        f'{function.__name__} takes at most {count + len(names)} arguments, and'
        f' {len(args)} are given'
      )
    extra = dict(zip(names, args[count:], strict=False))
    if extra:
      _deprecated(
        f'{function.__name__} takes {", ".join(extra)} by keyword now'
      )
    return function(*args[:count], **extra, **kwargs)

  return run


def renamed(**names: str) -> Callable:
  """A decorator: keyword arguments may still have their old names.

  That is deprecated, and said.

  Args:
    names: old name -> new name.

  Raises:
    TypeError: by the decorated function, where both names are given.
  """

  def entry(function):
    @functools.wraps(function)
    def run(*args, **kwargs):
      for old in names.keys() & kwargs.keys():
        new = names[old]
        if new in kwargs:
          raise TypeError(f'{function.__name__} is given {old} and {new}')
        _deprecated(f'{function.__name__} calls {old} {new} now')
        kwargs[new] = kwargs.pop(old)
      return function(*args, **kwargs)

    return run

  return entry


def _deprecated(sentence: str) -> None:
  warnings.warn(sentence, DeprecationWarning, stacklevel=_callers_level())


class NotConverged(UserWarning):
  """A solver stopped short of its tolerance, so that scores are approximate."""


class Entered(NamedTuple):
  """The checked arguments of a verb.

  Attributes:
    run: with a member axis where the verb or the method takes members.
    train, queries: rows; None where there are none.
    key: typed.
    member: (parameters, frozen) of the first model.
  """

  run: Run
  train: PyTree
  queries: PyTree
  key: jax.Array
  member: tuple


def enter(
  method: Any,
  problem: Problem,
  given: Run | PyTree,
  train: Any,
  queries: Any,
  key: Any = None,
  *,
  stacked: bool | None = None,
) -> Entered:
  """Checks and converts the arguments of a verb that scores.

  Args:
    given: a Run or bare parameters.
    queries: rows; None for self-influence, where each row is its own query.
    key: typed, raw or an integer; None: 0.
    stacked: whether the verb takes an ensemble's members (axis E); None: if the
      method does.

  Raises:
    ValueError: one sentence that names the thing and the cure.
  """
  check_method(method)
  many: bool = method.members if stacked is None else stacked
  return enter_models(problem, given, train, queries, key, many)


def enter_models(
  problem: Problem,
  given: Run | PyTree,
  train: Any,
  queries: Any,
  key: Any,
  many: bool,
) -> Entered:
  """`enter` of a verb whose method is no `Method`.

  Args:
    many: whether it takes members (axis E).
  """
  check_problem(problem)
  train = rows(train, 'train', problem)
  if queries is not None:
    queries = rows_lib.whole(rows(queries, 'queries', problem)).examples
  run = models(problem, given, train, many)
  member = (run.params, run.frozen)
  params, frozen = trees.row(member, 0) if many else member
  member_problem = bound(problem, frozen)
  check_rows_fit(member_problem, params, train, 'train')
  if queries is not None:
    check_rows_fit(member_problem, params, queries, 'queries', 'measure')
  check_differentiable(member_problem, params, train)
  check_independent(problem, params, frozen, train)
  return Entered(run, train, queries, as_key(key), (params, frozen))


# --- kinds ------------------------------------------------------------------


def check_method(given: Any) -> None:
  """Raises ValueError unless it is a Method."""
  fields = ('prepare', 'score', 'members', 'settings')
  if not isinstance(given, type) and all(hasattr(given, f) for f in fields):
    return
  hint = kind_of(given)
  if isinstance(given, type):
    hint = (
      f'the class {given.__name__}: give a method, for'
      ' example tda.influence(tda.ekfac(damping)) or tda.grad_dot()'
    )
  elif hasattr(given, 'prepare') and hasattr(given, 'score'):
    hint += ': make it by tda.Method(prepare, score)'
  elif hasattr(given, 'fit') and hasattr(given, 'solve'):
    hint = 'an Inverse: give tda.influence of it'
  elif isinstance(given, str):
    hint = (
      f'the name {given!r}: give the method itself, for'
      ' example tda.influence(tda.ekfac(damping)) or tda.grad_dot()'
    )
  elif callable(given):
    hint = f'the function {name_of(given)}: call it, {name_of(given)}(...)'
  raise ValueError(
    f'the method is {hint}'
    + (f'; the order is {ORDER["method"]}' if hint == kind_of(given) else '')
  )


def check_inverse(given: Any) -> None:
  """Raises ValueError unless it is an Inverse."""
  made = hasattr(given, 'fit') and hasattr(given, 'solve')
  if made and not isinstance(given, type):
    return
  hint = kind_of(given)
  if isinstance(given, type):
    hint = f'the class {given.__name__}: give an Inverse, for example tda.ekfac(damping)'
  elif callable(given) and not hasattr(given, 'prepare'):
    hint = f'the function {name_of(given)}: call it, {name_of(given)}(damping)'
  else:
    hint += ': give an Inverse, for example tda.ekfac(damping)'
  raise ValueError(f'the inverse is {hint}')


def check_problem(given: Any, order: str = ORDER['problem']) -> None:
  """Raises ValueError unless it is a Problem.

  Args:
    order: how the verb is called.
  """
  if isinstance(given, Problem):
    _check_numbers(given)
    return
  hint = f'; the order is {order}'
  if callable(given):
    hint = ': give tda.classification or another problem of it'
  raise ValueError(f'the problem is {kind_of(given)}{hint}')


def _check_numbers(problem) -> None:
  """Raises ValueError unless l2 and patterns can be part of a cache key."""
  l2 = problem.l2
  if not (isinstance(l2, (int, float, np.number)) and 0 <= l2 < float('inf')):
    raise ValueError(
      f'l2 of the problem is {kind_of(l2)}: give a number of at'
      ' least 0, for example 1e-3'
    )
  for field in ('as_leaf', 'leave_out', 'only'):
    if not isinstance(getattr(problem, field), tuple):
      raise ValueError(
        f'{field} of the problem is {kind_of(getattr(problem, field))}: give a'
        " tuple of names, for example ('w',)"
      )


# --- rows ------------------------------------------------------------------


def rows(given: Any, name: str, problem: Problem | None = None) -> PyTree:
  """Rows as arrays of JAX's types, or a source of them; see `given.columns`."""
  convert = functools.partial(
    given_lib.columns, name=name, reads=problem.reads if problem else None
  )
  found = sources.of(given, convert)
  columns = convert(given) if found is None else found
  rows_lib.check(columns, name)
  return columns


def check_rows_fit(
  problem: Problem,
  params: PyTree,
  rows: PyTree,
  name: str,
  function: str = 'loss',
) -> None:
  """Raises ValueError where rows, model and problem do not fit each other.

  Args:
    name: what to call the rows.
    function: see `problem.check`.
  """
  for first, block in rows_lib.blocks(rows):
    try:
      problem_lib.check(problem, params, block, function)
    except ValueError as error:
      place = f'{name}, counted from row {first} on' if first else name
      raise ValueError(f'{place}: {error}') from error.__cause__


# --- models -----------------------------------------------------------------


def models(
  problem: Problem, given: Run | PyTree, rows: PyTree, stacked: bool
) -> Run:
  """A Run of one model, or of an ensemble's members (stacked).

  Where members are needed and one model is given, it is an ensemble of one.

  Raises:
    ValueError: an ensemble is given where one model is needed; what is given is
      no parameters.
  """
  run = run_lib.as_run(given)
  parameters(run.params)
  run = run._replace(params=jax.tree.map(as_array, run.params))
  if run.keys is not None:
    run = run._replace(keys=as_keys(run.keys, 'keys of the run'))
  if run.checkpoints is not None:
    parameters(run.checkpoints, 'the checkpoints')
  if run.base is not None:
    _check_base(run)
  many = _has_members(problem, run, rows, stacked)
  if many and not stacked:
    raise ValueError(
      'the run has a member axis: give ensemble(method), or one member,'
      ' tda_jax.run.member(runs, 0)'
    )
  if stacked and not many:
    return run_lib.ensemble_of_one(run)
  return run


def _check_base(run) -> None:
  """Raises ValueError unless base and parameters are of one architecture."""
  parameters(run.base, 'the base of the run')
  paths = jax.tree_util.tree_leaves_with_path
  shapes = lambda tree: {
    given_lib.place_of(path): np.shape(leaf) for path, leaf in paths(tree)
  }
  base, own = shapes(run.base), shapes(run.params)
  if differ := sorted(n for n in {**base, **own} if base.get(n) != own.get(n)):
    said = lambda of: list(of[differ[0]]) if differ[0] in of else 'absent'
    raise ValueError(
      f'the base of the run is another model: {differ[0]!r} is {said(base)} there'
      f' and {said(own)} in the parameters; give the parameters that fine-tuning'
      ' began with (of LoRA: tda_jax.models.lora.off(adapters))'
    )


def _has_members(problem, run, rows, stacked) -> bool:
  """Whether the leaves have a leading axis of members.

  The keys of the run decide. Without keys, the reading in which the model can
  be evaluated does.

  Raises:
    ValueError: members are needed, and the model can be evaluated in both
      readings.
  """
  if run.keys is not None:
    return jnp.ndim(run.keys) == 1
  whole = (run.params, run.frozen)
  lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(whole)}
  could = len(lengths) == 1 and lengths != {()}
  first = lambda: jax.eval_shape(lambda t: trees.row(t, 0), whole)
  params, frozen = first() if could else (None, None)
  as_members = lambda: could and _evaluates(problem, params, frozen, rows)
  as_one = lambda: _evaluates(problem, *whole, rows)
  if not stacked:
    return not as_one() and as_members()
  if as_members() and as_one():
    count = lengths.pop()[0]
    raise ValueError(
      f'the parameters can be read as one model and as {count} members: say which'
      f' by keys, tda.Run(params, keys=0) of one, keys=[0, 1, ...] of {count}'
    )
  return as_members()


def _evaluates(problem, params, frozen, rows) -> bool:
  example = sources.example(rows)
  try:
    shape = shapes.evaluated(_outputs_of(problem), params, example, frozen)
    loss = shapes.evaluated(problem.loss, shape, example)
    problem.check(shape.shape, next(rows_lib.blocks(rows))[1])
    several = _leading(problem, params, frozen, example, 13)
  except Exception:  # whatever the user's model raises where shapes do not fit
    return False
  return loss.shape == () and several in (None, 13)


@functools.lru_cache(64)
def _outputs_of(problem):
  """(params, example, frozen) -> outputs; one function for one problem."""
  return lambda p, e, f: bound(problem, f).outputs(p, e)


def _leading(problem, params, frozen, example, size):
  """Length of the first axis of the outputs of a batch, or None: not known."""
  together = getattr(problem.outputs, 'together', None)
  if together is None:
    return None
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), example
  )
  return shapes.evaluated(together, params, batch, frozen).shape[0]


def check_independent(
  problem: Problem, params: PyTree, frozen: PyTree, rows: PyTree
) -> None:
  """Raises ValueError if a row's outputs depend on the rows beside it.

  Batch normalisation by the batch's own statistics does that; such a model has
  no loss, and no gradient, of one example. The first row is evaluated beside
  copies of itself, and beside rows that differ from it.
  """
  together = getattr(problem.outputs, 'together', None)
  if together is None:
    return
  alike = rows_lib.take(rows, np.zeros(3, int))
  first, other = (
    np.asarray(_first(together, params, frozen, examples))
    for examples in (alike, _beside_others(alike, rows))
  )
  if not np.isfinite(first).all():
    raise ValueError(
      'the outputs of row 0 are not finite: check the rows and the parameters'
      ' (a logarithm of 0, numbers too large for the type)'
    )
  apart = np.abs(np.float64(first) - np.float64(other)).max()
  largest = np.abs(np.float64(first)).max()
  if not apart <= 1e-2 * largest:
    raise ValueError(
      'the outputs of an example depend on the other examples of its batch (they'
      f' are up to {largest:.2g}, and differ by up to {apart:.2g}), so that no'
      ' example has a gradient of its own: apply batch normalisation with its'
      f' running averages ({given_lib.FROM_FLAX}), or use another norm'
    )


def _beside_others(alike: PyTree, rows: PyTree) -> PyTree:
  """The first row, twice beside one of other numbers.

  Whatever stands beside it must not matter: floating numbers are made others,
  and what is no such number (words, classes) is that of a row that differs.
  """
  n = rows_lib.count(rows)
  shift = np.array([0.0, 1.0, 1.0])

  def beside(i):
    return rows_lib.take(rows, np.array([0, i, i]))

  def differs(others):
    same = jax.tree.map(lambda a, b: bool((a == b).all()), alike, others)
    return not all(jax.tree.leaves(same))

  def changed(leaf, other):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return other
    by = shift.reshape(-1, *[1] * (leaf.ndim - 1))
    return (leaf + by * (1 + abs(leaf))).astype(leaf.dtype)

  candidates = (beside(i) for i in (*range(1, min(n, 64)), n - 1))
  others = next(filter(differs, candidates), alike)
  return jax.tree.map(changed, alike, others)


def check_differentiable(
  problem: Problem, params: PyTree, rows: PyTree
) -> None:
  """Raises ValueError unless outputs depend on parameters by a derivative.

  The model is traced as the library runs it: over several rows, backwards.

  Args:
    problem: bound to what a model has besides its parameters.
  """
  example = rows_lib.take(rows, 0)
  shapes.of(
    _backward(problem.outputs), 'the gradient of the model', params, example
  )
  if not shapes.depends(problem.outputs, params, example):
    raise ValueError(
      'the outputs of the model do not depend on the parameters that were given:'
      ' give those that apply reads'
    )


@functools.lru_cache(64)
def _backward(outputs):
  """(params, example) -> gradients of the outputs' sum, over two examples."""

  def one(params, example):
    value, pull = jax.vjp(lambda p: outputs(p, example), params)
    return pull(jnp.ones_like(value))

  def both(params, example):
    pair = jax.tree.map(lambda x: jnp.stack([x, x]), example)
    return jax.vmap(one, (None, 0))(params, pair)

  return both


def _first_row(together, params, frozen, examples):
  return together(params, examples, frozen)[0]


_first = jax.jit(_first_row, static_argnums=0)


def check_path(path: str | os.PathLike | None, needed: bool = False) -> None:
  """Raises ValueError for a path that names no folder to write into.

  Args:
    needed: whether None is none.
  """
  if path is None and not needed:
    return
  if not isinstance(path, (str, os.PathLike)):
    raise ValueError(
      f'the path is {kind_of(path)}: name a folder for the results'
    )
  if not str(path).strip():
    raise ValueError('the path is empty: name a folder for the results')
  files.check_local(path)
  if os.path.isfile(path):
    raise ValueError(f'the path {path} is a file: name a folder')


def check_batch_size(size: Any, name: str = 'batch_size') -> None:
  """Raises ValueError unless it is a whole number from 1."""
  whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
  if not whole or size < 1:
    raise ValueError(f'{name}={size!r}: give a whole number from 1')


# --- what comes out ---------------------------------------------------------


def finite(
  scores: np.ndarray, name: str, hint: str | None = None
) -> np.ndarray:
  """The scores themselves; raises ValueError if one is not finite."""
  bad = ~np.isfinite(scores)
  if bad.any():
    raise ValueError(
      f'{name} gives {int(bad.sum())} of {bad.size} scores that are not finite:'
      f' check that parameters and data are of usual size; else'
      f' {hint or "raise damping"}'
    )
  return scores


def warn_unconverged(solution: Any, name: str) -> None:
  """Warns if a solver stopped before it reached its tolerance.

  Args:
    solution: `inverses.Solution`, or None: there was no solver.
    name: of the method.
  """
  if solution is not None:
    residuals = np.asarray(solution.residuals)
    worst = residuals[..., -1, :].max() if residuals.size else None
    short = 1 - np.asarray(solution.converged).mean()
    warn_short(short, worst, name)


def warn_short(share: float, worst: float | None, name: str) -> None:
  """Warns that a share of the queries did not converge, unless it is 0.

  Args:
    worst: relative residual, or None: not measured.
  """
  if share > 0:
    residual = 'unknown' if worst is None else f'{worst:.2g}'
    warnings.warn(
      f'{name} stopped before its tolerance on {share:.0%} of the queries (worst'
      f' relative residual {residual}), so that their scores are approximate:'
      ' raise its steps or its damping',
      NotConverged,
      stacklevel=_callers_level(),
    )


def warn_left_out(left_out: Any, name: str) -> None:
  """Warns if low-rank queries leave out more than a tenth of their norm.

  Args:
    left_out: share of each query's norm [Q], or None: they are whole.
    name: of the method.
  """
  if left_out is not None and (worst := np.max(left_out)) > 0.1:
    warnings.warn(
      f'query_rank leaves out up to {worst:.0%} of the norm of a query of {name}:'
      ' give a larger one for scores closer to those of None',
      stacklevel=_callers_level(),
    )


def _callers_level() -> int:
  """The `stacklevel` by which a warning names the user's line.

  It is given to the `warnings.warn` of the calling function.
  """
  package = os.path.dirname(__file__) + os.sep
  frame, level = sys._getframe(1), 1
  while frame.f_back and frame.f_code.co_filename.startswith(package):
    frame, level = frame.f_back, level + 1
  return level
