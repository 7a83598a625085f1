"""The record of a store of scores, so that no other computation continues it."""

import functools

import jax

from tda_jax import door, settings
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.storage import fingerprint
from tda_jax.storage.fingerprint import digest


def about_of(
  method: Method, problem: Problem, entered: door.Entered, name: str, one: Run
) -> dict:
  """The record of a store of scores: what computed them, and of what.

  Args:
    entered: what `door.enter` returned; without queries the scores are
      self-influence.
    one: the run that `method.prepare` gets.
  """
  run, train, queries, key, member = entered
  query_rows = train if queries is None else queries
  functions = fingerprint.of_problem(
    problem, member[0], train, member[1], query_rows
  )
  recorded = settings.of(method)
  if recorded is None or not recorded.known:  # then by what it computes
    functions['method'] = _computed(
      method, problem, one, train, query_rows, key
    )
  return {
    'method': name,
    'settings': {} if recorded is None else settings.readable(recorded.data),
    'functions': functions,
    'unit': method.unit,
    'sign': 'positive supports',
    'reduction': 'mean loss',
    'l2': problem.l2,
    'models': digest(run.params),
    'checkpoints': digest((run.checkpoints, run.learning_rates, run.steps)),
    'train': digest(train),
    'queries': digest(queries),
    'key': digest(key),
    **({} if run.frozen is None else {'frozen': digest(run.frozen)}),
    **(
      {}
      if run.second_moments is None
      else {'second_moments': digest(run.second_moments)}
    ),
    **({'as_leaf': [*problem.as_leaf]} if problem.as_leaf else {}),
    **({'only': [*problem.only]} if problem.only else {}),
    **({'leave_out': [*problem.leave_out]} if problem.leave_out else {}),
    'versions': fingerprint.versions(),
  }


def _computed(method, problem, run, train, queries, key) -> str:
  """A hash of what a method computes at these shapes."""
  prepare = functools.partial(method_lib.prepare, method, problem)
  score = functools.partial(method_lib.score, method, problem)
  batch = next(rows_lib.batches(train, 1))
  given = fingerprint.abstract((run, train, queries, key))
  run, train, queries, key = given
  prepared = jax.eval_shape(prepare, *given)
  blocks = fingerprint.abstract(batch)
  return fingerprint.of_function(prepare, *given) + fingerprint.of_function(
    score, run, prepared, blocks
  )
