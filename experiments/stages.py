"""The stages of a workdir: train, truth, further, scores. Each complete or absent.

A stage records what it was made from; the same command continues a killed one
and a changed one is refused.
"""

import functools
import pathlib
import types
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

import tda_jax
from experiments import methods, spent, tasks
from experiments.tasks import Task
from tda_jax import scoring
from tda_jax.data import rows as rows_lib
from tda_jax.data import subsets as subsets_lib
from tda_jax.evaluation import (
  detection,
  further_training,
  retraining,
  significance,
)
from tda_jax.methods import method as method_lib
from tda_jax.storage import record
from tda_jax.storage import scores as store_lib
from tda_jax.training import ensembles, fit, members
from tda_jax.training.fit import Run

PyTree = Any


def train(config, task: Task, workdir: pathlib.Path) -> Run:
  """The ensemble: `config.members` models on all rows, seeds 0, 1, ..."""
  if isinstance(task.recipe, Run):
    return task.recipe
  params = jax.eval_shape(task.recipe.init, jax.random.key(0))
  method_lib.check_labels(task.problem, params, task.queries)
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
    checkpoints=config.checkpoints,
    directory=workdir / 'train',
    progress=True,
  )
  return spent.timed(workdir, 'train', work)


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
    settings.repeats,
    jax.random.fold_in(_key(config.seed, 'truth'), seed),
    workdir / split,
    at_once=settings.at_once,
  )
  return chosen, outcomes


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
    config.left_out.repeats,
    _key(config.seed, 'left out'),
    workdir / 'left_out',
    at_once=config.truth.at_once,
  )
  return rows, base[None] - without


def same_run(config, task: Task, runs: Run, workdir: pathlib.Path):
  """The ensemble's own runs without some rows: (subsets [M, n], [M, R, Q]).

  Of the first `config.same_run.members` models; a subset is of the rows kept.
  """
  settings = config.same_run
  claim(config, workdir, 'same_run', **settings)
  n = rows_lib.count(task.train)
  kept = subsets_lib.half_subsets(
    config.seed, n, settings.subsets, 1 - settings.dropped
  )
  weights = np.stack([np.isin(np.arange(n), rows) for rows in kept])
  outcomes = retraining.reweighted(
    task.problem,
    task.recipe,
    task.train,
    task.queries,
    weights,
    runs.keys[: settings.members],
    workdir / 'same_run',
    at_once=config.truth.at_once,
  )
  return kept, outcomes


def further(config, task: Task, params: PyTree, workdir: pathlib.Path):
  """Further training of one model: (rows [L], effects [L, R, T, Q]).

  The rows to leave out are every (N // L)-th, as in the paper's tables.
  """
  settings = config.further
  claim(config, workdir, 'further', further=settings)
  own = types.SimpleNamespace(model=config.model, training=settings)
  recipe = tasks.recipe(own, None)
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
    settings.repeats,
    _key(config.seed, 'further'),
    workdir / 'further',
    points=[max(1, round(epoch * steps)) for epoch in settings.points],
    mode=settings.mode,
    at_once=settings.at_once,
  )
  return rows, further_training.adjusted(base, without, settings.subtract_mean)


def scores(
  config, name: str, settings: dict, task: Task, runs: Run, workdir
) -> np.ndarray:
  """Scores of one method, [E, N, Q], kept in <workdir>/scores/SETTING/<name>."""
  method, runs, about = _method(config, settings, task, runs)
  return scoring.score(
    method,
    task.problem,
    runs,
    task.train,
    task.queries,
    _folder(config, workdir, name),
    name=name,
    key=_key(config.seed, 'scores'),
    batch_size=config.batch_size,
    attributes=about,
  )


def self_influence(
  config, name: str, settings: dict, task: Task, runs: Run, workdir, at_once
) -> np.ndarray:
  """score[i, i] by the mean of the models, [N], kept in <workdir>/self/<name>."""
  method, runs, about = _method(config, settings, task, runs)
  n = rows_lib.count(task.train)
  about |= {
    'kind': 'self-influence',
    'models': members.digest(runs.params),
    'train': members.digest(task.train),
  }
  folder = pathlib.Path(workdir) / 'self' / name
  store = store_lib.create(folder, (n,), n, about)
  if not store_lib.done(store).all():
    found = detection.self_influence(
      method_lib.ensemble(method),
      task.problem,
      runs,
      task.train,
      key=jax.random.key(config.seed),
      at_once=at_once,
      name=f'{folder.parts[-3]}/{name}',
      progress=True,
    )
    store_lib.write(store, 0, found)
  return store_lib.read(store)


def _method(config, settings, task, runs):
  """(method, the models it is taken of, what its stores say of themselves)."""
  settings = _plain(settings)  # stores compare what they are made by
  first = settings.pop('members', None)
  settings.pop('without', None)  # of quanda
  if settings.get('kind') == 'source':
    settings.setdefault('momentum', config.training.momentum)
  if first:
    runs = ensembles.members_at(runs, slice(first))
  about = {
    'settings': settings,
    'seed': config.seed,
    'measure': config.get('measure'),
    'score_loss': config.get('score_loss'),
    'version': tda_jax.__version__,
  }
  recipe = task.recipe if isinstance(task.recipe, fit.Recipe) else None
  method = _made(recipe, config_dict.FrozenConfigDict(settings))
  return method, runs, about


@functools.lru_cache(64)
def _made(recipe, settings):
  """Equal settings give the same method, whose programs are compiled once."""
  return methods.make(recipe=recipe, **settings.as_configdict().to_dict())


def uncertainty(
  config, workdir, name: str, scores: np.ndarray, rate: float = 0.05
):
  """What E > 1 models' scores [E, N, Q] say of each pair: Uncertainty.

  Kept beside the scores, in the store `uncertainty` [N, 4, Q]: mean, standard
  error, p of Student's t, and 1 where it is significant.
  """
  found = significance.uncertainty(scores, rate=rate)
  fields = ('mean', 'standard_error', 'p', 'significant')
  values = np.stack([getattr(found, field) for field in fields], 1)
  store = store_lib.create(
    _folder(config, workdir, name) / 'uncertainty',
    values.shape,
    len(values),
    {
      'fields': fields,
      'models': len(scores),
      'false_discovery_rate': rate,
      'scores': members.digest(scores),
    },
  )
  if not store_lib.done(store).all():
    store_lib.write(store, 0, values)
  return found


def facts(config, workdir, name: str, count: int) -> list[dict]:
  """What scoring recorded of each member: seconds, residuals, damping."""
  folder = _folder(config, workdir, name)
  return [
    record.read_json(folder / str(e) / 'facts.json') for e in range(count)
  ]


def methods_of(config) -> dict:
  """The config's methods, or those that `config.method` names ('a,b').

  A name that the config does not have is taken as a kind with its defaults, at
  the config's damping.

  Raises:
    ValueError: it names one that is not there.
  """
  if not config.method:
    return dict(config.methods)
  known = [*config.methods, *methods.KINDS]
  found = {}
  for name in config.method.split(','):
    if name not in known:
      raise ValueError(
        f'unknown method {name!r}: this config has'
        f' {", ".join(sorted(config.methods))}; others are'
        f' {", ".join(sorted(set(known) - set(config.methods)))}'
      )
    found[name] = (
      config.methods[name]
      if name in config.methods
      else methods.defaults(name, config)
    )
  return found


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


def _folder(config, workdir, name):
  """An ablation shares a workdir, not its methods' names."""
  return pathlib.Path(workdir) / 'scores' / config.setting / name


def claim(config, workdir, stage, **settings):
  """Refuses a workdir whose stage was made with other settings.

  The stages' own records know their arrays; this one also knows what cannot be
  told from arrays (network, optimizer, split).
  """
  shared = {
    name: config.get(name) for name in ('task', 'data', 'model', 'training')
  }
  inputs = {'seed': config.seed, **shared, **settings}
  if stage != 'train':  # which does not depend on it
    inputs['measure'] = config.get('measure')
  record.begin(
    pathlib.Path(workdir) / 'stages' / stage, record.plain(_plain(inputs))
  )


def _plain(value):
  return (
    {k: _plain(v) for k, v in value.items()}
    if hasattr(value, 'items')
    else value
  )


def _key(seed, name):
  """One independent key for each stage."""
  number = sum(ord(c) << (i % 20) for i, c in enumerate(name))
  return jax.random.fold_in(jax.random.key(seed), number)


def _keys(seed, name, count):
  return jax.random.split(_key(seed, name), count)
