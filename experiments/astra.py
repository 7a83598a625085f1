"""ASTRA (Wang et al. 2025): influence functions by every iHVP solver, checked.

Trains an ensemble, retrains models on random halves of the rows, scores all
pairs with every method of the config, and tells which scores predict the
retrained models: a table, results.json, plots and report.html in the workdir.
"""

import pathlib

from experiments import claims as claims_lib
from experiments import ensembles, launch, pictures, results, stages, tasks
from experiments import findings as findings_lib
from experiments import settings as settings_lib


def main(config, workdir: pathlib.Path) -> None:
  settings_lib.check(config, 'astra')
  task = tasks.load(config)
  models = ensembles.trained(config, task, workdir)
  truth = findings_lib.truth(config, task, workdir)
  found = findings_lib.measure(config, task, models, truth, workdir)
  rows = findings_lib.rows(found, truth)
  if config.left_out.rows:
    left, effects = stages.left_out(config, task, workdir)
    rows += findings_lib.left_out_rows(found, left, effects)
  if config.same_run.subsets:
    kept, outcomes = stages.same_run(config, task, models.runs, workdir)
    rows += findings_lib.same_run_rows(found, kept, outcomes)
  claims = claims_lib.computed(config, found, truth, rows)
  claims = results.judged(config, claims)
  # An ablation shares the models of a workdir, not its results.
  folder = workdir / config.setting if config.ablation else workdir
  folder.mkdir(exist_ok=True)
  results.tell(config, folder, rows, claims)
  page = pictures.report(
    config, task, models.runs, found, truth, rows, claims, workdir, folder
  )
  print(f'report: {page}')


if __name__ == '__main__':
  launch.launch(main)
