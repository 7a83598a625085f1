"""DDA: influence averaged over checkpoints (denoise), less the base's (debias).

Wu et al. 2024, "Enhancing Training Data Attribution for Large Language Models with
Fitting Error Consideration", https://arxiv.org/abs/2410.01285. θ_1 … θ_C are the
checkpoints of a fine-tuning that began with the base θ_0.

The combined equation and beta of the paper are not public, nor is its code. What
is here is the natural reading, in this library's sign. The base's gradients can be
much larger than those of the fine-tuned models, above all on rows that surprise it,
and what is subtracted then decides the order of all rows: so beta is 0 unless it is
given. experiments/dda measures when it helps.
"""

import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from tda_jax import door, trees
from tda_jax.curvature import gram
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Inverse
from tda_jax.layers import find as layers_lib
from tda_jax.methods import points as points_lib
from tda_jax.methods.gradients import grad_dot
from tda_jax.methods.influence import influence
from tda_jax.methods.method import Along, Method, Prepared
from tda_jax.run import Run
from tda_jax.settings import kept

QUERIES = ('own', 'final')
NORMALISED = ('none', 'rows', 'scores')
ROWS_AT_ONCE = 256  # of the pass that standardises scores


@kept
def dda(
  beta: float = 0.0,
  *,
  inverse: Inverse | None = None,
  query: str = 'own',
  normalised: str = 'none',
  denoise: bool = True,
) -> Method:
  """score[i, q] = (1/C) Σ_c IS_iq(θ_c) − beta·IS_iq(θ_0).

  IS_iq(θ) = −(1/N) ∇measure_q(θ)ᵀ (G(θ) + damping)⁻¹ ∇loss_i(θ), with the identity
  for the inverse as published; positive supports. With beta = 0 it is TracIn with
  equal weights, and needs no base. For fine-tuned language models give contrasts as
  queries (`data.sequences.contrasts`), wrong output first: their measure is log
  p(wrong) − log p(right).

  Args:
    beta: how much of the base's influence is subtracted. The run needs `base`
      where it is above 0.
    inverse: of the curvature at each θ; None: the identity.
    query: where the measure's gradient is taken: 'own', at each θ; 'final', at the
      final parameters, as the paper's equation of debias has it (without inverse).
    normalised: 'rows': each row's gradient is divided by its norm, as by
      `grad_cos`; 'scores': of each θ, the scores of a query are standardised over
      all rows, which takes another pass over them; 'none'. The first two have no
      unit.
    denoise: whether the mean over checkpoints is taken; False: θ_C alone.

  Raises:
    ValueError: unknown `query` or `normalised`; 'final' with an inverse; the run
      has no checkpoints, or no base.
  """
  for name, value, known in (
    ('query', query, QUERIES),
    ('normalised', normalised, NORMALISED),
  ):
    if value not in known:
      raise ValueError(f'{name}={value!r} is unknown: use one of {known}')
  if inverse is not None:
    door.check_inverse(inverse)
    if query == 'final':
      raise ValueError(
        "query='final' is the form without a curvature: give inverse=None, or"
        " query='own'"
      )
  of_one = grad_dot() if inverse is None else influence(inverse)
  form = _Form(of_one, beta, query, normalised, denoise)
  plain = query == 'own' and normalised == 'none'
  own = functools.partial(_self_influence, form)
  return Method(
    functools.partial(_prepare, form),
    functools.partial(_score, form),
    unit='measure, removal of one row' if normalised == 'none' else 'none',
    fit=None if inverse is None else functools.partial(_fit, form),
    self_influence=own if plain and of_one.self_influence else None,
    vectors=functools.partial(_vectors, form) if normalised == 'none' else None,
  )


class _Form(NamedTuple):
  """The method whose scores are added up, and the arguments of `dda`."""

  of_one: Method
  beta: float
  query: str
  normalised: str
  denoise: bool

  def points(self, run: Run) -> list[points_lib.Points]:
    """Where influence is taken."""
    return points_lib.points(run, self.beta, self.denoise, 'dda')


def _fit(form, problem, run, train, key):
  return [
    points_lib.mapped(
      form.of_one.fit, problem, run, group, train, _keys(key, group, g)
    )
    for g, group in enumerate(form.points(run))
  ]


def _prepare(form, problem, run, train, queries, key, fitted=None):
  groups = form.points(run)
  states, solutions = [], []
  for g, group in enumerate(groups):

    def at(problem_at, run_at, train, of_point):
      given = (problem, run) if form.query == 'final' else (problem_at, run_at)
      return form.of_one.prepare(*given, train, queries, *of_point)

    of_point = (_keys(key, group, g),)
    of_point += () if fitted is None else (fitted[g],)
    prepared = points_lib.mapped(at, problem, run, group, train, of_point)
    moments = None
    if form.normalised == 'scores':
      moments = _moments(
        form.of_one, problem, run, group, prepared.state, train
      )
    states.append((prepared.state, moments, group.weights))
    solutions.append(prepared.solution)
  return Prepared(states, _worst(solutions))


def _score(form, problem, run, prepared, batch):
  total = jnp.zeros(())
  for group, (state, moments, weights) in zip(
    form.points(run), prepared.state, strict=True
  ):

    def at(problem, run, batch, of_point):
      state, moments, weight = of_point
      scores = form.of_one.score(problem, run, Prepared(state), batch)
      if form.normalised == 'rows':
        scores = scores / _norms(problem, run.params, batch)[:, None]
      if moments is not None:
        scores = (scores - moments[0]) / moments[1]
      return weight * scores

    of_point = (state, moments, weights)
    total += points_lib.mapped(at, problem, run, group, batch, of_point).sum(0)
  return total


def _self_influence(form, problem, run, train, key):
  of_rows = form.of_one.self_influence
  assert of_rows is not None  # or the method has none
  total = jnp.zeros(())
  for g, group in enumerate(form.points(run)):
    keys = _keys(key, group, g)
    scores = points_lib.mapped(of_rows, problem, run, group, train, keys)
    total += group.weights @ scores
  return total


def _vectors(form, problem, run, prepared, batch):
  along = []
  for group, (state, _, weights) in zip(
    form.points(run), prepared.state, strict=True
  ):

    def at(problem, run, batch, of_point):
      of_queries = form.of_one.vectors
      assert of_queries is not None  # both methods have it
      state, weight = of_point
      _, stack = of_queries(problem, run, Prepared(state), batch)
      return trees.scaled(weight, stack)

    stack = points_lib.mapped(at, problem, run, group, batch, (state, weights))
    along.append(Along(group.params, stack, group.held))
  return along


def _keys(key, group: points_lib.Points, number: int):
  """One key a point."""
  return jax.random.split(jax.random.fold_in(key, number), len(group.weights))


def _norms(problem, params, batch):
  """‖∇loss_b‖, [B]; 1 for a gradient of 0, whose scores are 0."""
  example = rows_lib.take(batch.examples, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)
  norms = gram.norms(layers, gram.factors(problem, params, batch, 'loss'))
  return jnp.where(norms == 0, 1.0, norms)


def _moments(of_one, problem, run, group: points_lib.Points, states, train):
  """(means, deviations) over all rows of a query's scores, [P, Q] each.

  Where all are equal the deviation is 1.
  """
  stack = rows_lib.stacked(train, ROWS_AT_ONCE)
  n = rows_lib.count(train)

  def at(problem, run, stack, state):
    def of(batch):
      return of_one.score(problem, run, Prepared(state), batch)

    def mean_of(values):
      each = lambda batch: batch.mask @ values(of(batch))
      return rows_lib.total(each, stack) / n

    mean = mean_of(lambda s: s)
    deviation = jnp.sqrt(mean_of(lambda s: (s - mean) ** 2))
    return mean, jnp.where(deviation == 0, 1.0, deviation)

  return points_lib.mapped(at, problem, run, group, stack, states)


def _worst(solutions):
  """One report of the solutions of groups of points; None: there was no solver."""
  if solutions[0] is None:
    return None
  join = lambda *x: jnp.concatenate(x)
  return inverse_lib.worst(
    cast(inverse_lib.Solution, jax.tree.map(join, *solutions))
  )
