"""A user's own task: whose rows made its models say what they say.

Trains the models of the task, or takes those that it gives, scores all pairs of
a row and a query by every method of the config, and says how sure the strongest
supporters are: a table, results.json and report.html in the workdir. With
`truth.subsets` above 0, models are retrained on random halves of the rows, and
each method's LDS says how well it predicts them.
"""

import pathlib

from experiments.shared import (
  ensembles,
  evidence,
  results,
  tasks,
)
from experiments.shared import findings as findings_lib
from experiments.shared import settings as settings_lib
from experiments.shared.findings import Finding
from tda_jax.evaluation import supporters
from tda_jax.evaluation.factors import shares
from tda_jax.run import Run


def main(config, workdir: pathlib.Path) -> None:
  """Runs the methods on a user's own task and writes its results into the workdir."""
  settings_lib.check(config, 'own')
  task = tasks.load(config)
  if config.truth.subsets and isinstance(task.recipe, Run):
    raise ValueError(
      'truth.subsets retrains models, and this task gives trained ones (a Run):'
      ' let it return a Recipe, or say --config.truth.subsets=0'
    )
  models = ensembles.trained(config, task, workdir)
  if config.truth.subsets:
    truth = findings_lib.truth(config, task, workdir)
    findings = findings_lib.measure(config, task, models, truth, workdir)
    rows = findings_lib.rows(findings, truth)
  else:
    findings = findings_lib.scored(config, task, models, workdir)
    rows = [row for name, f in findings.items() for row in solver_rows(name, f)]
  for name, f in findings.items():
    rows += sure_rows(config, name, f)
  results.write_results(config, workdir, rows, [])
  name = evidence.pictured(findings)
  best = findings[name]
  shown = evidence.shown(
    config,
    task,
    models.runs,
    best.factors,
    name,
    unit=best.unit,
    again=best.again,
  )
  results.page(config, workdir, __doc__, rows, [], [], shown)
  print(supporters.sentence(shares(best.factors), config.report.evidence))


def solver_rows(name: str, f: Finding) -> list[dict]:
  """Seconds of scoring a model, and the residual of its solve."""
  seconds = sum(of['seconds'] for of in f.facts) / len(f.facts)
  cell = {'method': name, 'n': f.members}
  out = [{**cell, 'metric': 'seconds of a model', 'value': seconds}]
  residual = findings_lib.residual(f)
  if residual is not None:
    out.append({**cell, 'metric': 'relative_residual', 'value': residual})
  return out


def sure_rows(config, name: str, f: Finding) -> list[dict]:
  """The share of the strongest supporters that other models confirm."""
  if f.members < supporters.FEWEST:
    return []
  scores = shares(f.factors)
  k = min(config.report.evidence, scores.shape[1])
  sure = supporters.supporters(scores, k)
  cell = {'method': name, 'n': f.members}
  return [
    {**cell, 'metric': f'top {k} confirmed', 'value': sure.confirmed},
    {**cell, 'metric': f'top {k} overlap', 'value': float(sure.overlap.mean())},
  ]
