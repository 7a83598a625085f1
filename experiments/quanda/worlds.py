"""Quanda's worlds: their models, and the scores of a method in each."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.shared import arguments, dampings, stages, tasks
from experiments.shared import findings as findings_lib
from experiments.shared import scores as scores_lib
from experiments.shared.scored import Scored
from experiments.shared.tasks import Task
from tda_jax.evaluation import brittleness, factors, retraining
from tda_jax.run import Run
from tda_jax.storage import record
from tda_jax.training import ensembles

WORLDS = ('clean', 'grouped', 'shortcut', 'mixed', 'mislabelled')


class World(NamedTuple):
  """One world of the config, and its models.

  Attributes:
    config: the experiment's, with what the world changes.
    task: its rows; `known` is what was changed in them.
    runs: its trained models.
    predicted: [Q] the class that they give each query, by their mean output.
    leads: 'train' and 'queries' -> [E, rows] lead of their own class
      (`brittleness.correct_class_margin`).
    folder: what is kept of it.
  """

  config: Any
  task: Task
  runs: Run
  predicted: np.ndarray
  leads: dict[str, np.ndarray]
  folder: pathlib.Path


class Scores(NamedTuple):
  """Scores of one method, means over the models.

  Attributes:
    of: name of the world -> [N, Q]; the mislabelled world has only
      `self_influence`.
    randomised: of the clean world by models with random parameters; None: it
      needs a training that led to them.
    self_influence: of the rows whose label may be wrong, [N]; None: it
      takes too long by this method.
    seconds: of scoring the clean world by one model, fitted and compiled.
  """

  of: dict[str, np.ndarray]
  randomised: np.ndarray | None
  self_influence: np.ndarray | None
  seconds: float


def trained(config, workdir: pathlib.Path) -> dict[str, World]:
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
  problem = task.problem._replace(measure=brittleness.correct_class_margin)
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


def scored(config, worlds: dict[str, World], method: Scored) -> Scores:
  """Scores of one method in every world.

  `Scored.without` names what it takes too long for: 'randomised', 'own', a world
  but the clean one.
  """
  method = dampings.resolved(method, {})
  without = method.without
  of, seconds = {}, {}
  for key, w in worlds.items():
    if key != 'mislabelled' and key not in without:
      of[key], seconds[key] = _mean(w, method)
  clean = worlds['clean']
  random, own = None, None
  if 'randomised' not in without:
    other = clean._replace(
      runs=ensembles.randomised(clean.runs, clean.task.recipe.init),
      folder=clean.folder / 'randomised',
    )
    random, _ = _mean(other, method)
  if 'own' not in without:
    noisy = worlds['mislabelled']
    own = scores_lib.self_influence(
      noisy.config,
      method.name,
      method,
      tasks.by_loss(noisy.task),
      noisy.runs,
      noisy.folder,
      batch_size=config.self_influence_batch_size,
    )
  return Scores(of, random, own, seconds['clean'])


def _mean(world: World, method: Scored):
  """(scores [N, Q] by the world's models together, seconds of one)."""
  found, facts = scores_lib.by_model(
    world.config, method.name, method, world.task, world.runs, world.folder
  )
  return factors.together(found), facts[0]['seconds']
