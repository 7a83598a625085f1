"""Methods by name: a config's dict of settings -> a Method of the library."""

from typing import Any

from tda_jax.inverses import cg, descent, ekfac, exact, inverse
from tda_jax.methods import displaced, gradients, influence, method

INVERSES = {
  'identity': inverse.identity,
  'diagonal': ekfac.diagonal,
  'kfac': ekfac.kfac,
  'ekfac': ekfac.ekfac,
  'neumann': descent.neumann,
  'descent': descent.descent,
  'astra': descent.astra,
  'cg': cg.cg,
  'exact': exact.exact,
}
FIRST_ORDER = {
  'grad_dot': gradients.grad_dot,
  'grad_cos': gradients.grad_cos,
}


def make(
  kind: str = '', *, displace: bool = False, **settings: Any
) -> method.Method:
  """The method `kind`: one of FIRST_ORDER, or influence by one of INVERSES.

  Args:
    displace: influence at the displaced parameters (`methods.displaced`).
  """
  if kind in FIRST_ORDER:
    return _called(FIRST_ORDER[kind], kind, settings)
  if displace:
    return displaced.displaced_influence(make_inverse(kind, **settings))
  return influence.influence(make_inverse(kind, **settings))


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
    known = ', '.join([*FIRST_ORDER, *INVERSES])
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
