"""Quanda (Bareeva et al. 2024): methods measured from several sides.

Trains models in every world of the config (clean rows; classes hidden in groups;
a shortcut; foreign rows; wrong labels), scores each world by every method, and
tells whether the scores find what is known to be there: a table, results.json,
plots and a leaderboard in the workdir.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import arguments, dampings, launch, results, stages, tasks
from experiments import findings as findings_lib
from experiments import quanda_claims as claims_lib
from experiments import quanda_metrics as metrics_lib
from experiments import quanda_page as page_lib
from experiments import scores as scores_lib
from experiments import settings as settings_lib
from experiments.findings import Truth
from experiments.tasks import Task
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import bootstrap, brittleness, factors, retraining
from tda_jax.run import Run
from tda_jax.storage import record

WORLDS = ('clean', 'grouped', 'shortcut', 'mixed', 'mislabelled')


class World(NamedTuple):
  """One world of the config, and its models.

  Attributes:
    config: the experiment's, with what the world changes.
    task: its rows; `known` is what was changed in them.
    runs: its trained models.
    predicted: [Q] the class that they give each query, by their mean output.
    leads: 'train' and 'queries' -> [E, rows] lead of their own class
      (`brittleness.lead`).
    folder: what is kept of it.
  """

  config: Any
  task: Task
  runs: Run
  predicted: np.ndarray
  leads: dict[str, np.ndarray]
  folder: pathlib.Path


class Scores(NamedTuple):
  """What one method says, by the models together.

  Attributes:
    of: name of the world -> [N, Q]; of the mislabelled one only `own` is asked.
    randomised: of the clean world by models with random parameters; None: it
      needs a training that led to them.
    own: self-influence of the rows whose label may be wrong, [N]; None: it
      takes too long by this method.
    seconds: of scoring the clean world by one model, fitted and compiled.
  """

  of: dict[str, np.ndarray]
  randomised: np.ndarray | None
  own: np.ndarray | None
  seconds: float


def main(config, workdir: pathlib.Path) -> None:
  settings_lib.check(config, 'quanda')
  launch.keep_programs(workdir)
  worlds = made(config, workdir)
  truth, left = ground_truth(config, worlds)
  found, costs, best = {}, {}, None
  for name, settings in stages.methods_of(config).items():
    scores = scored(config, worlds, name, settings)
    found[name] = metrics_lib.measured(
      config, worlds, truth, left, name, scores
    )
    costs[name] = scores.seconds
    if best is None or name == page_lib.PICTURED_BY:
      best = name, scores.of['clean'].argmax(0)
  by_luck = by_chance(config, worlds, truth, left, workdir / 'chance')
  rows = result_rows(found, costs, by_luck, worlds)
  chances = metrics_lib.chances(config, worlds)
  claims = claims_lib.computed(config, found, by_luck, chances)
  results.tell(config, workdir, rows, claims)
  page = page_lib.write(config, worlds, rows, claims, chances, best, workdir)
  print(f'report: {page}')


def made(config, workdir: pathlib.Path) -> dict[str, World]:
  """Every world of the config with its trained models.

  Raises:
    ValueError: the config lacks one.
  """
  if missing := {*WORLDS} - {*config.worlds}:
    raise ValueError(
      f'config.worlds has no {", ".join(sorted(missing))}: quanda measures'
      f' {", ".join(WORLDS)}'
    )
  return {name: world(config, name, workdir) for name in config.worlds}


def world(config, name: str, workdir: pathlib.Path) -> World:
  """The world `name`, trained or read; what a user of another library needs of
  it is in its world.npz.

  Raises:
    ValueError: the config has no such world.
  """
  if name not in config.worlds:
    raise ValueError(
      f'unknown world {name!r}: this config has {sorted(config.worlds)}'
    )
  own, folder = arguments.changed(config, config.worlds[name]), workdir / name
  task = tasks.load(own)
  runs = stages.train(own, task, folder)
  outputs = jax.vmap(task.problem.outputs, (None, 0))
  found = jax.jit(jax.vmap(outputs, (0, None)))(runs.params, task.queries)
  predicted = np.asarray(found.mean(0).argmax(-1))
  exported(task, runs, folder / 'world.npz')
  problem = task.problem._replace(measure=brittleness.lead)
  leads = {
    part: retraining.measures(problem, runs.params, getattr(task, part))
    for part in ('train', 'queries')
  }
  return World(own, task, runs, predicted, leads, folder)


def exported(task: Task, runs: Run, path: pathlib.Path) -> None:
  """Rows, labels, what is known, and the first model's parameters by path."""
  arrays = {
    f'{part}/{name}': np.asarray(column)
    for part in ('train', 'queries')
    for name, column in getattr(task, part).items()
  }
  known = task.known or {}
  arrays |= {f'known/{name}': np.asarray(v) for name, v in known.items()}
  for leaf, value in jax.tree_util.tree_leaves_with_path(runs.params):
    name = jax.tree_util.keystr(leaf, simple=True, separator='/')
    arrays[f'params/{name}'] = np.asarray(value[0])
  record.write_npz(path, arrays)


def ground_truth(config, worlds: dict[str, World]):
  """(Truth, (rows left out, effects [L, R, Q])) of the clean world."""
  own = worlds['clean']
  truth = findings_lib.truth(own.config, own.task, own.folder)
  return truth, stages.left_out(own.config, own.task, own.folder)


def scored(config, worlds: dict[str, World], name: str, settings) -> Scores:
  """Scores of one method in every world.

  `without` of its settings names what it takes too long for: 'randomised',
  'own', a world but the clean one.
  """
  settings = dampings.resolved(settings, {})
  without = settings.get('without', ())
  of, seconds = {}, {}
  for key, w in worlds.items():
    if key != 'mislabelled' and key not in without:
      of[key], seconds[key] = _mean(w, name, settings)
  clean = worlds['clean']
  random, own = None, None
  if 'randomised' not in without:
    other = clean._replace(
      runs=randomised(clean), folder=clean.folder / 'randomised'
    )
    random, _ = _mean(other, name, settings)
  if 'own' not in without:
    noisy = worlds['mislabelled']
    own = scores_lib.self_influence(
      noisy.config,
      name,
      settings,
      tasks.by_loss(noisy.task),
      noisy.runs,
      noisy.folder,
      at_once=config.own_at_once,
    )
  return Scores(of, random, own, seconds['clean'])


def randomised(world: World) -> Run:
  """The models with all parameters drawn anew; checkpoints too, each its own.

  The last checkpoint is the model, as it is in a trained run.
  """
  runs, init = world.runs, world.task.recipe.init
  keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(runs.keys)
  params = jax.vmap(init)(keys)
  checkpoints = runs.checkpoints
  if checkpoints is not None:
    count = world.config.checkpoints
    each = jax.vmap(lambda key: jax.random.split(key, count))(keys)
    checkpoints = jax.vmap(jax.vmap(init))(each)
    checkpoints = jax.tree.map(
      lambda c, p: c.at[:, -1].set(p), checkpoints, params
    )
  return runs._replace(params=params, checkpoints=checkpoints)


def by_chance(
  config, worlds, truth: Truth, left, folder: pathlib.Path
) -> dict[str, np.ndarray]:
  """Metric -> what scores drawn at random reach, one for each seed; kept.

  Metrics that train models take the first `config.chance_retrained` seeds.
  """
  own = config.to_dict()
  inputs = {key: own[key] for key in own if key not in ('methods', 'method')}
  file = folder / 'values.json'
  if record.begin(folder, inputs) and file.exists():
    return {m: np.array(v) for m, v in record.read_json(file).items()}
  found = {}
  for seed in range(config.chance):
    rng = np.random.default_rng([config.seed, seed])
    draw = lambda w, rng=rng: rng.normal(size=_shape(w))
    scores = Scores(
      of={name: draw(w) for name, w in worlds.items() if name != 'mislabelled'},
      randomised=draw(worlds['clean']),
      own=rng.normal(size=_shape(worlds['mislabelled'])[0]),
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


def result_rows(found, costs, by_chance, worlds) -> list[dict]:
  """Every method and metric; random, over its seeds; how the models fit."""
  out = []
  for name, metrics in found.items():
    for metric, interval in metrics.items():
      row = {'method': name, 'metric': metric, **interval._asdict()}
      out.append({**row, 'seconds': costs.get(name)})
  for metric, values in by_chance.items():
    low, high = np.quantile(values, bootstrap.TAILS)
    out.append({
      'method': 'random', 'metric': metric, 'value': values.mean(),
      'low': low, 'high': high, 'n': len(values),
    })  # fmt: skip
  for name, w in worlds.items():
    for part, value in metrics_lib.accuracies(w).items():
      cell = {'method': f'models, {name}', 'metric': f'accuracy, {part}'}
      out.append({**cell, 'value': value, 'n': len(w.runs.keys)})
  return out


def _mean(world: World, name, settings):
  """(scores [N, Q] by the world's models together, seconds of one)."""
  found, facts = scores_lib.by_model(
    world.config, name, settings, world.task, world.runs, world.folder
  )
  return factors.together(found), facts[0]['seconds']


def _shape(world: World):
  return tuple(
    rows_lib.count(rows) for rows in (world.task.train, world.task.queries)
  )


if __name__ == '__main__':
  launch.launch(main)
