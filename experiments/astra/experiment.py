"""ASTRA (Wang et al. 2025): influence functions by every iHVP solver, checked.

Trains an ensemble, retrains models on random halves of the rows, scores all
pairs with every method of the config, predicts what each subset does, and tells
which scores and predictions agree with the retrained models: a table, results.json,
plots and report.html in the workdir.
"""

import pathlib

from experiments.astra import claims as claims_lib
from experiments.astra import page as page_lib
from experiments.astra import sets as sets_lib
from experiments.shared import (
  dampings,
  ensembles,
  results,
  rules,
  stages,
  tasks,
)
from experiments.shared import findings as findings_lib
from experiments.shared import settings as settings_lib


def main(config, workdir: pathlib.Path) -> None:
  """Runs the ASTRA experiment and writes its results into the workdir."""
  known = rules.several(rules.choice(*claims_lib.CLAIMS), least=0)
  settings_lib.check(config, 'astra', {'claims': known})
  sets_lib.of(config)  # refuses what could not be made
  task = tasks.load(config)
  models = ensembles.trained(config, task, workdir)
  truth = findings_lib.truth(config, task, workdir)
  findings = findings_lib.measure(config, task, models, truth, workdir)
  sets = sets_lib.measured(config, task, models, truth, workdir)
  both = {**findings, **sets}
  rows = findings_lib.rows(both, truth) + dampings.rows(config, workdir)
  rows += findings_lib.of_repeats_rows(both, truth, config.paper_repeats)
  if config.left_out.rows:
    left, effects = stages.left_out(config, task, workdir)
    rows += findings_lib.left_out_rows(findings, left, effects)
  if config.same_run.subsets:
    kept, outcomes = stages.same_run(config, task, models.runs, workdir)
    rows += findings_lib.same_run_rows(findings, kept, outcomes)
  claims = claims_lib.computed(config, both, truth, rows)
  claims = results.judged(config, claims)
  # An ablation shares the models of a workdir, not its results.
  folder = workdir / config.setting if config.ablation else workdir
  folder.mkdir(exist_ok=True)
  results.write_results(config, folder, rows, claims)
  page = page_lib.report(
    config,
    task,
    models.runs,
    findings=findings,
    truth=truth,
    rows=rows,
    claims=claims,
    workdir=workdir,
    folder=folder,
  )
  print(f'report: {page}')
