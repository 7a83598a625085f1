"""An inverse: how (A + damping·I)⁻¹ v is found. A pair (fit, solve).

The curvature A is the mean GGN, or where asked the Hessian, plus l2·I; `damping`
is absolute. Solvers take all query vectors at once, as a stack whose leaves are
[Q, ...].
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import chosen, trees
from tda_jax.curvature import products
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import coordinates as coordinates_lib
from tda_jax.settings import Settings, kept

PyTree = Any

# Entries of a linearisation that a solver may hold: 512 MB in float32.
KEPT = 2**27


class Inverse(NamedTuple):
  """Attributes:
  fit: (problem, params, train rows, key) -> state, a tree of arrays.
  solve: (state, problem, params, train rows, vectors, key) -> Solution.
  scale: of an inverse that is a multiplication in the eigenbasis of its fitted
    Kronecker blocks: (state, problem) -> {layer: what multiplies each
    eigendirection [*stack, I, O]}; None: of any other.
  settings: what it was made with (`settings.kept`); None: not known.
  """

  fit: Callable
  solve: Callable
  scale: Callable | None = None
  settings: Settings | None = None


class Solution(NamedTuple):
  """What a solver found, and how well.

  Attributes:
    x: stack of solutions [Q, ...].
    residuals: [T, Q], ‖v − (A + damping)x‖ / ‖v‖ over all rows after `steps`.
    steps: [T].
    converged: [Q], False where a solver stopped short of its tolerance.
    diverged: [Q], True where the iterates grew instead of converging.
    damping: the number that was used (its mean, where it differs by layer).
  """

  x: PyTree
  residuals: jax.Array
  steps: jax.Array
  converged: jax.Array
  diverged: jax.Array
  damping: jax.Array


def inverse(
  fit: Callable, solve: Callable, scale: Callable | None = None
) -> Inverse:
  """An Inverse whose products are not rounded to bfloat16 on accelerators.

  Vectors are brought to a largest entry of 1 before they are solved for: the
  squared norm of a query that the model is sure of underflows float32. Of a
  problem with `only` or `leave_out`, A is that of the parameters it chooses,
  and x is 0 in the others.
  """

  def fit_chosen(problem, params, train, key):
    return fit(*chosen.restricted(problem, params), train, key)

  def solve_chosen(state, problem, params, train, vectors, key):
    own, kept = chosen.restricted(problem, params)
    if own is problem:
      return solve(state, problem, params, train, vectors, key)
    v, others = chosen.split(problem, vectors)
    found = solve(state, own, kept, train, v, key)
    zero = jax.tree.map(jnp.zeros_like, others)
    return found._replace(x=chosen.join(found.x, zero))

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
    return direct(vectors, 0.0)

  return inverse(fit, solve)


def direct(x: PyTree, damping) -> Solution:
  """The Solution of a closed form; no residual is measured."""
  q = trees.count(x)
  return Solution(
    x,
    residuals=jnp.zeros((0, q)),
    steps=jnp.zeros(0, jnp.int32),
    converged=jnp.ones(q, bool),
    diverged=jnp.zeros(q, bool),
    damping=jnp.asarray(damping, jnp.float32),
  )


def refined(once: Callable, system: Callable, v: PyTree, damping) -> Solution:
  """The Solution of a factorisation, after one step of refinement.

  Args:
    once: b -> the solution that the factor gives, to its rounding.
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
  """The same solutions, their residual in the damped curvature measured.

  One product with all rows; a direct solver leaves it out unless asked. Where
  damping differs by layer, the residual is in the system of its mean.
  """

  def solve(state, problem, params, train, vectors, key):
    found = inner.solve(state, problem, params, train, vectors, key)
    space = coordinates_lib.coordinates(None, problem, params, train, curvature)
    system = damped(space.product, train, batch_size, found.damping)
    residual = relative_residual(system, found.x, vectors)
    return found._replace(
      residuals=jnp.concatenate([found.residuals, residual[None]]),
      steps=jnp.concatenate([found.steps, jnp.zeros(1, jnp.int32)]),
    )

  return inverse(inner.fit, solve)


def linearised(
  space: coordinates_lib.Coordinates, train, queries: int, batch_size: int
) -> Callable:
  """batch -> its product x -> Ax with Q vectors, in the given coordinates.

  What the products need of each row is taken here, once, if that of all rows is
  at most KEPT entries; else by every product.

  Args:
    queries: Q.
    batch_size: rows that are linearised at once.
  """
  if space.rows is None:
    return space.product
  # Gradients that are formed may be too many to keep where their factors fit.
  for formed_for in (queries, 0):
    rows = functools.partial(space.rows, queries=formed_for)
    every = functools.partial(rows_lib.each, rows, train, batch_size)
    leaves = jax.tree.leaves(jax.eval_shape(every))
    if sum(leaf.size for leaf in leaves) <= KEPT:
      kept = every()
      return lambda batch: space.product(
        batch, rows_lib.take(kept, jnp.asarray(batch.index))
      )
  return lambda batch: space.product(batch, space.rows(batch, queries))


def damped(product: Callable, train, batch_size: int, damping) -> Callable:
  """x -> (A + damping)x, A over all rows.

  Args:
    product: batch -> (x -> Ax): that of `linearised`, or in parameters the
      space's own, which keeps nothing.
  """
  stack = rows_lib.stacked(train, batch_size)
  return products.damped(products.averaged(product, stack), damping)


def relative_residual(system, x, vectors) -> jax.Array:
  """‖v − system(x)‖ / ‖v‖, [Q]; 0 for a zero vector."""
  left = trees.norms(trees.add(vectors, system(x), -1.0))
  norm = trees.norms(vectors)
  return jnp.where(norm == 0, 0.0, left / jnp.where(norm == 0, 1.0, norm))


def check(solution: Solution, name: str, cure: str | None = None) -> None:
  """Raises ValueError if a solve diverged. Call where arrays are concrete.

  Args:
    cure: what to do about it; None: what the kind of solver suggests.
  """
  bad = np.asarray(solution.diverged)
  if not bad.any():
    return
  if cure is None:
    cure = (
      f'raise damping (now {float(np.mean(solution.damping)):.3g}; with the'
      ' Hessian it must be above minus the smallest eigenvalue)'
    )
    if np.max(solution.steps, initial=0) > 1:
      cure += ', or, of a descent, lower step_size or raise batch_size'
  query = int(np.argmax(bad.any(0) if bad.ndim > 1 else bad))
  raise ValueError(
    f'{name} diverged on {int(bad.sum())} of {bad.size} queries (the first is'
    f' query {query}): check that parameters and data are finite; else {cure}'
  )


def positive(damping, l2: float = 0.0) -> None:
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
    found = solve(state, problem, params, train, unit, key)
    return found._replace(x=trees.scaled(size, found.x))

  return wrapped


def _precise(function):
  def wrapped(*args):
    with jax.default_matmul_precision('highest'):
      return function(*args)

  return wrapped
