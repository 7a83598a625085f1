"""What a report page says first: predictions, and the rows behind them."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.shared import looks as looks_lib
from experiments.shared import tasks
from experiments.shared.tasks import Task
from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import predictions, significance, supporters
from tda_jax.evaluation.factors import Factors, shares
from tda_jax.evaluation.predictions import Predictions
from tda_jax.report import cards
from tda_jax.run import Run

PICTURED = ('exact', 'cg', 'astra', 'astra_paper', 'ekfac')
UNITS = {  # `Method.unit` -> in words
  'measure, removal of one row': (
    'By how much the measure is estimated to be larger with the row among the'
    ' training rows than without it.'
  ),
  'measure, one step': (
    'By how much one more step of training on the row moves the measure.'
  ),
  'loss': 'A loss of the training row, whatever the query.',
  'none': 'Without a unit: its sign and order count, its size does not.',
}


class Shown(NamedTuple):
  """What a page says first.

  Attributes:
    queries: `cards.queries`.
    method: whose scores they show.
    context: what must be known to read them, name -> words.
  """

  queries: list[cards.Query]
  method: str
  context: dict[str, str]


def pictured(names) -> str:
  """The method whose scores are shown; the first where none is in PICTURED."""
  return next((m for m in PICTURED if m in names), next(iter(names)))


def shown(
  config,
  task: Task,
  runs: Run,
  factors: Factors,
  method: str,
  *,
  unit: str = 'measure, removal of one row',
  again: Callable[[Any], Factors] | None = None,
  rate: float = 0.05,
) -> Shown:
  """config.report.queries by the scores of the ensemble: wrong ones first.

  Then those that the models are least sure of; of numbers, the largest errors
  first; where neither is known, in their own order. Predictions are the mean of
  the models'. Where there are several models each score has its standard error,
  and is marked where models that did not pick its row confirm it (`supporters`,
  at a false discovery rate of `rate`).

  Args:
    factors: of the scores of `method` for all queries.
    unit: its `Method.unit`.
    again: query rows -> their factors by the same method, which the wrong ones
      are scored by once more with what was predicted as their label; None: only
      their labels are asked about.
  """
  scored = lambda of: _scored(of, config.report.evidence, rate)
  predicted = predictions.of_models(task.problem, runs, task.queries)
  queries, rivals = np.arange(rows_lib.count(task.queries)), None
  if predicted is not None:
    queries = predictions.order(predicted)
  which = queries[: config.report.queries]
  if again and predicted is not None and predicted.wrong is not None:
    wrong = which[predicted.wrong[which]]
    if len(wrong):
      asked = predictions.with_predicted_labels(task.queries, predicted, wrong)
      rivals = scored(again(asked))
  looks = looks_lib.of(task)
  drawn = cards.queries(
    scored(factors),
    looks,
    _answers(task, looks, predicted),
    [int(q) for q in which],
    count=config.report.evidence,
    rivals=rivals,
  )
  told = {
    'model': _model(config, runs),
    **_success(task, predicted, runs),
    'measure': measure_in_words(task.problem) + _unit(task),
    'score': UNITS.get(unit, f'In the unit {unit}.'),
  }
  return Shown(drawn, method, told)


def outputs_of(task: Task, runs: Run):
  """The outputs of the first model."""
  return problem_lib.bound(task.problem, trees.row(runs.frozen, 0)).outputs


def measure_in_words(problem) -> str:
  """The first sentence of what documents the problem's measure."""
  text = inspect.isfunction(problem.measure) and problem.measure.__doc__
  if not text:
    return 'That of the task, which does not say what it is (by a docstring).'
  return ' '.join(inspect.cleandoc(text).split('\n\n')[0].split())


def _unit(task) -> str:
  if 'target' not in (task.shown or {}):
    return ''
  _, deviation = task.shown['target']
  return (
    ' It predicts in standard deviations of the training targets, of'
    f' {float(deviation):.4g} each.'
  )


def _scored(factors, count, rate) -> cards.Scored:
  """The ensemble's scores; of several models, how sure they are."""
  scores = shares(factors)
  if len(scores) < 2:
    return cards.Scored(scores.mean(0))
  u = significance.uncertainty(scores, rate=rate)
  marks = None
  if len(scores) >= supporters.FEWEST:
    marks = supporters.marked(scores, min(count, scores.shape[1]), rate=rate)
  return cards.Scored(scores.mean(0), u.standard_error, marks)


def _answers(task, looks, predicted: Predictions | None) -> cards.Answers:
  if predicted is None:
    return cards.Answers()
  if predicted.error is None:
    return cards.Answers(predicted.labels, predicted.wrong, predicted.chances)
  labels = looks_lib.targets(task, predicted.labels)
  error = np.abs(labels - looks.query_labels).reshape(len(labels), -1).sum(-1)
  return cards.Answers(labels, error=error)


def _model(config, runs) -> str:
  """Its kind, size and number."""
  count = trees.count(runs.params)
  size = trees.size(runs.params) // count
  kind = f'that of {config.task}'
  if not tasks.is_own(config):
    kind = config.model.kind
    if kind == 'mlp':
      kind += f' with hidden layers of {_joined(config.model.widths)}'
  many = f'; {count} of them, trained alike' if count > 1 else ''
  return f'{kind}, {size:,} parameters{many}'


def _joined(widths) -> str:
  return ', '.join(map(str, widths)) or 'no units'


def _success(task, predicted: Predictions | None, runs) -> dict[str, str]:
  """Says how often, or how closely, the models are right."""
  if predicted is None:
    return {}
  count, models = len(predicted.labels), len(predicted.per_model)
  alone = predicted.per_model.mean()
  if predicted.error is None:
    right = (~predicted.wrong).mean()
    text = f'{right:.1%} of the {count} queries ({predicted.wrong.sum()} wrong)'
    each = f'{alone:.1%}'
  else:
    _, unit = (task.shown or {}).get('target', (0, 1))
    scale = lambda value: f'{float(np.mean(value * unit)):.4g}'
    spread = np.abs(task.queries['y'] - task.queries['y'].mean(0)).mean(0)
    text = (
      f'{scale(predicted.error.mean())}, mean over the {count} queries (always'
      f' predicting their mean: {scale(np.sum(spread))})'
    )
    each = scale(alone)
  if models > 1:
    text += f', by the mean of {models} models; one alone: {each}'
  return {'accuracy' if predicted.error is None else 'mean error': text}
