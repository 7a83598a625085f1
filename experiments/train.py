"""Stage 1: trains the ensemble of a config into a workdir."""

import pathlib

import jax
import numpy as np

from experiments.shared import launch, stages, tasks
from experiments.shared import settings as settings_lib
from tda_jax import problem as problem_lib
from tda_jax.report import table


def main(config, workdir: pathlib.Path) -> None:
  settings_lib.check(config, 'train')
  task = tasks.load(config)
  runs = stages.train(config, task, workdir)
  rows = []
  for name, part in (('train', task.train), ('queries', task.queries)):
    found = jax.vmap(
      lambda one, part=part: problem_lib.losses(
        problem_lib.bound(task.problem, one[1]), one[0], part
      )
    )((runs.params, runs.frozen))
    losses = np.asarray(found).mean(1)
    rows.append(
      {
        'method': f'{len(losses)} models',
        'metric': f'mean loss on {name}',
        'value': float(losses.mean()),
        'low': float(losses.min()),
        'high': float(losses.max()),
      }
    )
  table.print_results(rows, f'{config.setting}: trained (range over models)')


if __name__ == '__main__':
  launch.launch(main)
