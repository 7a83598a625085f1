"""Methods by name: a dict of settings -> a Method of the library."""

import functools
import inspect
from typing import Any

import optax

from tda_jax.inverses import (
  arnoldi,
  cg,
  datainf,
  dense,
  descent,
  ekfac,
  exact,
  inverse,
)
from tda_jax.methods import (
  additional_step,
  baselines,
  bayesian,
  contrast_pair,
  dda,
  displaced,
  gradients,
  influence,
  laplace,
  logra,
  method,
  relatif,
  representer,
  similarity,
  source,
  tracin,
  trackstar,
  trak,
  unrolled,
)
from tda_jax.run import Run
from tda_jax.training.fit import Recipe


def additional_step_by_name(
  optimizer: str = 'adam',
  learning_rate: float = 1e-3,
  weight_decay: float = 5e-3,
  **settings: Any,
) -> method.Method:
  """`additional_step` by plain numbers; the defaults are the paper's.

  `weight_decay` is added to the gradient, as in torch.

  Raises:
    ValueError: unknown optimizer.
  """
  if optimizer not in OPTIMIZERS:
    raise ValueError(
      f'unknown optimizer {optimizer!r}: use one of {sorted(OPTIMIZERS)}'
    )
  decay = optax.add_decayed_weights(weight_decay)
  step = optax.chain(decay, OPTIMIZERS[optimizer](learning_rate))
  return additional_step.additional_step(step, **settings)


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
  'astra': descent.astra,
  'cg': cg.cg,
  'exact': exact.exact,
}
METHODS = {
  'grad_dot': gradients.grad_dot,
  'grad_cos': gradients.grad_cos,
  'additional_step': additional_step_by_name,
  'tracin': tracin.tracin,
  'dda': dda.dda,
  'contrast_pair': contrast_pair.contrast_pair,
  'trak': trak.trak,
  'trak_kernel': trak.trak_kernel,
  'trak_slopes': trak.trak_slopes,
  'logra': logra.logra,
  'trackstar': trackstar.trackstar,
  'relatif': relatif.relatif,
  'displaced': displaced.displaced_influence,
  'source': source.source,
  'laplace_influence': laplace.laplace_influence,
  'bayesian_influence': bayesian.bayesian_influence,
  'unrolled': unrolled.unrolled,
  'representer': representer.representer,
  'similarity': similarity.similarity,
  'similarity_dot': functools.partial(similarity.similarity, kind='dot'),
  'random': baselines.random,
  'loss_only': baselines.loss_only,
}
KINDS = (*METHODS, *INVERSES)
OPTIMIZERS = {'adam': optax.adam, 'sgd': optax.sgd}


def make(
  kind: str = '',
  *,
  recipe: Recipe | Run | None = None,
  **settings: Any,
) -> method.Method:
  """The method `kind`: one of METHODS, or influence by one of INVERSES.

  Args:
    kind: one of KINDS.
    recipe: of a task, which 'unrolled' replays.
    settings: keyword arguments; an inverse (`inverse` of 'relatif', 'displaced'
      and 'laplace_influence', `precondition` of 'bayesian_influence', `solver` of
      'source') is a dict of its own settings.

  Raises:
    ValueError: unknown kind or argument; no recipe.
  """
  if kind not in METHODS:
    return influence.influence(make_inverse(kind, **settings))
  if settings.get('inverse') is not None:
    settings['inverse'] = make_inverse(**settings['inverse'])
  if settings.get('precondition') is not None:
    settings['precondition'] = make_inverse(**settings['precondition'])
  if settings.get('solver'):
    solver = settings['solver']
    settings['solver'] = lambda damping: make_inverse(damping=damping, **solver)
  if kind == 'unrolled':
    if not isinstance(recipe, Recipe):
      raise ValueError(
        'unrolled replays the training, and this task gives trained models (a'
        ' Run) without a Recipe: let it return a Recipe'
      )
    settings['recipe'] = recipe
  return _called(METHODS[kind], kind, settings)


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
    residual: whether to measure the residual of a closed form
      (`with_residual`).

  Raises:
    ValueError: unknown kind or argument.
  """
  if kind not in INVERSES:
    raise ValueError(
      f'unknown method {kind!r}: use one of {", ".join(sorted(KINDS))}'
    )
  if precondition:
    settings['precondition'] = make_inverse(**precondition)
  solver = _called(INVERSES[kind], kind, settings)
  if residual:
    solver = inverse.with_residual(solver)
  if project_above is not None:
    solver = ekfac.projected(solver, project_above)
  return solver


def defaults(kind: str, config: Any) -> dict[str, Any]:
  """The settings of a kind for which a config has none.

  Args:
    config: with `training.weight_decay`, `data` and `damping`.
  """
  if kind == 'representer':
    return {'kind': kind, 'l2': config.training.weight_decay}
  if kind in ('trak', 'trak_kernel'):
    data = config.data
    rows = data.get('train') or data.classes * data.per_class
    # A kernel of as many features as rows is singular.
    return {'kind': kind, 'projection_dim': min(512, rows // 2)}
  if kind in ('relatif', 'displaced', 'laplace_influence'):
    inner = {'kind': 'ekfac', 'damping': config.damping}
    return {'kind': kind, 'inverse': inner}
  settings: dict[str, Any] = {'kind': kind}
  if kind == 'bayesian_influence':
    settings['precondition'] = {'kind': 'ekfac', 'damping': config.damping}
  parameters = inspect.signature({**INVERSES, **METHODS}[kind]).parameters
  given = parameters.get('damping')
  if given is not None and given.default is inspect.Parameter.empty:
    settings['damping'] = config.damping
  return settings


def _called(function, kind, settings):
  try:
    return function(**settings)
  except TypeError as error:
    raise ValueError(f'method {kind!r}: {error}') from None
