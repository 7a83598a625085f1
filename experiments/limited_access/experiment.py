"""Attribution under limited access (Zhang et al. 2025): proxies for a target.

Trains a target and the proxies of the config, scores all pairs by each of them,
and tells which scores say what the rows do to the TARGET: LDS to its retrained
models, detection of wrong labels, and brittleness, between a floor (random) and
a ceiling (S0, the target's own models). A table, results.json, a plot and
report.html in the workdir. Intervals resample the queries and the ground truth's
subsets, not the models: they do not include
variation over seeds.
"""

import pathlib

import jax
import numpy as np
from absl import logging

from experiments.limited_access import claims as claims_lib
from experiments.limited_access import mislabelled, proxies
from experiments.limited_access.proxies import (
  RANDOM,
  TARGET,
  Key,
  Proxy,
  label,
)
from experiments.shared import (
  dampings,
  evidence,
  results,
  tasks,
)
from experiments.shared import findings as findings_lib
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared import settings as settings_lib
from experiments.shared.findings import Finding, Truth
from experiments.shared.scored import Scored
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import brittleness, retraining
from tda_jax.evaluation import factors as factors_lib
from tda_jax.report import groups


def main(config, workdir: pathlib.Path) -> None:
  """Runs the Limited Access experiment and writes its results into the workdir."""
  settings_lib.check(config, 'limited_access')
  check(config)
  target = tasks.load(config)
  proxies_by_name = proxies.trained(config, target, workdir)
  target = proxies_by_name[TARGET].task
  truth = findings_lib.truth(config, target, workdir)
  findings = measured(config, proxies_by_name, truth)
  flipped = flips(config, proxies_by_name[TARGET], findings, workdir)
  wrong = mislabelled.measured(config, target, proxies_by_name, workdir)
  rows = findings_lib.rows({label(k): f for k, f in findings.items()}, truth)
  rows += wrong.values()
  rows += [claims_lib.flip_row(name, f) for name, f in flipped.items()]
  claims = claims_lib.computed(config, findings, flipped, wrong)
  claims = results.judged(config, claims)
  results.write_results(config, workdir, rows, claims)
  drawn = draw(config, findings, truth, workdir / 'plots')
  of_target = {m: f for (proxy, m), f in findings.items() if proxy == TARGET}
  method = evidence.pictured(of_target)
  best = of_target[method]
  shown = evidence.shown(
    config,
    target,
    proxies_by_name[TARGET].runs,
    best.factors,
    label((TARGET, method)),
    unit=best.unit,
    again=best.again,
  )
  results.page(config, workdir, __doc__, rows, claims, [drawn], shown)


def check(config) -> None:
  """Raises ValueError for a name that the config does not have."""
  methods = {*config.methods, *scored_lib.named(config)}
  names_of = {*config.proxies}
  scores = {label((p, m)) for p in names_of for m in methods} | {'random'}
  for field, names, known in (
    ('controlled', {p for pair in config.controlled for p in pair}, names_of),
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


def measured(
  config, proxies_by_name: dict[str, Proxy], truth: Truth
) -> dict[Key, Finding]:
  """LDS to the target's truth, by proxy and method, and of random scores."""
  findings = {}
  for proxy_name, proxy in proxies_by_name.items():
    for name, method in scored_lib.of(proxy.config).items():
      if proxies.can_score(proxy, method):
        method = dampings.resolved(method, {})
        findings[proxy_name, name] = _finding(proxy, method, truth)
  random = Scored('random', {'kind': 'random'})
  floor = _finding(proxies_by_name[TARGET], random, truth)
  return {**findings, RANDOM: floor}


def flips(
  config, target: Proxy, findings: dict[Key, Finding], workdir: pathlib.Path
) -> dict[str, np.ndarray]:
  """Which queries turn wrong without their top supporters, by scores' name.

  The target is retrained as it was trained; who was right before, the target's
  models say.
  """
  settings = config.brittleness
  task, out = target.task, {}
  queries = rows_lib.take(task.queries, slice(0, settings.queries))
  problem = task.problem._replace(measure=brittleness.correct_class_margin)
  before = retraining.measures(problem, target.runs.params, queries).T
  named = {label(key): f for key, f in findings.items()}
  for name in settings.scores:
    if name not in named:
      continue
    scores = factors_lib.together(named[name].factors)
    scores = scores[:, : settings.queries]
    after = brittleness.margins(
      task.problem,
      task.recipe,
      task.train,
      queries,
      brittleness.top_rows(scores, settings.removed),
      repeats=settings.repeats,
      key=jax.random.key(config.seed),
      path=workdir / 'brittleness' / name,
      members_at_once=settings.members_at_once,
    )
    out[name] = brittleness.flips(before, after)
  return out


def draw(config, findings, truth: Truth, folder: pathlib.Path) -> str:
  """LDS of the averaged scores by proxy, a colour a method."""
  folder.mkdir(exist_ok=True)
  names = list(config.proxies)
  methods = dict.fromkeys(method for proxy, method in findings if proxy)
  spans = {
    method: [_span(findings.get((name, method))) for name in names]
    for method in methods
  }
  ceiling = truth.ceiling
  return groups.groups(
    names,
    spans,
    folder / f'{config.setting}_lds.png',
    f'LDS to the target, mean of {config.members} models a proxy',
    ceiling=(ceiling.value, ceiling.low, ceiling.high),
    floor=_span(findings[RANDOM]),
    title=f'Attribution by proxies: {results.name_of(config)}',
  )


def _finding(proxy: Proxy, method: Scored, truth: Truth) -> Finding:
  name = method.name
  factors, facts = proxies.scores(proxy, method)
  finding = findings_lib.of_scores(factors, truth, sizes=())
  if finding.members > 1:
    scores_lib.uncertainty(proxy.config, proxy.folder, name, factors)
  label = f'{proxy.folder.name}/{name}'
  logging.info('%s: LDS %.3f', label, finding.ensemble.value)

  def again(queries):
    asked = proxy._replace(task=proxy.task._replace(queries=queries))
    label = scores_lib.predicted(name, queries)
    return proxies.scores(asked, method._replace(name=label))[0]

  unit = scores_lib.unit(method, proxy.task)
  return finding._replace(facts=facts, unit=unit, again=again, scored=method)


def _span(finding: Finding | None):
  if finding is None:
    return None
  e = finding.ensemble
  return e.value, e.low, e.high
