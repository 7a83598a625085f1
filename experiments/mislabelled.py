"""Mislabel detection by proxies: of a target that was trained on wrong labels."""

import jax
import numpy as np

import tda_jax
from experiments import dampings, methods, proxies, stages
from experiments.proxies import Proxy
from experiments.tasks import Task
from tda_jax.data import prepare
from tda_jax.evaluation import detection
from tda_jax.methods import method as method_lib
from tda_jax.storage import scores as store_lib
from tda_jax.training.members import digest

METRIC = 'mislabel_auc'


def rows(config, target: Task, every: dict[str, Proxy], workdir) -> list[dict]:
  """Result rows: AUC of self-influence, by proxy and method, and by chance.

  A variant of the data, with models of its own: some training labels are drawn
  anew, and the rows whose label changed are to be found. Self-influence is the
  mean over a proxy's models; intervals are 1.96 standard errors (over rows).
  """
  settings = config.mislabelled
  classes = int(target.train['y'].max()) + 1
  noisy, _ = prepare.relabel(
    target.train, settings.fraction, config.data.seed, classes
  )
  wrong = noisy['y'] != target.train['y']
  folder = workdir / 'mislabelled'
  every = proxies.relabelled(every, noisy, settings.fraction, folder)
  known = stages.methods_of(config)
  out = []
  for proxy_name, proxy in every.items():
    for name in settings.methods:
      if name in known and proxies.able(proxy, known[name]):
        found = self_influence(proxy, name, dampings.resolved(known[name], {}))
        out.append(_row(f'{proxy_name}/{name}', found, wrong, config.members))
  chance = np.random.default_rng(config.seed).normal(size=len(wrong))
  return [*out, _row('random', chance, wrong, None)]


def self_influence(proxy: Proxy, name: str, settings: dict) -> np.ndarray:
  """score[i, i] by the mean of the proxy's models, [N]; kept on disk."""
  config, task, settings = proxies.by_its_loss(proxy, settings)
  n = len(task.train['y'])
  attributes = {
    'kind': 'self-influence',
    'settings': settings,
    'score_loss': config.score_loss,
    'seed': config.seed,
    'models': digest(proxy.runs.params),
    'train': digest(task.train),
    'version': tda_jax.__version__,
  }
  store = store_lib.create(proxy.folder / 'self' / name, (n,), n, attributes)
  if not store_lib.done(store).all():
    made = methods.make(recipe=task.recipe, **settings)
    found = detection.self_influence(
      method_lib.ensemble(made),
      task.problem,
      proxy.runs,
      task.train,
      key=jax.random.key(config.seed),
      at_once=config.mislabelled.at_once,
      name=f'{proxy.folder.name}/{name}',
      progress=True,
    )
    store_lib.write(store, 0, found)
  return store_lib.read(store)


def _row(name, scores, wrong, members):
  value, error = detection.auc(scores, wrong)
  return {
    'method': name,
    'metric': METRIC,
    'value': value,
    'low': value - 1.96 * error,
    'high': value + 1.96 * error,
    'n': members,
  }
