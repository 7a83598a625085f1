"""Stage scores: of a method by every model of a workdir, kept in stores.

<workdir>/scores/SETTING/<method>/<member> is [N, Q]; of TRAK of several members
there are <method>/slopes/<member>, [N, 1], and <method>/kernel/<member>, [N, Q].
<method>_predicted/W is of the W wrong queries of a page, asked about what was
predicted. Beside them <method>/uncertainty is what all say of each pair.
"""

import functools
import pathlib
import warnings

import jax
import numpy as np
from ml_collections import config_dict

from experiments import methods, stages
from experiments.tasks import Task
from tda_jax import door, scoring, trees
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import detection, significance
from tda_jax.evaluation.factors import Factors, shares
from tda_jax.methods import method as method_lib
from tda_jax.run import Run
from tda_jax.storage import files, fingerprint, record
from tda_jax.storage import scores as store_lib
from tda_jax.training import ensembles, fit

# Of quanda, efficient_ensembles and limited_access, not of a method.
OTHERS = ('without', 'models', 'varied', 'variants', 'score_loss')


def of_members(
  config, name: str, settings: dict, task: Task, runs: Run, workdir
) -> np.ndarray:
  """Scores of one method, [E, N, Q], kept in <workdir>/scores/SETTING/<name>."""
  method, runs, about = _method(config, settings, task, runs)
  with warnings.catch_warnings():  # tables have the residuals
    warnings.simplefilter('ignore', door.NotConverged)
    return scoring.score(
      method,
      task.problem,
      runs,
      task.train,
      task.queries,
      _folder(config, workdir, name),
      name=name,
      key=stages.key(config.seed, 'scores'),
      batch_size=config.batch_size,
      attributes=about,
    )


def by_model(
  config, name, settings: dict, task: Task, runs: Run, workdir, variants=1
) -> tuple[Factors, list[dict]]:
  """Scores of one method by model: (`evaluation.factors` of I models, facts).

  Runs are I models with `variants` each, model by model. Those of one model are
  no independent draws: their mean is the model's. TRAK of more than one member
  has two factors, kept in <name>/slopes and <name>/kernel.
  """
  settings = dict(settings)
  if models := settings.pop('members', None):
    runs = ensembles.members_at(runs, slice(models * variants))
  count = trees.count(runs.params)
  parts = {name: (settings, task)}
  if settings['kind'] == 'trak' and count > 1:
    parts = {
      f'{name}/{factor}': own
      for factor, own in factors_of_trak(settings, task).items()
    }
  factors, told = [], []
  for label, (own, of) in parts.items():
    found = of_members(config, label, own, of, runs, workdir)
    found = found.reshape(-1, variants, *found.shape[1:])
    one = variants == 1
    factors.append(found[:, 0] if one else found.mean(1, dtype=np.float64))
    told.append(facts(config, workdir, label, count))
  every = [
    {**of[-1], 'seconds': sum(part['seconds'] for part in of)}
    for of in zip(*told, strict=True)
  ]
  return tuple(factors), every


def factors_of_trak(settings: dict, task: Task) -> dict:
  """Name of a factor -> (its settings, the task it is scored for)."""
  one = rows_lib.take(task.queries, slice(1))  # slopes know no query
  return {  # slopes are quick and refuse a loss that TRAK cannot take
    'slopes': ({'kind': 'trak_slopes'}, task._replace(queries=one)),
    'kernel': ({**settings, 'kind': 'trak_kernel'}, task),
  }


def self_influence(
  config, name: str, settings: dict, task: Task, runs: Run, workdir, at_once
) -> np.ndarray:
  """score[i, i] by the mean of the models, [N], kept in <workdir>/self/<name>.

  Of TRAK too it is the mean of each model's own score.
  """
  method, runs, about = _method(config, settings, task, runs)
  method, key = method_lib.ensemble(method), jax.random.key(config.seed)
  n = rows_lib.count(task.train)
  entered = door.enter(method, task.problem, runs, task.train, None, key)
  about |= {
    'kind': 'self-influence',
    **scoring.about_of(method, task.problem, entered, name, entered.run),
  }
  folder = pathlib.Path(workdir) / 'self' / name
  store = store_lib.create(folder, (n,), n, about)
  if not store_lib.done(store).all():
    found = detection.self_influence(
      method,
      task.problem,
      runs,
      task.train,
      key=key,
      at_once=at_once,
      name=f'{folder.parts[-3]}/{name}',
      progress=True,
    )
    store_lib.write(store, 0, found)
  return store_lib.read(store)


def predicted(name: str, queries) -> str:
  """Name of a method's scores for queries asked about what was predicted.

  A page that shows more queries has more wrong ones, and scores of its own.
  """
  return f'{name}_predicted/{rows_lib.count(queries)}'


def unit(config, settings: dict, task: Task) -> str:
  """The unit of a method's scores."""
  settings = {**settings, 'members': None}
  return _method(config, settings, task, None)[0].unit


def _method(config, settings, task, runs):
  """(method, the models it is taken of, what its stores say of themselves)."""
  settings = stages.plain(settings)  # stores compare what they are made by
  first = settings.pop('members', None)
  for other in OTHERS:
    settings.pop(other, None)
  if settings.get('kind') == 'source':
    settings.setdefault('momentum', config.training.momentum)
  if first:
    runs = ensembles.members_at(runs, slice(first))
  about = {
    'config': settings,
    'seed': config.seed,
    'measure': config.get('measure'),
    'score_loss': config.get('score_loss'),
  }
  recipe = task.recipe if isinstance(task.recipe, fit.Recipe) else None
  method = _made(recipe, config_dict.FrozenConfigDict(settings))
  return method, runs, about


@functools.lru_cache(64)
def _made(recipe, settings):
  """Equal settings give the same method, whose programs are compiled once."""
  return methods.make(recipe=recipe, **settings.as_configdict().to_dict())


def uncertainty(
  config, workdir, name: str, factors: Factors, rate: float = 0.05
):
  """What the scores of more than one model say of each pair: Uncertainty.

  Kept beside the scores, where that can be written, in the store `uncertainty`
  [N, 4, Q]: mean, standard error, p of Student's t, and 1 where it is significant.
  """
  scores = shares(factors)
  found = significance.uncertainty(scores, rate=rate)
  fields = ('mean', 'standard_error', 'p', 'significant')
  values = np.stack([getattr(found, field) for field in fields], 1)
  if not files.writable(workdir):
    return found
  store = store_lib.create(
    _folder(config, workdir, name) / 'uncertainty',
    values.shape,
    len(values),
    {
      'fields': fields,
      'models': len(scores),
      'false_discovery_rate': rate,
      'scores': fingerprint.digest(scores),
    },
  )
  if not store_lib.done(store).all():
    store_lib.write(store, 0, values)
  return found


def facts(config, workdir, name: str, count: int) -> list[dict]:
  """What scoring recorded of each member: seconds, residuals, damping."""
  folder, out = _folder(config, workdir, name), []
  for e in range(count):
    of = record.read_json(folder / str(e) / 'facts.json')
    of.pop('store')
    seconds = of.pop('prepare_seconds') + of.pop('score_seconds')
    out.append({**of, 'seconds': seconds})
  return out


def _folder(config, workdir, name):
  """An ablation shares a workdir, not its methods' names."""
  setting = record.safe_name(config.setting, 'config.setting')
  return pathlib.Path(workdir) / 'scores' / setting / name
