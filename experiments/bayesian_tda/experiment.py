"""How much of a score is noise of training (Nguyen, Seo & Oh 2023).

In each part of the config, S models are trained that differ in their seeds, or
in the order of rows only; every method scores all pairs for each of them, at its
last checkpoints, and leave-one-out is taken by training again and by training
on. A pair's S scores give its mean, spread and p-value: a table, results.json,
plots, the pairs of least noise with their pictures, and report.html, in the
workdir.
"""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from experiments.bayesian_tda import claims as claims_lib
from experiments.bayesian_tda import left_out
from experiments.bayesian_tda import plots as plots_lib
from experiments.shared import (
  arguments,
  dampings,
  evidence,
  results,
  stages,
  tasks,
)
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared import settings as settings_lib
from experiments.shared.scored import Scored
from experiments.shared.tasks import Task
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import factors, significance
from tda_jax.report import table
from tda_jax.run import Run
from tda_jax.training import ensembles

LEFT_OUT = {'loo': left_out.retrained, 'loo_continued': left_out.continued}
QUANTITIES = ('mean', 'deviation', 'ratio')


class Part(NamedTuple):
  """What one part of the config measured, over the L rows that were left out.

  Attributes:
    task: its data.
    runs: the models.
    rows: [L] their numbers.
    scores: name of the method -> [S, L, Q].
    by_code, by_text: name -> Uncertainty with the p of the paper's code (μ/σ)
      and of its text (Student's t).
    correlations: (kind, quantity) -> [A, A] between methods.
    accuracy: {'train', 'queries'}, mean over models.
    seconds: name -> of scoring all models; None: not measured.
  """

  task: Task
  runs: Run
  rows: np.ndarray
  scores: dict[str, np.ndarray]
  by_code: dict[str, significance.Uncertainty]
  by_text: dict[str, significance.Uncertainty]
  correlations: dict[tuple[str, str], np.ndarray]
  accuracy: dict[str, float]
  seconds: dict[str, float | None]


def main(config, workdir: pathlib.Path) -> None:
  """Runs the Bayesian TDA experiment and writes its results into the workdir."""
  settings_lib.check(config, 'bayesian_tda')
  scored_lib.named(config)  # an unknown one ends the command here
  found = {}
  parts = {
    name: arguments.changed(config, changes)
    for name, changes in config.parts.items()
  }
  for name, own in parts.items():
    found[name] = measured(own, workdir / name)
    table.print_results(part_rows(name, found[name]))
  rows = [row for name in found for row in part_rows(name, found[name])]
  rows += [r for name in found for r in correlation_rows(name, found[name])]
  claims = claims_lib.computed(found, parts)
  claims = results.judged(config, claims)
  results.write_results(config, workdir, rows, claims, tabled=False)
  drawn = plots_lib.draw(config, found, workdir)
  name, part = next(iter(found.items()))
  method = next(m for m in ('influence', *part.scores) if m in part.scores)
  shown = evidence.shown(
    config,
    of_rows(part),
    part.runs,
    (part.scores[method],),
    f'{method}, {name}',
    rate=config.false_rate,
    again=again(parts[name], method, part, workdir / name),
  )
  results.page(config, workdir, __doc__, rows, claims, drawn, shown)


def again(config, method, part: Part, workdir):
  """Query rows -> their scores; None of a method that trains models for them."""
  if method in LEFT_OUT:
    return None
  of_name = dampings.resolved(scored_lib.of(config)[method], {})

  def score(queries):
    label, of = scores_lib.predicted(method, queries), part.task
    of = of._replace(queries=queries)
    found, _ = scored(config, label, of_name, of, part.runs, part.rows, workdir)
    return (found,)

  return score


def of_rows(part: Part) -> Task:
  """The part's task with those training rows only that were left out."""
  task, rows = part.task, part.rows
  shown = task.shown
  if shown is not None:
    shown = {**shown, 'train': shown['train'][rows]}
  return task._replace(train=rows_lib.take(task.train, rows), shown=shown)


def measured(config, workdir: pathlib.Path) -> Part:
  """Trains, leaves out and scores; each stage continues what is there."""
  task = tasks.load(config)
  runs = stages.train(config, task, workdir)
  rows = left_out.rows_of(config, task)
  scores, seconds = {}, {}
  for name in config.left_out.ways:
    scores[name] = LEFT_OUT[name](config, task, runs, workdir)
    seconds[name] = None
  for name, method in scored_lib.of(config).items():
    scores[name], seconds[name] = scored(
      config, name, dampings.resolved(method, {}), task, runs, rows, workdir
    )
  by_code = {
    name: significance.uncertainty(s, test='deviations')
    for name, s in scores.items()
  }
  by_text = {
    name: scores_lib.uncertainty(config, workdir, name, (s,), config.false_rate)
    for name, s in scores.items()
  }
  return Part(
    task=task,
    runs=runs,
    rows=rows,
    scores=scores,
    by_code=by_code,
    by_text=by_text,
    correlations=correlated(by_code),
    accuracy=accuracies(task, runs),
    seconds=seconds,
  )


def scored(config, name, method: Scored, task, runs, rows, workdir):
  """Scores [S, L, Q], the mean over last checkpoints, and their seconds."""
  flat = ensembles.last_checkpoints(runs, config.averaged)
  alone = method.kind == 'additional_step'
  if alone:  # knows no other rows than those it scores, and takes long
    task = task._replace(train=rows_lib.take(task.train, rows))
  of_models, facts = scores_lib.by_model(
    config, name, method, task, flat, workdir, config.averaged
  )
  found = factors.per_model(of_models)
  seconds = sum(f['seconds'] for f in facts)
  return found if alone else found[:, rows], seconds


def correlated(by_method: dict[str, significance.Uncertainty]) -> dict:
  """Between methods, over pairs: of μ, σ and μ/σ."""
  quantities = {
    'mean': [u.mean for u in by_method.values()],
    'deviation': [u.deviation for u in by_method.values()],
    'ratio': [
      significance.ratio(u.mean, u.deviation) for u in by_method.values()
    ],
  }
  return {
    (kind, name): significance.correlations(np.stack(quantities[name]), kind)
    for kind in ('pearson', 'spearman')
    for name in QUANTITIES
  }


def accuracies(task: Task, runs: Run) -> dict[str, float]:
  """Mean accuracy of the final models."""

  @jax.jit
  def right(params, rows):
    outputs = jax.vmap(task.problem.outputs, (None, 0))(params, rows)
    return (outputs.argmax(-1) == rows['y']).mean()

  every = {'train': task.train, 'queries': task.queries}
  each = jax.vmap(right, (0, None))
  return {
    name: float(each(runs.params, rows).mean()) for name, rows in every.items()
  }


def part_rows(name: str, part: Part) -> list[dict]:
  """Numbers of each method's pairs, three of them with limits; accuracies.

  'noise share' is that of pairs with |μ| at most σ, 'low noise' that of pairs
  whose p of the code is below .05, as the paper has it. Neither depends on the
  number of seeds; 'significant', of the t-test at config.false_rate, grows with it.
  """
  out = []
  for method, by_code in part.by_code.items():
    cell = {'method': f'{name}: {method}', 'n': len(part.scores[method])}
    scores = part.scores[method]
    mean_p, noise, relative = (
      dict(zip(('value', 'low', 'high'), measure(scores), strict=True))
      for measure in (
        claims_lib.mean_p,
        claims_lib.noise_share,
        claims_lib.relative_deviation,
      )
    )
    by_text = part.by_text[method]
    out += [
      {**cell, 'metric': 'mean_p', **mean_p, 'seconds': part.seconds[method]},
      {**cell, 'metric': 'mean_p_t', 'value': float(by_text.p.mean())},
      {
        **cell,
        'metric': 'mean deviation',
        'value': float(by_code.deviation.mean()),
      },
      {**cell, 'metric': 'relative deviation', **relative},
      {**cell, 'metric': 'noise share', **noise},
      {
        **cell,
        'metric': 'low noise',
        'value': float((by_code.p < 0.05).mean()),
      },
      {
        **cell,
        'metric': 'significant',
        'value': float(by_text.significant.mean()),
      },
    ]
  return out + [
    {
      'method': f'{name}: models',
      'metric': f'accuracy, {which}',
      'value': value,
      'n': len(next(iter(part.scores.values()))),
    }
    for which, value in part.accuracy.items()
  ]


def correlation_rows(name: str, part: Part) -> list[dict]:
  """One row for each pair of methods, kind and quantity."""
  methods = list(part.by_code)
  return [
    {
      'method': f'{name}: {a} ~ {b}',
      'metric': f'{kind} of {quantity}',
      'value': float(values[i, j]),
      'n': part.by_code[a].mean.size,
    }
    for (kind, quantity), values in part.correlations.items()
    for i, a in enumerate(methods)
    for j, b in enumerate(methods)
    if i < j
  ]
