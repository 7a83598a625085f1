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

from experiments.shared import stages
from experiments.shared.scored import Scored
from experiments.shared.tasks import Task
from tda_jax import door, parallel, scoring
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation.factors import Factors
from tda_jax.methods import method as method_lib
from tda_jax.methods import registry as methods
from tda_jax.methods.method import Method
from tda_jax.run import Run
from tda_jax.storage import record
from tda_jax.storage import scores as store_lib
from tda_jax.training import ensembles, fit


def of_members(
  config, name: str, scored: Scored, task: Task, runs: Run, workdir
) -> np.ndarray:
  """Scores of one method, [E, N, Q], kept in <workdir>/scores/SETTING/<name>."""
  method, runs, about = _method(config, scored, task, runs)
  with warnings.catch_warnings():  # tables have the residuals
    warnings.simplefilter('ignore', door.NotConverged)
    scores = scoring.score(
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
  return np.asarray(scores)


def by_model(
  config, name, scored: Scored, task: Task, runs: Run, workdir, variants=1
) -> tuple[Factors, list[dict]]:
  """Scores of one method by model: `scoring.by_model`."""
  if scored.members:
    runs = ensembles.members_at(runs, slice(scored.members * variants))
    scored = scored._replace(members=None)
  method, runs, about = _method(config, scored, task, runs)
  with warnings.catch_warnings():  # tables have the residuals
    warnings.simplefilter('ignore', door.NotConverged)
    return scoring.by_model(
      method,
      task.problem,
      runs,
      task.train,
      task.queries,
      _folder(config, workdir, name),
      variants=variants,
      name=name,
      key=stages.key(config.seed, 'scores'),
      batch_size=config.batch_size,
      attributes=about,
    )


def factors_of_trak(scored: Scored, task: Task) -> dict:
  """Name of a factor -> (what is scored, the task it is scored for)."""
  one = rows_lib.take(task.queries, slice(1))  # slopes know no query
  return {  # slopes are quick and refuse a loss that TRAK cannot take
    'slopes': (
      scored._replace(settings={'kind': 'trak_slopes'}),
      task._replace(queries=one),
    ),
    'kernel': (
      scored._replace(settings={**scored.settings, 'kind': 'trak_kernel'}),
      task,
    ),
  }


def self_influence(
  config, name: str, scored: Scored, task: Task, runs: Run, workdir, batch_size
) -> np.ndarray:
  """score[i, i] by the mean of the models, [N], kept in <workdir>/self/<name>.

  Of TRAK too it is the mean of each model's own score.
  """
  method, runs, about = _method(config, scored, task, runs)
  method, key = method_lib.ensemble(method), jax.random.key(config.seed)
  n = rows_lib.count(task.train)
  entered = door.enter(method, task.problem, runs, task.train, None, key)
  about |= {
    'kind': 'self-influence',
    **scoring.about_of(method, task.problem, entered, name, entered.run),
  }
  folder = pathlib.Path(workdir) / 'self' / name
  store = parallel.in_turn(lambda: store_lib.create(folder, (n,), n, about))
  done = store_lib.done(store).all()
  parallel.barrier()  # all have looked before one writes
  if not done:
    computed = scoring.self_influence(
      method,
      task.problem,
      runs,
      task.train,
      key=key,
      batch_size=batch_size,
      name=f'{folder.parts[-3]}/{name}',
      progress=True,
    )
    if parallel.owner():
      store_lib.write(store, 0, computed)
    parallel.barrier()
  return store_lib.read(store)


def predicted(name: str, queries) -> str:
  """Name of a method's scores for queries asked about what was predicted.

  A page that shows more queries has more wrong ones, and scores of its own.
  """
  return f'{name}_predicted/{rows_lib.count(queries)}'


def unit(scored: Scored, task: Task) -> str:
  """The unit of a method's scores."""
  return method_of(scored, task).unit


def method_of(scored: Scored, task: Task) -> Method:
  """The method that a config's settings name."""
  return _method_of(_recipe(task), _frozen(scored))


def _method(config, scored: Scored, task, runs):
  """(method, the models it is taken of, what its stores say of themselves)."""
  if scored.members:
    runs = ensembles.members_at(runs, slice(scored.members))
  about = {
    'config': scored.settings,
    'seed': config.seed,
    'measure': config.get('measure'),
    'score_loss': config.get('score_loss'),
  }
  return method_of(scored, task), runs, about


def _recipe(task):
  return task.recipe if isinstance(task.recipe, fit.Recipe) else None


def _frozen(scored):
  return config_dict.FrozenConfigDict(scored.settings)


@functools.lru_cache(64)
def _method_of(recipe, settings):
  """Equal settings give the same method, whose programs are compiled once."""
  return methods.make(recipe=recipe, **settings.as_configdict().to_dict())


def uncertainty(
  config, workdir, name: str, factors: Factors, rate: float = 0.05
):
  """`scoring.kept_uncertainty`, beside the scores."""
  folder = _folder(config, workdir, name) / 'uncertainty'
  return scoring.kept_uncertainty(folder, factors, rate)


def facts(config, workdir, name: str, count: int) -> list[dict]:
  """What scoring recorded of each member: `scoring.facts`."""
  return scoring.facts(_folder(config, workdir, name), count)


def _folder(config, workdir, name):
  """An ablation shares a workdir, not its methods' names."""
  setting = record.safe_name(config.setting, 'config.setting')
  return pathlib.Path(workdir) / 'scores' / setting / name
