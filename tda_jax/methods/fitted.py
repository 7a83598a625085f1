"""What a method fits once, for any queries; known by what computed it."""

from typing import Any, NamedTuple

from tda_jax import door, settings
from tda_jax.problem import Problem
from tda_jax.storage import fingerprint, record
from tda_jax.storage.fingerprint import digest
from tda_jax.trees import PyTree


class Fitted(NamedTuple):
  """What `tda_jax.fit` returns, to be given to verbs that score.

  Attributes:
    state: what the method's `fit` returned.
    about: what computed it.
  """

  state: PyTree
  about: dict


def about_inputs(problem: Problem, entered: door.Entered) -> dict:
  """What a record says of everything but the method and the queries."""
  run, train, _, key, _ = entered
  return {
    'sign': 'positive supports',
    'reduction': 'mean loss',
    'l2': problem.l2,
    'models': digest(run.params),
    'checkpoints': digest((run.checkpoints, run.learning_rates, run.steps)),
    'train': digest(train),
    'key': digest(key),
    **({} if run.frozen is None else {'frozen': digest(run.frozen)}),
    **(
      {}
      if run.second_moments is None
      else {'second_moments': digest(run.second_moments)}
    ),
    **({} if run.base is None else {'base': digest(run.base)}),
    **({'as_leaf': [*problem.as_leaf]} if problem.as_leaf else {}),
    **({'only': [*problem.only]} if problem.only else {}),
    **({'leave_out': [*problem.leave_out]} if problem.leave_out else {}),
    'versions': fingerprint.versions(),
  }


def about_fit(
  method: Any, problem: Problem, entered: door.Entered, name: str
) -> dict:
  """What a record says of what a method fits.

  Args:
    method: a `Method`.
    name: of it, for the error.

  Raises:
    ValueError: it fits nothing, or it is not known what.
  """
  recorded = settings.of_fit(method)
  if method.fit is None:
    raise ValueError(
      f'{name} fits nothing that serves for any queries: give it the queries'
      ' without a fit'
    )
  if recorded is None or not recorded.known:
    raise ValueError(
      f'it is not known what {name} fits, as it was not made by a factory of the'
      ' library, or with a function: give it the queries without a fit'
    )
  params, frozen = entered.member
  return {
    'fit': settings.readable(recorded.data),
    'functions': fingerprint.of_problem(problem, params, entered.train, frozen),
    **about_inputs(problem, entered),
  }


def state_of(
  fitted: Any, method: Any, problem: Problem, entered: door.Entered, name: str
) -> PyTree:
  """The state of a `Fitted` that was given for these arguments; None: of None.

  Raises:
    ValueError: it is no `Fitted`, or was fitted to something else.
  """
  if fitted is None:
    return None
  if not isinstance(fitted, Fitted):
    raise ValueError(
      f'fitted is a {type(fitted).__name__}: give what tda_jax.fit returned'
    )
  about = about_fit(method, problem, entered, name)
  differ = record.differences(record.plain(fitted.about), record.plain(about))
  if differ:
    raise ValueError(
      f'the fit that was given is of something else ({differ}): fit again with'
      ' these arguments'
    )
  return fitted.state
