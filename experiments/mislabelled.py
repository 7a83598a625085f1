"""Mislabel detection by proxies: of a target that was trained on wrong labels."""

import numpy as np

from experiments import dampings, proxies, stages
from experiments import scores as scores_lib
from experiments.proxies import Proxy
from experiments.tasks import Task
from tda_jax.data import prepare
from tda_jax.evaluation import detection

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
  own, task, settings = proxies.by_its_loss(proxy, settings)
  return scores_lib.self_influence(
    own,
    name,
    settings,
    task,
    proxy.runs,
    proxy.folder,
    at_once=own.mislabelled.at_once,
  )


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
