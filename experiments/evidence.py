"""Some queries with the rows that support and oppose them, for a report page."""

import jax
import numpy as np

from experiments.tasks import Task
from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import significance, supporters
from tda_jax.evaluation.factors import Factors, shares
from tda_jax.report import page
from tda_jax.run import Run

PICTURED = ('exact', 'cg', 'astra', 'astra_paper', 'ekfac')


def pictured(names) -> str:
  """The method whose scores are shown; the first where none is in PICTURED."""
  return next((m for m in PICTURED if m in names), next(iter(names)))


def queries(
  config, task: Task, runs: Run, factors: Factors, rate: float = 0.05
) -> list[page.Query]:
  """The first config.report.queries by the scores of the ensemble.

  Where there are several models each score has its standard error, and is
  marked where models that did not pick its row confirm it (`supporters`, at a
  false discovery rate of `rate`). Predictions
  are the first model's.
  """
  if task.shown is None:
    return []
  outputs = jax.vmap(outputs_of(task, runs), (None, 0))
  found = np.asarray(outputs(trees.row(runs.params, 0), task.queries))
  scores, sure = shares(factors), {}
  if len(scores) > 1:
    u = significance.uncertainty(scores, rate=rate)
    k = min(config.report.evidence, scores.shape[1])
    marks = supporters.marked(scores, k, rate=rate)
    sure = {'standard_error': u.standard_error, 'significant': marks}
  return page.queries(
    scores.mean(0),
    task.shown['train'],
    np.asarray(task.train['y']),
    task.shown['queries'],
    np.asarray(task.queries['y']),
    found.argmax(-1) if found.ndim > 1 else found,
    range(min(config.report.queries, rows_lib.count(task.queries))),
    count=config.report.evidence,
    classes=task.shown.get('classes'),
    columns=task.shown.get('columns'),
    **sure,
  )


def outputs_of(task: Task, runs: Run):
  """The outputs of the first model."""
  return problem_lib.bound(task.problem, trees.row(runs.frozen, 0)).outputs
