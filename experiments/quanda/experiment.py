"""Quanda (Bareeva et al. 2024): methods measured from several sides.

Trains models in every world of the config (clean rows; classes hidden in groups;
a shortcut; foreign rows; wrong labels), scores each world by every method, and
tells whether the scores find what is known to be there: a table, results.json,
plots and a leaderboard in the workdir.
"""

import pathlib

import numpy as np

from experiments.quanda import claims as claims_lib
from experiments.quanda import metrics as metrics_lib
from experiments.quanda import page as page_lib
from experiments.quanda import worlds as worlds_lib
from experiments.quanda.worlds import Scores, World
from experiments.shared import (
  results,
)
from experiments.shared import scored as scored_lib
from experiments.shared import settings as settings_lib
from experiments.shared.findings import Truth
from tda_jax import parallel
from tda_jax.data import rows as rows_lib
from tda_jax.storage import record


def main(config, workdir: pathlib.Path) -> None:
  """Runs the Quanda experiment and writes its results into the workdir."""
  settings_lib.check(config, 'quanda')
  worlds = worlds_lib.trained(config, workdir)
  truth, left = worlds_lib.ground_truth(config, worlds)
  found, costs, best = {}, {}, None
  for name, method in scored_lib.of(config).items():
    scores = worlds_lib.scored(config, worlds, method)
    found[name] = metrics_lib.measured(
      config, worlds, truth, left, name, scores
    )
    costs[name] = scores.seconds
    if best is None or name == page_lib.PICTURED_BY:
      best = name, scores.of['clean'].argmax(0)
  by_luck = by_chance(config, worlds, truth, left, workdir / 'chance')
  rows = metrics_lib.result_rows(found, costs, by_luck, worlds)
  chances = metrics_lib.chances(config, worlds)
  claims = claims_lib.computed(config, found, by_luck, chances)
  results.write_results(config, workdir, rows, claims)
  page = page_lib.write(config, worlds, rows, claims, chances, best, workdir)
  print(f'report: {page}')


def by_chance(
  config, worlds, truth: Truth, left, folder: pathlib.Path
) -> dict[str, np.ndarray]:
  """Metric -> what scores drawn at random reach, one for each seed; kept.

  Metrics that train models take the first `config.chance_retrained` seeds.
  """
  own = config.to_dict()
  inputs = {key: own[key] for key in own if key not in ('methods', 'method')}
  file = folder / 'values.json'
  done = parallel.in_turn(lambda: record.begin(folder, inputs))
  if done and file.exists():
    return {m: np.array(v) for m, v in record.read_json(file).items()}
  found = {}
  for seed in range(config.chance):
    rng = np.random.default_rng([config.seed, seed])
    draw = lambda w, rng=rng: rng.normal(size=_shape(w))
    scores = Scores(
      of={name: draw(w) for name, w in worlds.items() if name != 'mislabelled'},
      randomised=draw(worlds['clean']),
      self_influence=rng.normal(size=_shape(worlds['mislabelled'])[0]),
      seconds=0.0,
    )
    retrain = seed < config.chance_retrained
    for metric, interval in metrics_lib.measured(
      config, worlds, truth, left, f'random_{seed}', scores, retrain
    ).items():
      found.setdefault(metric, []).append(interval.value)
  record.write_json(file, found)
  record.complete(folder)
  return {metric: np.array(values) for metric, values in found.items()}


def _shape(world: World):
  return tuple(
    rows_lib.count(rows) for rows in (world.task.train, world.task.queries)
  )
