"""The stages of a workdir: train, truth, further. Each complete or absent.

A stage records what it was made from; the same command continues a killed one
and a changed one is refused.
"""

import pathlib
from typing import Any

import jax
import numpy as np

from experiments.shared import recipes, scored, timing
from experiments.shared.tasks import Task
from tda_jax import door, trees
from tda_jax.data import rows as rows_lib
from tda_jax.data import subsets as subsets_lib
from tda_jax.evaluation import further_training, retraining
from tda_jax.problem import bound
from tda_jax.run import Run
from tda_jax.storage import record
from tda_jax.training import fit, members

PyTree = Any


def train(config, task: Task, workdir: pathlib.Path) -> Run:
  """The ensemble: `config.members` models on all rows, seeds 0, 1, ..."""
  if isinstance(task.recipe, Run):
    return task.recipe
  params = jax.eval_shape(task.recipe.init, jax.random.key(0))
  problem = bound(task.problem, task.frozen)
  door.check_rows_fit(problem, params, task.queries, 'queries', 'measure')
  made = {'members': config.members, 'checkpoints': config.checkpoints}
  claim(config, workdir, 'train', **made)
  if task.shown and 'split' in task.shown:
    record.write_json(pathlib.Path(workdir) / 'split.json', task.shown['split'])
  keys = _keys(config.seed, 'train', config.members)
  work = lambda: members.train(
    task.problem,
    task.recipe,
    task.train,
    keys,
    frozen=trees.repeated(task.frozen, config.members),
    checkpoints=config.checkpoints,
    directory=workdir / 'train',
    progress=True,
  )
  return timing.timed(workdir, 'train', work)


def truth(config, task: Task, workdir: pathlib.Path, split: str = 'truth'):
  """Measures of retrained models: (subsets [M, n], outcomes [M, R, Q]).

  Args:
    split: 'truth' for reported figures; 'validation' for choices, which has
      subsets of its own.
  """
  if 'truth' not in config:
    raise ValueError(
      f'a config of {config.experiment} has no retrained models: run'
      f' experiments.{config.experiment}'
    )
  settings = config.truth
  count = settings.subsets if split == 'truth' else settings.validation
  if isinstance(task.recipe, Run):
    raise ValueError(
      'ground truth is made by retraining, and this task gives trained models'
      ' (a Run) without a Recipe: let it return a Recipe'
    )
  claim(
    config,
    workdir,
    split,
    subsets=count,
    fraction=settings.fraction,
    repeats=settings.repeats,
  )
  seed = config.seed + (0 if split == 'truth' else 1)
  n = rows_lib.count(task.train)
  chosen = subsets_lib.half_subsets(seed, n, count, settings.fraction)
  outcomes = retraining.outcomes(
    task.problem,
    task.recipe,
    task.train,
    task.queries,
    chosen,
    repeats=settings.repeats,
    key=jax.random.fold_in(key(config.seed, 'truth'), seed),
    path=workdir / split,
    frozen=task.frozen,
    members_at_once=settings.members_at_once,
  )
  return chosen, outcomes


def retrained(config, task: Task, workdir: pathlib.Path):
  """What datamodels are fitted to: (subsets [M, n], outcomes [M, 1, Q]).

  Of max(config.retrained) models of random halves, timed; neither those of the
  ground truth nor those of an ensemble.
  """
  count = max(config.retrained)
  claim(config, workdir, 'retrained', subsets=count)
  seed = config.seed + 3  # the ensemble of halves has 2
  n = rows_lib.count(task.train)
  chosen = subsets_lib.half_subsets(seed, n, count)
  work = lambda: retraining.outcomes(
    task.problem,
    task.recipe,
    task.train,
    task.queries,
    chosen,
    repeats=1,
    key=key(config.seed, 'retrained'),
    path=workdir / 'retrained',
    members_at_once=config.truth.members_at_once,
  )
  return chosen, timing.timed(workdir, 'retrained', work)


def left_out(config, task: Task, workdir: pathlib.Path):
  """Leave-one-out retraining: (rows [L], effects base − left out [L, R, Q])."""
  claim(config, workdir, 'left_out', **config.left_out)
  n = rows_lib.count(task.train)
  rows = np.random.default_rng(config.seed).permutation(n)
  rows = np.sort(rows[: config.left_out.rows])
  base, without = retraining.leave_one_out(
    task.problem,
    task.recipe,
    task.train,
    task.queries,
    rows,
    repeats=config.left_out.repeats,
    key=key(config.seed, 'left out'),
    path=workdir / 'left_out',
    members_at_once=config.truth.members_at_once,
  )
  return rows, base[None] - without


def same_run(config, task: Task, runs: Run, workdir: pathlib.Path):
  """The ensemble's own runs without some rows: (subsets [M, n], [M, R, Q]).

  Of the first `config.same_run.members` models; a subset is of the rows kept.
  """
  settings = config.same_run
  claim(config, workdir, 'same_run', **settings)
  n = rows_lib.count(task.train)
  dropped = max(1, round(settings.dropped * n))  # as `removal` does
  kept = subsets_lib.half_subsets(
    config.seed, n, settings.subsets, (n - dropped) / n
  )
  weights = np.stack([np.isin(np.arange(n), rows) for rows in kept])
  outcomes = retraining.reweighted(
    task.problem,
    task.recipe,
    task.train,
    task.queries,
    weights,
    keys=runs.keys[: settings.members],
    path=workdir / 'same_run',
    frozen=task.frozen,
    members_at_once=config.truth.members_at_once,
  )
  return kept, outcomes


def further(config, task: Task, params: PyTree, workdir: pathlib.Path):
  """Further training of one model: (rows [L], effects [L, R, T, Q]).

  The rows to leave out are every (N // L)-th, as in the paper's tables.
  """
  settings = config.further
  claim(config, workdir, 'further', further=settings)
  dropout = bool(config.model.get('dropout'))
  recipe = recipes.recipe(settings, None, dropout=dropout)
  n = rows_lib.count(task.train)
  if not 0 < settings.rows <= n:
    raise ValueError(
      f'further.rows={settings.rows} of {n} training rows: give 1 to {n}'
    )
  rows = np.arange(settings.rows) * (n // settings.rows)
  steps = fit.steps_per_epoch(n, settings.batch_size)
  base, without = further_training.further_training(
    task.problem,
    recipe,
    params,
    task.train,
    task.queries,
    rows,
    repeats=settings.repeats,
    key=key(config.seed, 'further'),
    path=workdir / 'further',
    points=[max(1, round(epoch * steps)) for epoch in settings.points],
    mode=settings.mode,
    members_at_once=settings.members_at_once,
  )
  return rows, further_training.adjusted(base, without, settings.subtract_mean)


def peak_memory(reset: bool = False) -> float | None:
  """Largest resident memory in MB since the last reset; None off Linux."""
  try:
    if reset:
      pathlib.Path('/proc/self/clear_refs').write_text('5')
    status = pathlib.Path('/proc/self/status').read_text()
  except OSError:
    return None
  line = next(s for s in status.splitlines() if s.startswith('VmHWM'))
  return int(line.split()[1]) / 1024


def claim(config, workdir, stage, **settings):
  """Refuses a workdir whose stage was made with other settings.

  The stages' own records know their arrays; this one also knows what cannot be
  told from arrays (network, optimizer, split).
  """
  record.safe_name(config.setting, 'config.setting')
  shared = {
    name: config.get(name) for name in ('task', 'data', 'model', 'training')
  }
  inputs = {'seed': config.seed, **shared, **settings}
  if stage != 'train':  # which does not depend on it
    inputs['measure'] = config.get('measure')
  # Of another training nothing in the workdir can stay.
  holder = workdir if stage == 'train' else None
  record.begin(
    pathlib.Path(workdir) / 'stages' / stage,
    record.plain(scored.plain(inputs)),
    holder,
  )


def key(seed, name):
  """One independent key for each stage."""
  number = sum(ord(c) << (i % 20) for i, c in enumerate(name))
  return jax.random.fold_in(jax.random.key(seed), number)


def _keys(seed, name, count):
  return jax.random.split(key(seed, name), count)
