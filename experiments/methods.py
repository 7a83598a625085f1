"""Methods by name: a config's dict of settings -> a Method of the library."""

from typing import Any

from tda_jax.inverses import cg, descent, ekfac, exact, inverse
from tda_jax.methods import gradients, influence, method, source, unrolled
from tda_jax.training.fit import Recipe, Run

INVERSES = {
  'identity': inverse.identity,
  'diagonal': ekfac.diagonal,
  'kfac': ekfac.kfac,
  'ekfac': ekfac.ekfac,
  'arnoldi': arnoldi.arnoldi,
  'datainf': datainf.datainf,
  'dense': dense.dense,
  'lissa': descent.lissa,
  'neumann': descent.neumann,
  'descent': descent.descent,
  'astra': descent.astra,
  'cg': cg.cg,
  'exact': exact.exact,
}
FIRST_ORDER = {
  'grad_dot': gradients.grad_dot,
  'grad_cos': gradients.grad_cos,
  'tracin': tracin.tracin,
  'representer': representer.representer,
  'similarity': similarity.similarity,
  'random': baselines.random,
  'loss_only': baselines.loss_only,
}


TRAINING = ('source', 'unrolled')  # they follow the training
RATES = ('segments', 'momentum')  # of 'source', what its dampings depend on


def make(
  kind: str = '',
  *,
  recipe: Recipe | Run | None = None,
  runs: Run | None = None,
  **settings: Any,
) -> method.Method:
  """The method `kind`: FIRST_ORDER, TRAINING, or influence by an inverse.

  Args:
    recipe: of a task, which 'unrolled' replays.
    runs: trained models, whose learning rates damp the `solver` of 'source'
      (settings of an inverse without its damping).

  Raises:
    ValueError: unknown kind or argument; no recipe.
  """
  if kind in FIRST_ORDER:
    return _called(FIRST_ORDER[kind], kind, settings)
  if kind == 'source':
    return _source(runs, **settings)
  if kind == 'unrolled':
    if not isinstance(recipe, Recipe):
      raise ValueError(
        'unrolled replays the training, and this task gives trained models (a'
        ' Run) without a Recipe: let it return a Recipe'
      )
    return _called(unrolled.unrolled, kind, {'recipe': recipe, **settings})
  return influence.influence(make_inverse(kind, **settings))


def _source(runs, solver: dict | None = None, **settings):
  if solver:
    rates = {name: settings[name] for name in RATES if name in settings}
    settings.setdefault('damping', source.dampings(runs, **rates))
    settings['solver'] = lambda damping: make_inverse(damping=damping, **solver)
  return _called(source.source, 'source', settings)


def make_inverse(
  kind: str,
  *,
  precondition: dict | None = None,
  project_above: float | None = None,
  residual: bool = False,
  **settings: Any,
) -> inverse.Inverse:
  """The inverse `kind` with its keyword arguments.

  Args:
    precondition: settings of the preconditioner, with its own `kind`.
    project_above: keeps the part of the solution in EKFAC eigendirections
      above this eigenvalue (`ekfac.projected`).
    residual: measures the residual of a direct solver (`with_residual`).

  Raises:
    ValueError: unknown kind or argument.
  """
  if kind not in INVERSES:
    known = ', '.join([*FIRST_ORDER, *TRAINING, *INVERSES])
    raise ValueError(f'unknown method {kind!r}: use one of {known}')
  if precondition:
    settings['precondition'] = make_inverse(**precondition)
  made = _called(INVERSES[kind], kind, settings)
  if residual:
    made = inverse.with_residual(made)
  if project_above is not None:
    made = ekfac.projected(made, project_above)
  return made


def _called(function, kind, settings):
  try:
    return function(**settings)
  except TypeError as error:
    raise ValueError(f'method {kind!r}: {error}') from None
