"""An inverse computes (A + damping·I)⁻¹ v; it is a pair (fit, solve).

The curvature A is the mean GGN, or with curvature='hessian' the Hessian, plus l2·I; `damping`
is absolute. Solvers take all query vectors at once, as a stack whose leaves are
[Q, ...].
"""

import functools
from typing import Literal, NamedTuple, Protocol

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from tda_jax import chosen, parallel, trees
from tda_jax.curvature import products
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.problem import Problem
from tda_jax.settings import Settings, kept
from tda_jax.trees import PyTree

# A number that is added to the mean curvature, or a share of its eigenvalues.
Damping = float | jax.Array | Literal['heuristic']


class Fit(Protocol):
  """Computes once what a solver needs of the curvature over all rows."""

  def __call__(
    self, problem: Problem, params: PyTree, train: PyTree, key: jax.Array, /
  ) -> PyTree:
    """The state that `solve` gets, a tree of arrays; None where none is needed.

    Args:
      problem: with the loss whose curvature A is.
      params: of one model, a tree of arrays.
      train: training rows, leaves [N, ...].
      key: for solvers that draw labels or minibatches.
    """
    ...


class Solve(Protocol):
  """Solves (A + damping·I) x = v for all query vectors at once."""

  def __call__(
    self,
    state: PyTree,
    problem: Problem,
    params: PyTree,
    train: PyTree,
    vectors: PyTree,
    key: jax.Array,
    /,
  ) -> 'Solution':
    """The solutions, and how good they are.

    Args:
      state: what `fit` returned for the same problem, parameters and rows.
      problem, params, train: as for `fit`.
      vectors: the stack of v, a tree like `params` with leaves [Q, ...].
      key: for solvers that draw minibatches.
    """
    ...


class Scale(Protocol):
  """Says by what an inverse multiplies each eigendirection of its blocks."""

  def __call__(self, state: PyTree, problem: Problem, /) -> 'Scaling':
    """The factors, for a state that `fit` returned."""
    ...


class Scaling(NamedTuple):
  """What a Kronecker inverse multiplies each eigendirection of its blocks by."""

  factors: dict[str, jax.Array]  # of each layer, [*stack, I, O]
  damping: jax.Array  # that is in them, the mean over parameters


class Inverse(NamedTuple):
  """A solver for systems with the damped curvature, as a pair of functions.

  Attributes:
    fit: computes the state that `solve` needs.
    solve: solves for a stack of vectors.
    scale: for an inverse that is a multiplication in the eigenbasis of its
      fitted Kronecker blocks: what multiplies each eigendirection; None for any
      other inverse.
    settings: what it was made with (`settings.kept`); None: not known.
    fits_as: the inverse whose fit is its own; None: no other's.
    solve_only: names of the arguments that only `solve` and `scale` read, so that
      what is fitted serves for all their values.
  """

  fit: Fit
  solve: Solve
  scale: Scale | None = None
  settings: Settings | None = None
  fits_as: 'Inverse | None' = None
  solve_only: tuple[str, ...] = ()


class Solution(NamedTuple):
  """The solutions of a solver, and how good they are.

  Attributes:
    x: stack of solutions [Q, ...].
    residuals: [T, Q], ‖v − (A + damping)x‖ / ‖v‖ over all rows after `steps`.
    steps: [T].
    converged: [Q], False where a solver stopped short of its tolerance.
    diverged: [Q], True where the iterates grew instead of converging.
    damping: the number that was used (its mean, where it differs by layer).
    objectives: [T, Q], (½ xᵀ(A + damping)x − vᵀx) / ‖v‖², which a descent lowers;
      None where the solver does not measure it.
  """

  x: PyTree
  residuals: jax.Array
  steps: jax.Array
  converged: jax.Array
  diverged: jax.Array
  damping: jax.Array
  objectives: jax.Array | None = None


def inverse(fit: Fit, solve: Solve, scale: Scale | None = None) -> Inverse:
  """An Inverse whose products are not rounded to bfloat16 on accelerators.

  Vectors are scaled to a largest entry of 1 before they are solved for, because
  the squared norm of a query that the model is sure of underflows float32. If
  the problem has `only` or `leave_out`, A is the curvature in the parameters
  that it chooses, and x is 0 in the others.
  """

  def fit_chosen(problem, params, train, key):
    return fit(*chosen.restricted(problem, params), train, key)

  def solve_chosen(state, problem, params, train, vectors, key):
    part, kept = chosen.restricted(problem, params)
    if part is problem:
      return solve(state, problem, params, train, vectors, key)
    v, others = chosen.split(problem, vectors)
    solution = solve(state, part, kept, train, v, key)
    zero = jax.tree.map(jnp.zeros_like, others)
    return solution._replace(x=chosen.join(solution.x, zero))

  return Inverse(
    _precise(fit_chosen), _precise(_of_unit_size(solve_chosen)), scale
  )


@kept
def identity() -> Inverse:
  """A = I: Grad-Dot as an influence function."""

  def fit(problem, params, train, key):
    del problem, params, train, key
    return None

  def solve(state, problem, params, train, vectors, key):
    del state, problem, params, train, key
    return closed_form(vectors, 0.0)

  return inverse(fit, solve)


def closed_form(x: PyTree, damping: float | jax.Array) -> Solution:
  """The Solution with the solutions x of a closed form; no residual is measured."""
  q = trees.count(x)
  return Solution(
    x,
    residuals=jnp.zeros((0, q)),
    steps=jnp.zeros(0, jnp.int32),
    converged=jnp.ones(q, bool),
    diverged=jnp.zeros(q, bool),
    damping=jnp.asarray(damping, jnp.float32),
  )


def worst(solutions: Solution) -> Solution:
  """One report of L solutions [L, ...], without x: at each step the worst."""
  return Solution(
    (),
    residuals=solutions.residuals.max(0),
    steps=solutions.steps.max(0),
    converged=solutions.converged.all(0),
    diverged=solutions.diverged.any(0),
    damping=solutions.damping.mean(),
  )


def refined_solution(
  once: products.Product,
  system: products.Product,
  v: PyTree,
  damping: jax.Array,
) -> Solution:
  """The Solution of a factorisation, after one step of iterative refinement.

  Args:
    once: b -> the solution by the factor, with its rounding errors.
    system: x -> (A + damping)x.
    v: stack of vectors [Q, ...].
  """
  x = once(v)
  x = trees.add(x, once(trees.add(v, system(x), -1.0)))
  residual = relative_residual(system, x, v)
  return Solution(
    x,
    residuals=residual[None],
    steps=jnp.ones(1, jnp.int32),
    converged=residual < 1e-2,
    diverged=~(residual < 1),
    damping=damping,
  )


@kept
def with_residual(
  inner: Inverse, batch_size: int = 256, curvature: str = 'ggn'
) -> Inverse:
  """Like `inner`, but also measures the residual in the damped curvature.

  That takes one product with all rows, which closed forms do not need
  themselves. Where damping differs by layer, the residual is that of the system
  with the mean damping.
  """

  def solve(state, problem, params, train, vectors, key):
    solution = inner.solve(state, problem, params, train, vectors, key)
    space = coordinates_lib.coordinates(None, problem, params, train, curvature)
    system = damped(space, space.product, train, batch_size, solution.damping)
    residual = relative_residual(system, solution.x, vectors)
    return solution._replace(
      residuals=jnp.concatenate([solution.residuals, residual[None]]),
      steps=jnp.concatenate([solution.steps, jnp.zeros(1, jnp.int32)]),
      objectives=None,
    )

  return inverse(inner.fit, solve)._replace(fits_as=inner)


def batch_product(
  space: coordinates_lib.Coordinates,
  train: PyTree,
  queries: int,
  batch_size: int,
) -> coordinates_lib.BatchProduct:
  """batch -> its product x -> Ax with Q vectors, in the given coordinates.

  Per-row factors are computed once if those of all rows fit into KEPT entries,
  otherwise in every product.

  Args:
    queries: Q.
    batch_size: rows whose factors are computed at once.
  """
  row_factors = space.row_factors
  if row_factors is None:
    return space.product
  # Gradients that are formed may be too many to keep where their factors fit.
  for formed_for in (queries, 0):
    of_batch = functools.partial(row_factors, queries=formed_for)
    of_all = functools.partial(rows_lib.each, of_batch, train, batch_size)
    leaves = jax.tree.leaves(jax.eval_shape(of_all))
    if sum(leaf.size for leaf in leaves) <= coordinates_lib.KEPT:
      kept = parallel.held(of_all())
      return lambda batch: space.product(
        batch, rows_lib.take(kept, jnp.asarray(batch.index))
      )
  return lambda batch: space.product(batch, row_factors(batch, queries))


def damped(
  space: coordinates_lib.Coordinates,
  product: coordinates_lib.BatchProduct,
  train: PyTree,
  batch_size: int,
  damping: float | jax.Array,
) -> products.Product:
  """x -> (A + damping)x, with A over all rows.

  Args:
    product: batch -> (x -> Ax): that of `batch_product`, or that of the
      coordinates, which keeps nothing.
  """
  stack = rows_lib.stacked(train, batch_size)
  mean = space.inside(products.averaged(product, stack))
  return products.damped(mean, damping)


def relative_residual(
  system: products.Product, x: PyTree, vectors: PyTree
) -> jax.Array:
  """‖v − system(x)‖ / ‖v‖, [Q]; 0 for a zero vector."""
  residual = trees.norms(trees.add(vectors, system(x), -1.0))
  norm = trees.norms(vectors)
  return jnp.where(norm == 0, 0.0, residual / jnp.where(norm == 0, 1.0, norm))


def check(solution: Solution, name: str, hint: str | None = None) -> None:
  """Raises ValueError if a solve diverged. Call it where arrays are concrete.

  Args:
    name: of the method, for the error.
    hint: what to do about it; None: what the kind of solver suggests.
  """
  bad = np.asarray(solution.diverged)
  if not bad.any():
    return
  if hint is None:
    hint = (
      f'raise damping (now {float(np.mean(solution.damping)):.3g}; with the'
      ' Hessian it must be above minus the smallest eigenvalue)'
    )
    if np.max(solution.steps, initial=0) > 1:
      hint += ', or, of a descent, lower step_size or raise batch_size'
  query = int(np.argmax(bad.any(0) if bad.ndim > 1 else bad))
  raise ValueError(
    f'{name} diverged on {int(bad.sum())} of {bad.size} queries (the first is'
    f' query {query}): check that parameters and data are finite; else {hint}'
  )


def check_damping(damping: Damping, l2: float = 0.0) -> None:
  """Raises ValueError unless damping + l2 is above 0, or it is 'heuristic'."""
  if isinstance(damping, str):
    if damping != 'heuristic':
      raise ValueError(
        f"damping={damping!r} is unknown: give a number or 'heuristic'"
      )
  elif isinstance(damping, jax.core.Tracer):
    return  # its value is not known yet
  elif not (damping + l2 > 0 and damping >= 0):
    raise ValueError(
      f'damping={damping} leaves a singular curvature (it has more parameters'
      ' than directions in the data): give a number above 0'
    )


def _of_unit_size(solve):
  def wrapped(state, problem, params, train, vectors, key):
    size = trees.largest(vectors)
    size = jnp.where(size > 0, size, 1.0)
    unit = trees.scaled(1 / size, vectors)
    solution = solve(state, problem, params, train, unit, key)
    return solution._replace(x=trees.scaled(size, solution.x))

  return wrapped


def _precise(function):
  def wrapped(*args):
    with jax.default_matmul_precision('highest'):
      return function(*args)

  return wrapped
