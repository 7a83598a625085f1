"""What training on a set of rows does: Newton's step on the set's own objective.

Scores add up, by the curvature of all rows; a set has a curvature of its own:

  Δ_S = −(G_S + λ)⁻¹ ∇L_S(θ),    λ = damping + l2,

G_S and L_S the means over the rows of S. A query's measure is predicted to change
by ∇measure_q · Δ_S where the model is trained on S alone. More steps minimise

  (1/|S|) Σ_{i∈S} loss_i(outputs_i + J_iΔ) + ½ damping ‖Δ‖² + ½ l2 ‖θ + Δ‖²,

the objective of the linearised model: iteratively reweighted least squares.
Training that ends elsewhere than at a minimum of L, by an optimizer's weight decay
or early, has a gradient ∇L(θ) over all rows; it would have it on S too, so that it
is subtracted (`stationary`).

Each system is solved by conjugate gradients with S's own G_S. They are
preconditioned by those of the dual's largest rows (`curvature.dual`) that belong to
S, which is the solution where all are kept; or, for models with many outputs or rows
without a dual, by a Kronecker inverse of all rows.
Koh et al. 2019, https://arxiv.org/abs/1905.13289, call one step of it the Newton
approximation.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import door, memory, parallel, trees
from tda_jax import problem as problem_lib
from tda_jax.curvature import dual, products
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.data import rows as rows_lib
from tda_jax.data import subsets as subsets_lib
from tda_jax.inverses import cg
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse, Solution
from tda_jax.methods.compiled import compiled
from tda_jax.methods.method import attributed
from tda_jax.problem import Problem, num_outputs
from tda_jax.run import Run, member
from tda_jax.settings import Settings, kept
from tda_jax.trees import PyTree

# How many times its share of the dual's largest rows a set may hold.
ROOM = 1.1


class SetMethod(NamedTuple):
  """A way of predicting what training on sets of rows does.

  Attributes:
    fit: (problem, params, train, key) -> what serves for all sets.
    predict: (state, problem, params, train, queries, set) -> `Predicted`; the set
      is (row numbers [L], mask [L]).
    settings: what it was made with (`settings.kept`).
  """

  fit: Callable
  predict: Callable
  settings: Settings | None = None


class Predicted(NamedTuple):
  """The predictions of one set.

  Attributes:
    values: measure_q(trained on the set) − measure_q(trained on all), [Q].
    solution: of the last step's system, without x.
    gradient: the norm of the linearised objective's gradient after the steps,
      as a share of that before.
  """

  values: jax.Array
  solution: Solution
  gradient: jax.Array


@kept
def newton(
  damping: float,
  *,
  precondition: Inverse | None = None,
  steps: int = 1,
  stationary: bool = True,
  tolerance: float = 1e-3,
  max_steps: int = 100,
  batch_size: int = 256,
  memory_limit: float = 1e8,
) -> SetMethod:
  """Newton's steps on a set's own objective; see the module's formulas.

  Args:
    damping: a number.
    precondition: a Kronecker inverse, fitted to all rows; None: the dual's largest
      rows, for each set those that are its own.
    steps: of Newton's method on the linearised model.
    stationary: whether training is taken to end where it ended on all rows, at
      the same gradient; else at a gradient of 0.
    tolerance, max_steps: of the conjugate gradients, see `inverses.cg`.
    batch_size: rows at once.
    memory_limit: bytes that the dual may take: with more, fewer steps of the
      conjugate gradients and a costlier solve for each set.

  Raises:
    ValueError: a damping that is not a number; a precondition that is no Kronecker
      inverse.
  """
  if isinstance(damping, str):
    raise ValueError(f'damping={damping!r}: give a number')
  if precondition is not None and precondition.scale is None:
    raise ValueError(
      'precondition is an inverse without Kronecker factors: give kfac, ekfac or'
      ' diagonal, or None for the dual of the rows of each set'
    )
  limits = {'tolerance': tolerance, 'max_steps': max_steps}

  def fit(problem, params, train, key):
    inverse_lib.check_damping(damping, problem.l2)
    stack, rest = rows_lib.stacked(train, batch_size), trees.zeros(params)
    if stationary:
      everything = _Objective(problem, params, stack, damping, rest)
      rest = everything.gradient(rest)
    if precondition is not None:
      return rest, precondition.fit(problem, params, train, key)
    return rest, _dual(problem, params, train, batch_size, memory_limit)

  def predict(state, problem, params, train, queries, numbers):
    (rest, fitted), (index, mask) = state, numbers
    stack = rows_lib.of_set(train, index, mask, batch_size)
    objective = _Objective(problem, params, stack, damping, rest)
    if precondition is not None:
      inverse = _by_kronecker(precondition, fitted, problem, params, train)
    else:
      inverse = _by_dual(objective, fitted, train, index, mask, batch_size)

    def step(delta, _):
      z = objective.outputs(delta)
      down = trees.scaled(-1.0, objective.gradient(delta, z))
      one = jax.tree.map(lambda x: x[None], down)
      solution = cg.solved(
        jax.vmap(objective.product(z)), inverse, one, damping, **limits
      )
      delta = trees.add(delta, trees.row(solution.x, 0))
      return delta, (solution._replace(x=()), trees.norms(one)[0])

    zero = trees.zeros(params)
    delta, (solutions, norms) = jax.lax.scan(step, zero, None, steps)
    left = _norm(objective.gradient(delta)) / jnp.maximum(norms[0], 1e-38)

    def change(batch):  # ∇measure_q · Δ
      measures = lambda p: problem_lib.measures(problem, p, batch.examples)
      return jax.jvp(measures, (params,), (delta,))[1]

    values = rows_lib.each(change, queries, batch_size)
    return Predicted(values, trees.row(solutions, -1), left)

  return SetMethod(fit, predict)


@door.verb('predict_sets', 'the batch_size of the method')
def predict_sets(
  method: SetMethod,
  problem: Problem,
  runs: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  subsets: np.ndarray,
  *,
  key: jax.Array | int | None = None,
) -> np.ndarray:
  """What training on each set alone does to each query's measure, [M, Q].

  measure_q(trained on the set) − measure_q(trained on all rows), positive where
  the set is better for the query, in the measure's unit: to the measures of
  retrained models what `evaluation.lds.predictions` of scores are. Of several
  models it is the mean.

  Args:
    method: `newton`.
    runs: one model, or members (axis E).
    train, queries: rows (see `data.rows`).
    subsets: M sets of rows, those that are trained on: their numbers [M, n], or whether each row is in the
      set, bool [M, N].
    key: for a preconditioner that draws labels.

  Raises:
    ValueError: what `door.enter` refuses; sets that are empty or name rows that do
      not exist; a solver that diverged.
  """
  members = by_member(method, problem, runs, train, queries, subsets, key)
  return np.mean([predicted.values for predicted in members], 0)


def by_member(
  method: SetMethod,
  problem: Problem,
  runs: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  subsets: np.ndarray,
  key: jax.Array | int | None = None,
) -> Iterator[Predicted]:
  """`predict_sets` of each model, with what its solver says of all sets.

  Args: see `predict_sets`.
  """
  if not isinstance(method, SetMethod):
    raise ValueError(
      f'the method is a {type(method).__name__}: give one of sets of rows, for'
      ' example tda.newton(damping)'
    )
  entered = door.enter_models(problem, runs, train, queries, key, many=True)
  sets = subsets_lib.listed(subsets, rows_lib.count(entered.train))
  numbers = rows_lib.numbers_of_sets(sets)
  program = functools.partial(compiled(_of_member), method, problem)
  keys = jax.random.split(entered.key, trees.count(entered.run.params))
  for e, key in enumerate(keys):
    one = member(entered.run, e)
    with memory.explained('predict_sets', 'newton'):
      given = (one, entered.train, entered.queries, key, numbers)
      predicted = parallel.by_all_hosts(program, *given)
    inverse_lib.check(predicted.solution, 'newton')
    door.warn_unconverged(predicted.solution, 'newton')
    door.finite(np.asarray(predicted.values), 'newton', None)
    yield jax.tree.map(np.asarray, predicted)


def _of_member(method, problem, run, train, queries, key, numbers):
  """`Predicted` of all sets by one model, fields [M, ...]; of solutions [T, M]."""
  problem, run = attributed(problem, run)
  with jax.default_matmul_precision('highest'):
    state = method.fit(problem, run.params, train, key)

    def of_set(numbers):
      given = (problem, run.params, train, queries, numbers)
      return method.predict(state, *given)

    found = jax.lax.map(of_set, numbers)
  solution = found.solution
  return found._replace(
    solution=solution._replace(
      residuals=solution.residuals[..., 0].T,
      steps=solution.steps.T.max(-1),
      converged=solution.converged[:, 0],
      diverged=solution.diverged[:, 0],
    )
  )


class _Objective(NamedTuple):
  """The objective of the linearised model on some rows, as a function of Δ."""

  problem: Problem
  params: PyTree  # θ
  stack: rows_lib.Batch  # the rows
  damping: Any
  rest: PyTree  # the gradient at which training ends

  def outputs(self, delta: PyTree) -> jax.Array:
    """outputs_i + J_iΔ, [C, B, ...]."""

    def of_batch(batch):
      model = jax.vmap(self.problem.outputs, (None, 0))
      along = lambda p: model(p, batch.examples)
      z, change = jax.jvp(along, (self.params,), (delta,))
      return z + change

    return rows_lib.mapped(of_batch, self.stack)

  def gradient(self, delta: PyTree, z: jax.Array | None = None) -> PyTree:
    """At Δ, where the outputs are z."""
    z = self.outputs(delta) if z is None else z
    mean = self._mean(
      lambda b, z: products.gradient(self.problem, self.params, b, z), z
    )
    l2 = self.problem.l2
    mean = trees.add(mean, trees.add(self.params, delta), l2)
    return trees.add(trees.add(mean, delta, self.damping), self.rest, -1.0)

  def product(self, z: jax.Array) -> products.Product:
    """v -> (G_S + λ)v, with the loss curved at the outputs z."""
    of_batch = lambda v: (
      lambda b, z: products.ggn(self.problem, self.params, b, z)(v)
    )
    return lambda v: trees.add(self._mean(of_batch(v), z), v, self.damping)

  def _mean(self, of_batch, z):
    """The mean over rows of means over batches."""
    n = self.stack.mask.sum()

    def share(part):
      batch, z = part
      return trees.scaled(batch.mask.sum() / n, of_batch(batch, z))

    return rows_lib.total(share, (self.stack, z))


def _norm(tree):
  return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))


def _by_kronecker(precondition, fitted, problem, params, train):
  """r -> P⁻¹ r by a Kronecker inverse of all rows."""
  factors = precondition.scale(fitted, problem).factors
  example = rows_lib.take(train, 0)
  return lambda r: blocks_lib.apply(
    fitted.blocks, lambda name, _: factors[name], problem, params, example, r
  )


class _Dual(NamedTuple):
  """The largest rows of the dual of all rows."""

  rows: dual.Rows
  squares: jax.Array  # [R] their squared norms, in descending order
  matrix: jax.Array  # [R, R] their inner products


def _dual(problem, params, train, batch_size, memory_limit) -> _Dual:
  """The rows of the dual whose matrix fits into memory."""
  n = rows_lib.count(train)
  k = num_outputs(problem, params, rows_lib.take(train, 0))
  what = (
    f"the loss's Hessians of {n} rows x {k} x {k} outputs, with their roots,"
  )
  hint = 'give a Kronecker inverse as precondition'
  memory.check(12 * n * k**2, max(memory_limit, 1e9), what, hint)
  # The matrix, its factor, a block.
  most = math.isqrt(int(min(memory_limit, 1e18) / 12))
  count = min(n * k, max(most, 1))
  stack = rows_lib.stacked(train, batch_size)
  z = dual.outputs(problem, params, stack)
  rows, _ = dual.largest(problem, params, stack, z, count)
  matrix = dual.gram(problem, params, train, rows, batch_size)
  return _Dual(rows, jnp.diagonal(matrix), matrix)


def _by_dual(objective, whole: _Dual, train, index, mask, batch_size):
  """r -> (G' + λ)⁻¹ r, G' by the largest rows of the dual that are in the set."""
  n, size = rows_lib.count(train), len(whole.squares)
  inside = jnp.zeros(n).at[index].max(mask)
  # About as many as of all rows are of the set's; what is cut off is small.
  count = min(size, math.ceil(ROOM * size * len(index) / n) + 8)
  _, chosen = jax.lax.top_k(whole.squares * inside[whole.rows.index], count)
  here = inside[whole.rows.index[chosen]]
  rows = dual.Rows(
    whole.rows.index[chosen], whole.rows.roots[chosen] * here[:, None]
  )
  matrix = whole.matrix[chosen][:, chosen] * here[:, None] * here
  shift = objective.damping + objective.problem.l2
  factor = dual.cholesky(matrix, shift * mask.sum())
  forward, back = dual.products(
    objective.problem, objective.params, train, rows, batch_size
  )

  def inverse(r):
    inner = jax.scipy.linalg.cho_solve((factor, True), forward(r).T).T
    return trees.scaled(1 / shift, trees.add(r, back(inner), -1.0))

  return inverse
