"""Mislabel detection by proxies: of a target that was trained on wrong labels."""

import numpy as np

from experiments.limited_access import proxies
from experiments.limited_access.proxies import RANDOM, Key, Proxy, label
from experiments.shared import dampings
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared.scored import Scored
from experiments.shared.tasks import Task
from tda_jax.data import prepare
from tda_jax.evaluation import detection

METRIC = 'mislabel_auc'


def measured(
  config, target: Task, proxies_by_name: dict[str, Proxy], workdir
) -> dict[Key, dict]:
  """Result rows by (proxy, method): AUC of self-influence, by proxy and method, and by chance.

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
  controls = proxies.controls(config)  # which no claim on labels needs
  proxies_by_name = proxies.relabelled(
    {n: p for n, p in proxies_by_name.items() if n not in controls},
    noisy,
    settings.fraction,
    folder,
  )
  out = {}
  for proxy_name, proxy in proxies_by_name.items():
    known = scored_lib.of(proxy.config)
    for name in settings.methods:
      if name in known and proxies.can_score(proxy, known[name]):
        found = self_influence(proxy, dampings.resolved(known[name], {}))
        key = proxy_name, name
        out[key] = _row(label(key), found, wrong, config.members)
  chance = np.random.default_rng(config.seed).normal(size=len(wrong))
  return {**out, RANDOM: _row(label(RANDOM), chance, wrong, None)}


def self_influence(proxy: Proxy, method: Scored) -> np.ndarray:
  """score[i, i] by the mean of the proxy's models, [N]; kept on disk."""
  own, task = proxies.by_its_loss(proxy, method)
  return scores_lib.self_influence(
    own,
    method.name,
    method,
    task,
    proxy.runs,
    proxy.folder,
    batch_size=own.mislabelled.batch_size,
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
