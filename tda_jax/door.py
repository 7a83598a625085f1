"""The front door: what is given is made plain, or refused in one sentence.

Every verb (`attribute`, `score`, `top_k`, `self_influence`, `train`, `outcomes`,
`leave_one_out`, `further_training`) and the command line enter here, before any
work: rows become arrays of JAX's types, keys typed keys, parameters a `Run`;
what has no one reading is refused.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import problem as problem_lib
from tda_jax import run as run_lib
from tda_jax import trees
from tda_jax.data import given as given_lib
from tda_jax.data import rows as rows_lib
from tda_jax.data.given import kind_of, name_of, place_of
from tda_jax.problem import Problem, bound
from tda_jax.run import Run

PyTree = Any

ORDER = {
  'method': 'attribute(method, problem, params, train, queries)',
  'problem': 'attribute(method, problem, params, train, queries)',
  'recipe': 'train(problem, recipe, rows, keys)',
}
UNKNOWN = (jax.core.Tracer, jax.ShapeDtypeStruct)  # their values, not yet there
# Classes of flax that hold what a model has besides its parameters.
STATE = {'BatchStat', 'RngState', 'RngKey', 'RngCount', 'Cache', 'Intermediate'}
FROM_FLAX = (
  'take the parameters apart by tda.from_nnx(model) or'
  ' tda.from_linen(module, variables)'
)


class NotConverged(UserWarning):
  """A solver stopped short of its tolerance, so that scores are approximate."""


class Entered(NamedTuple):
  """What a verb works with: all of it checked.

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
  method,
  problem: Problem,
  given: Run | PyTree,
  train,
  queries,
  key=None,
  *,
  stacked: bool | None = None,
) -> Entered:
  """What the verbs that score are given, checked and made plain.

  Args:
    given: a Run or bare parameters.
    queries: rows, or None where each row is its own.
    stacked: whether the verb takes an ensemble's members (axis E); None: as the
      method says.

  Raises:
    ValueError: one sentence that names the thing and the cure.
  """
  check_method(method)
  check_problem(problem)
  train = rows(train, 'train', problem)
  if queries is not None:
    queries = rows(queries, 'queries', problem)
  stacked = method.members if stacked is None else stacked
  run = models(problem, given, train, stacked)
  one = trees.row((run.params, run.frozen), 0)
  params, frozen = one if stacked else (run.params, run.frozen)
  own = bound(problem, frozen)
  train = labelled(own, params, train, 'train')
  if queries is not None:
    queries = labelled(own, params, queries, 'queries')
  check_independent(problem, params, frozen, train)
  return Entered(run, train, queries, as_key(key), (params, frozen))


# --- kinds ------------------------------------------------------------------


def check_method(given) -> None:
  """Raises ValueError unless it is a Method."""
  if hasattr(given, 'prepare') and hasattr(given, 'score'):
    return
  hint = kind_of(given)
  if hasattr(given, 'fit') and hasattr(given, 'solve'):
    hint = 'an Inverse: give tda.influence of it'
  elif isinstance(given, str):
    hint = (
      f'the name {given!r}: give the method itself, as'
      ' tda.influence(tda.ekfac(damping)) or tda.grad_dot()'
    )
  elif callable(given):
    hint = f'the function {name_of(given)}: call it, as {name_of(given)}(...)'
  raise ValueError(
    f'the method is {hint}'
    + (f'; the order is {ORDER["method"]}' if hint == kind_of(given) else '')
  )


def check_inverse(given) -> None:
  """Raises ValueError unless it is an Inverse."""
  if hasattr(given, 'fit') and hasattr(given, 'solve'):
    return
  hint = kind_of(given)
  if callable(given) and not hasattr(given, 'prepare'):
    hint = (
      f'the function {name_of(given)}: call it, as {name_of(given)}(damping)'
    )
  else:
    hint += ': give an Inverse, as tda.ekfac(damping)'
  raise ValueError(f'the inverse is {hint}')


def check_problem(given) -> None:
  """Raises ValueError unless it is a Problem."""
  if isinstance(given, Problem):
    return
  hint = f'; the order is {ORDER["problem"]}'
  if callable(given):
    hint = ': give tda.classification or another problem of it'
  raise ValueError(f'the problem is {kind_of(given)}{hint}')


def check_recipe(given) -> None:
  """Raises ValueError unless it is a training recipe."""
  if not hasattr(given, 'optimizer') or not hasattr(given, 'learning_rate'):
    raise ValueError(
      f'the recipe is {kind_of(given)}: give a tda.Recipe; the order is'
      f' {ORDER["recipe"]}'
    )


def as_key(given) -> jax.Array:
  """A typed key of a key, of its raw data, or of an integer; None: of 0.

  Raises:
    ValueError: it is none of these.
  """
  given = 0 if given is None else given
  keys = as_keys(given, 'key')
  if keys.ndim:
    raise ValueError(
      f'key has shape {list(keys.shape)}: give one key, as jax.random.key(0)'
    )
  return keys


def as_keys(given, name: str = 'keys') -> jax.Array:
  """Typed keys of keys, raw key data or integers; one of a list is an axis.

  Raises:
    ValueError: it is none of these.
  """
  if isinstance(given, (list, tuple)) and given:
    return jnp.stack([as_key(one) for one in given])
  dtype = getattr(given, 'dtype', None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return given
  whole = isinstance(given, int) and not isinstance(given, bool)
  if whole or (dtype is not None and np.ndim(given) == 0):
    if whole or np.issubdtype(dtype, np.integer):
      return jax.random.key(int(given))
  if dtype == np.uint32 and np.shape(given)[-1:] == (2,):
    return jax.random.wrap_key_data(jnp.asarray(given))
  if dtype is not None and np.issubdtype(dtype, np.integer):
    return jnp.stack([jax.random.key(int(one)) for one in np.ravel(given)])
  raise ValueError(
    f'{name} is {kind_of(given)}: give a key, as jax.random.key(0), or an integer'
  )


# --- rows ------------------------------------------------------------------


def rows(given, name: str, problem: Problem | None = None) -> PyTree:
  """Rows as arrays of JAX's types; see `data.given.columns`."""
  found = given_lib.columns(given, name, getattr(problem, 'reads', None))
  rows_lib.check(found, name)
  return found


def labelled(problem: Problem, params: PyTree, rows: PyTree, name: str):
  """The rows, whose labels fit what the model gives for one example.

  Raises:
    ValueError: the model cannot be evaluated on a row, or labels do not fit.
  """
  example = jax.eval_shape(lambda r: rows_lib.take(r, 0), rows)
  shape = problem_lib.outputs_shape(problem, params, example)
  try:
    found = problem.check(shape, rows)
  except ValueError as error:
    raise ValueError(f'{name}: {error}') from None
  return rows if found is None else found


# --- models -----------------------------------------------------------------


def models(problem: Problem, given, rows: PyTree, stacked: bool) -> Run:
  """A Run of one model, or of an ensemble's members (stacked).

  One model given where members are asked for is an ensemble of one.

  Raises:
    ValueError: an ensemble is given where one model is asked for; parameters
      that are none.
  """
  run = run_lib.of(given)
  parameters(run.params)
  if run.checkpoints is not None:
    parameters(run.checkpoints, 'the checkpoints')
  many = _has_members(problem, run, rows, stacked)
  if many and not stacked:
    raise ValueError(
      'the run has a member axis: give ensemble(method), or one member, as'
      ' tda.trees.row(runs.params, 0)'
    )
  if stacked and not many:
    return run_lib.alone(run)
  return run


def _has_members(problem, run, rows, stacked) -> bool:
  """Whether the leaves have a leading axis of members.

  Keys say so; without them, the reading in which the model can be evaluated:
  first the one that is asked for.
  """
  if run.keys is not None:
    return jnp.ndim(run.keys) == 1
  whole = (run.params, run.frozen)
  lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(whole)}
  could = len(lengths) == 1 and lengths != {()}
  member = jax.eval_shape(lambda t: trees.row(t, 0), whole) if could else None
  as_members = lambda: could and _evaluates(problem, *member, rows)
  as_one = lambda: _evaluates(problem, *whole, rows)
  return as_members() if stacked else not as_one() and as_members()


def _evaluates(problem, params, frozen, rows) -> bool:
  example = jax.eval_shape(lambda r: rows_lib.take(r, 0), rows)
  try:
    own = bound(problem, frozen)
    shape = jax.eval_shape(own.outputs, params, example)
    loss = jax.eval_shape(own.loss, shape, example)
    problem.check(shape.shape, rows)
    several = _leading(problem, params, frozen, example, 13)
  except Exception:  # whatever the user's model raises where shapes do not fit
    return False
  return loss.shape == () and several in (None, 13)


def _leading(problem, params, frozen, example, size):
  """Length of the first axis of the outputs of a batch, or None: not known."""
  together = getattr(problem, 'together', None)
  if together is None:
    return None
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), example
  )
  return jax.eval_shape(together, params, batch, frozen).shape[0]


def parameters(params: PyTree, name: str = 'the parameters') -> None:
  """Raises ValueError unless every leaf is of real, finite floating numbers.

  What was not trained, as running averages, counts, keys and functions, has no
  part in a score; it is named.
  """
  nodes = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_state)
  for path, node in nodes:
    if _is_state(node):
      raise ValueError(
        f'{place_of(path)!r} of {name} is {type(node).__name__}, which was not'
        f' trained: {FROM_FLAX}'
      )
  if isinstance(params, dict) and 'params' in params and len(params) > 1:
    others = ', '.join(repr(key) for key in params if key != 'params')
    raise ValueError(
      f'{name} hold {others} beside params: tda.from_linen(module, variables)'
      ' takes them apart'
    )
  leaves = jax.tree_util.tree_leaves_with_path(params)
  if not leaves:
    raise ValueError(
      f'{name} are empty: give the parameters of a trained model'
    )
  for path, leaf in leaves:
    _check_leaf(leaf, place_of(path), name)
  arrays = [leaf for _, leaf in leaves]
  if not any(isinstance(leaf, UNKNOWN) for leaf in arrays):
    finite = np.asarray(_finite(arrays))
    if not finite.all():
      bad = place_of(leaves[int(np.argmin(finite))][0])
      raise ValueError(
        f'{bad!r} of {name} has NaN or infinity: training diverged; lower the'
        ' learning rate and train again'
      )


def _check_leaf(leaf, place, name):
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None and not isinstance(leaf, float):
    kind = f'the function {name_of(leaf)}' if callable(leaf) else kind_of(leaf)
    hint = 'leave it out of the parameters and close over it in apply'
    if callable(leaf):
      hint += ', as eqx.partition(model, eqx.is_inexact_array) does'
    raise ValueError(f'{place!r} of {name} is {kind}: {hint}')
  dtype = np.dtype(float) if dtype is None else dtype
  if jnp.issubdtype(dtype, jnp.complexfloating):
    raise ValueError(
      f'{place!r} of {name} is complex: give its real and imaginary parts as two'
      ' leaves, and join them in apply'
    )
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f'{place!r} of {name} has type {dtype}, which was not trained: close over'
      f' it in apply, or {FROM_FLAX}'
    )


def check_independent(
  problem: Problem, params: PyTree, frozen: PyTree, rows: PyTree
) -> None:
  """Raises ValueError if a row's outputs depend on the rows beside it.

  Batch normalisation by the batch's own statistics does that; such a model has
  no loss, and no gradient, of one example. The first row is evaluated beside
  two sets of others.
  """
  together = getattr(problem, 'together', None)
  n = rows_lib.count(rows)
  if together is None or n < 2:
    return
  beside = [np.array([0, 1, n - 1]), np.array([0, 0, 0])]
  first, other = (
    np.asarray(_first(together, params, frozen, rows_lib.take(rows, index)))
    for index in beside
  )
  apart = np.abs(np.float64(first) - np.float64(other)).max()
  largest = np.abs(np.float64(first)).max()
  if not apart <= 1e-2 * largest:
    raise ValueError(
      'the outputs of an example depend on the other examples of its batch (they'
      f' are up to {largest:.2g}, and differ by up to {apart:.2g}), so that no'
      ' example has a gradient of its own: apply batch normalisation with its'
      f' running averages ({FROM_FLAX}), or use another norm'
    )


def _first_row(together, params, frozen, examples):
  return together(params, examples, frozen)[0]


_first = jax.jit(_first_row, static_argnums=0)


def check_batch_size(size, name: str = 'batch_size') -> None:
  """Raises ValueError unless it is a whole number from 1."""
  whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
  if not whole or size < 1:
    raise ValueError(f'{name}={size!r}: give a whole number from 1')


# --- what comes out ---------------------------------------------------------


def finite(
  scores: np.ndarray, name: str, cure: str | None = None
) -> np.ndarray:
  """The scores; raises ValueError where one is not finite."""
  bad = ~np.isfinite(scores)
  if bad.any():
    raise ValueError(
      f'{name} gives {int(bad.sum())} of {bad.size} scores that are not finite:'
      f' check that parameters and data are of usual size; else'
      f' {cure or "raise damping"}'
    )
  return scores


def say_unconverged(solution, name: str, level: int = 3) -> None:
  """Warns where a solver stopped short of its tolerance."""
  if solution is None:
    return
  short = ~np.asarray(solution.converged).reshape(-1)
  residuals = np.asarray(solution.residuals)
  if short.any():
    worst = (
      f'{residuals[..., -1, :].max():.2g}' if residuals.size else 'unknown'
    )
    warnings.warn(
      f'{name} stopped before its tolerance on {short.mean():.0%} of the queries'
      f' (worst relative residual {worst}), so that their scores are approximate:'
      ' raise its steps or its damping',
      NotConverged,
      stacklevel=level,
    )


# --- words ------------------------------------------------------------------


def _is_state(node) -> bool:
  return any(kind.__name__ in STATE for kind in type(node).__mro__[:-1])


@jax.jit
def _finite(leaves):
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])
