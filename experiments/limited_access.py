"""Attribution under limited access (Zhang et al. 2025): proxies for a target.

Trains a target and the proxies of the config, scores all pairs by each of them,
and tells which scores say what the rows do to the TARGET: LDS to its retrained
models, detection of wrong labels, and brittleness, between a floor (random) and
a ceiling (S0, the target's own models). A table, results.json, a plot and
report.html in the workdir. Intervals resample the queries and the ground truth's
subsets, not the models: how far other seeds would move the figures, they do not
tell.
"""

import pathlib

import jax
import numpy as np
from absl import logging

from experiments import (
  dampings,
  evidence,
  launch,
  mislabelled,
  proxies,
  results,
  stages,
  tasks,
)
from experiments import findings as findings_lib
from experiments import limited_access_claims as claims_lib
from experiments import scores as scores_lib
from experiments import settings as settings_lib
from experiments.findings import Finding, Truth
from experiments.proxies import TARGET, Proxy
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import brittleness, retraining
from tda_jax.evaluation import factors as factors_lib
from tda_jax.report import groups


def main(config, workdir: pathlib.Path) -> None:
  settings_lib.check(config, 'limited_access')
  check(config)
  target = tasks.load(config)
  every = proxies.trained(config, target, workdir)
  target = every[TARGET].task
  truth = findings_lib.truth(config, target, workdir)
  found = measured(config, every, truth)
  flipped = flips(config, every[TARGET], found, workdir)
  rows = findings_lib.rows(found, truth)
  rows += mislabelled.rows(config, target, every, workdir)
  rows += [claims_lib.flip_row(name, f) for name, f in flipped.items()]
  claims = claims_lib.computed(config, found, flipped, rows)
  claims = results.judged(config, claims)
  results.tell(config, workdir, rows, claims)
  drawn = draw(config, found, truth, workdir / 'plots')
  of_target = {
    name.removeprefix(f'{TARGET}/'): f.factors
    for name, f in found.items()
    if name.startswith(TARGET)
  }
  method = evidence.pictured(of_target)
  name = f'{TARGET}/{method}'
  shown = evidence.shown(
    config, target, every[TARGET].runs, of_target[method], name,
    unit=found[name].unit, again=found[name].again,
  )  # fmt: skip
  results.page(config, workdir, __doc__, rows, claims, [drawn], shown)


def check(config) -> None:
  """Raises ValueError for a name that the config does not have."""
  methods = {*config.methods, *stages.methods_of(config)}
  names_of = {*config.proxies}
  scores = {f'{p}/{m}' for p in names_of for m in methods} | {'random'}
  for field, names, known in (
    ('falls', {p for chain in config.falls for p in chain}, names_of),
    ('distilled', {p for pair in config.distilled for p in pair}, names_of),
    ('unseen', {*config.unseen}, names_of),
    ('mislabelled.methods', {*config.mislabelled.methods}, methods),
    ('brittleness.scores', {*config.brittleness.scores}, scores),
  ):
    if unknown := sorted(names - known):
      raise ValueError(
        f'{field} names {", ".join(unknown)}: this config has'
        f' {", ".join(sorted(known))}'
      )


def measured(config, every: dict[str, Proxy], truth: Truth) -> dict:
  """'PROXY/METHOD', and 'random' -> Finding: LDS to the target's truth."""
  found = {}
  for proxy_name, proxy in every.items():
    for name, settings in stages.methods_of(config).items():
      if proxies.able(proxy, settings):
        settings = dampings.resolved(settings, {})
        found[f'{proxy_name}/{name}'] = _finding(proxy, name, settings, truth)
  floor = _finding(every[TARGET], 'random', {'kind': 'random'}, truth)
  return {**found, 'random': floor}


def flips(
  config, target: Proxy, found: dict[str, Finding], workdir: pathlib.Path
) -> dict[str, np.ndarray]:
  """Which queries turn wrong without their top supporters, by scores' name.

  The target is retrained as it was trained; who was right before, the target's
  models say.
  """
  settings = config.brittleness
  task, out = target.task, {}
  queries = rows_lib.take(task.queries, slice(0, settings.queries))
  problem = task.problem._replace(measure=brittleness.lead)
  before = retraining.measures(problem, target.runs.params, queries).T
  for name in settings.scores:
    if name not in found:
      continue
    scores = factors_lib.together(found[name].factors)
    scores = scores[:, : settings.queries]
    after = brittleness.leads(
      task.problem,
      task.recipe,
      task.train,
      queries,
      brittleness.top(scores, settings.removed),
      settings.repeats,
      jax.random.key(config.seed),
      workdir / 'brittleness' / name,
      at_once=settings.at_once,
    )
    out[name] = brittleness.flips(before, after)
  return out


def draw(config, found, truth: Truth, folder: pathlib.Path) -> str:
  """LDS of the averaged scores by proxy, a colour a method."""
  folder.mkdir(exist_ok=True)
  names = list(config.proxies)
  methods = dict.fromkeys(n.split('/')[1] for n in found if '/' in n)
  spans = {
    method: [_span(found.get(f'{name}/{method}')) for name in names]
    for method in methods
  }
  ceiling = truth.ceiling
  return groups.groups(
    names,
    spans,
    folder / f'{config.setting}_lds.png',
    f'LDS to the target, mean of {config.members} models a proxy',
    ceiling=(ceiling.value, ceiling.low, ceiling.high),
    floor=_span(found['random']),
    title=f'Attribution by proxies: {results.name_of(config)}',
  )


def _finding(proxy: Proxy, name, settings, truth: Truth) -> Finding:
  factors, facts = proxies.scores(proxy, name, settings)
  found = findings_lib.of_scores(factors, truth, sizes=())
  if found.members > 1:
    scores_lib.uncertainty(proxy.config, proxy.folder, name, factors)
  label = f'{proxy.folder.name}/{name}'
  logging.info('%s: LDS %.3f', label, found.ensemble.value)

  def again(queries):
    asked = proxy._replace(task=proxy.task._replace(queries=queries))
    label = scores_lib.predicted(name, queries)
    return proxies.scores(asked, label, settings)[0]

  unit = scores_lib.unit(proxy.config, settings, proxy.task)
  return found._replace(facts=facts, unit=unit, again=again)


def _span(finding: Finding | None):
  if finding is None:
    return None
  e = finding.ensemble
  return e.value, e.low, e.high


if __name__ == '__main__':
  launch.launch(main)
