"""Stage 3: LDS of the scores of a workdir against retrained models."""

import pathlib

from experiments import findings, launch, stages, tasks
from tda_jax.report import table
from tda_jax.storage import record


def main(config, workdir: pathlib.Path) -> None:
  task = tasks.load(config)
  runs = stages.train(config, task, workdir)
  truth = findings.truth(config, task, workdir)
  found = findings.measure(config, task, runs, truth, workdir)
  rows = findings.rows(found, truth)
  (workdir / 'evaluate').mkdir(exist_ok=True)
  record.results(
    workdir / 'evaluate' / 'results.json', 'evaluate', config.setting, rows, []
  )
  table.print_results(rows, config.setting)


if __name__ == '__main__':
  launch.launch(main)
