"""Efficient ensembles (Deng et al. 2024): LDS against what an ensemble costs.

Trains I models, makes D variants of each without training (dropout masks, fresh
projections) or by a short one (LoRA adapters), and tells what LDS each ensemble
of I x D members reaches for how much training, scoring and storage: a table,
results.json, plots and report.html in the workdir. Intervals resample the queries
and the ground truth's subsets, not the models: they do not include
variation over seeds.
"""

import logging
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.efficient_ensembles import claims as claims_lib
from experiments.efficient_ensembles import frontier
from experiments.shared import (
  dampings,
  ensembles,
  evidence,
  results,
  tasks,
)
from experiments.shared import findings as findings_lib
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared import settings as settings_lib
from experiments.shared.ensembles import Members
from experiments.shared.scored import Scored
from tda_jax.evaluation import bootstrap, factors, lds
from tda_jax.report import plots
from tda_jax.training import ensembles as ensembles_lib

OF_TRAK = ('forward', 'projections')  # where only TRAK's factors differ


class Part(NamedTuple):
  """Scores of members [I, D, N, Q], and the seconds that one took."""

  scores: np.ndarray
  seconds: float


class Ensemble(NamedTuple):
  """One ensemble of I models x D variants.

  Attributes:
    lds: of its scores.
    training, serving: seconds.
    storage: MB.
  """

  models: int
  variants: int
  lds: bootstrap.Estimate
  training: float
  serving: float
  storage: float


def main(config, workdir: pathlib.Path) -> None:
  """Runs the Efficient Ensembles experiment and writes its results into the workdir."""
  settings_lib.check(config, 'efficient_ensembles')
  check(config)
  task = tasks.load(config)
  models = ensembles.trained(config, task, workdir)
  true = findings_lib.truth(config, task, workdir)
  variants_of = {
    kind: ensembles.make(kind, count, config, task, models, workdir)
    for kind, count in map(ensembles.named, config.ensembles)
  }
  kinds = [*variants_of, *(['forward'] if 'dropout' in variants_of else [])]
  measured_ensembles, of_models, points = {}, {}, []
  for name, method in scored_lib.of(config).items():
    method = dampings.resolved(method, {})
    for kind in kinds:
      if kind in OF_TRAK and method.kind != 'trak':
        continue
      parts, cost = scored(config, method, kind, task, variants_of, workdir)
      measured_ensembles[name, kind] = measured(config, cost, parts, true)
      if kind == 'naive':
        of_models[name] = tuple(part.scores[:, 0] for part in parts)
        if len(parts[0].scores) > 1:
          label = f'{name}_naive'
          scores_lib.uncertainty(config, workdir, label, of_models[name])
      if kind == 'halves':
        points += frontier.of_own_rows(
          config, name, parts, measured_ensembles[name, kind], true
        )
      best = max(measured_ensembles[name, kind], key=lambda e: e.lds.value)
      logging.info(
        '%s, %s: LDS %.3f of %d x %d',
        *(name, kind, best.lds.value, best.models, best.variants),
      )
  points += frontier.of_ensembles(measured_ensembles)
  points += frontier.of_datamodels(
    config, task, of_models, measured_ensembles, true, workdir
  )
  savings = claims_lib.savings(measured_ensembles)
  rows = [
    *result_rows(measured_ensembles, true),
    *claims_lib.saving_rows(savings),
    *frontier.rows(points),
  ]
  rows += claims_lib.control_rows(measured_ensembles)
  claims = claims_lib.computed(config, measured_ensembles, savings)
  claims = results.judged(config, claims)
  results.write_results(config, workdir, rows, claims)
  drawn = draw(config, measured_ensembles, true, workdir / 'plots')
  drawn += frontier.draw(config, points, true, workdir / 'plots')
  shown = answers(config, task, models, of_models, variants_of, workdir)
  results.page(config, workdir, __doc__, rows, claims, drawn, shown)


def answers(
  config, task, models: Members, of_models, variants_of, workdir
) -> evidence.Shown:
  """What the page says first, by the models themselves."""
  name = evidence.pictured(of_models)
  method = dampings.resolved(scored_lib.of(config)[name], {})

  def again(queries):
    label = scores_lib.predicted(name, queries)
    of, asked = task._replace(queries=queries), method._replace(name=label)
    parts, _ = scored(config, asked, 'naive', of, variants_of, workdir)
    return tuple(part.scores[:, 0] for part in parts)

  unit, factors = scores_lib.unit(method, task), of_models[name]
  return evidence.shown(
    config, task, models.runs, factors, name, unit=unit, again=again
  )


def check(config) -> None:
  """Raises ValueError for a grid of which a part could not be measured."""
  named = [ensembles.named(text) for text in config.ensembles]
  kinds = [kind for kind, _ in named]
  if 'naive' not in kinds or len({*kinds}) < len(kinds):
    raise ValueError(
      f'ensembles={config.ensembles}: give naive, which the others are compared'
      ' with, and every other kind once at most'
    )
  most = max(count for _, count in named)
  if max(config.models) > config.members or max(config.variants) > most:
    raise ValueError(
      f'models={config.models} x variants={config.variants} are more than'
      f' {config.members} members and {most} variants: give smaller ones'
    )
  if 1 not in config.variants:
    raise ValueError(
      f'variants={config.variants}: begin with 1, of which naive ensembles are'
    )


def scored(
  config, method: Scored, kind, task, variants_of: dict[str, Members], workdir
) -> tuple[list[Part], Members]:
  """The scores of a method, or the factors whose means make those of TRAK.

  Returns:
    (parts, the members that the ensemble has to train and store).
  """
  models = method.models or config.members
  varied = min(models, method.varied or config.varied)

  def part(label, method, of, kind):
    members = variants_of[kind]
    most = min(method.variants or members.variants, members.variants)
    count = models if members.variants == 1 else varied
    chosen = np.arange(count)[:, None] * members.variants + np.arange(most)
    scores = scores_lib.of_members(
      config,
      label,
      method,
      of._replace(problem=members.problem),
      ensembles_lib.members_at(members.runs, chosen.ravel()),
      workdir,
    )
    facts = scores_lib.facts(config, workdir, label, len(scores))
    shape = (count, most, *scores.shape[1:])
    return Part(
      scores.reshape(shape), float(np.median([f['seconds'] for f in facts]))
    )

  of_slopes = {'forward': 'dropout', 'projections': 'naive'}.get(kind, kind)
  cost = variants_of[of_slopes if kind == 'forward' else kind]
  if method.kind != 'trak':
    return [part(f'{method.name}_{kind}', method, task, kind)], cost
  # Masks on the second factor only; projections are of the first only.
  kinds = (of_slopes, 'naive' if kind == 'forward' else kind)
  parts = scores_lib.factors_of_trak(method, task).items()
  return [
    part(f'{method.name}_{of}/{factor}', *given, of)
    for (factor, given), of in zip(parts, kinds, strict=True)
  ], cost


def measured(
  config, members: Members, parts: list[Part], true
) -> list[Ensemble]:
  """Every ensemble of the grid, of its first models and variants."""
  models = min(part.scores.shape[0] for part in parts)
  variants = max(part.scores.shape[1] for part in parts)
  outcomes = true.outcomes.mean(1)
  out = []
  for i in (i for i in config.models if i <= models):
    for d in (d for d in config.variants if d <= variants):
      scores = factors.together([_flat(p.scores[:i, :d]) for p in parts])
      of = lambda cost, i=i, d=d: i * cost[0] + i * d * cost[1]
      out.append(
        Ensemble(
          models=i,
          variants=d,
          lds=lds.interval(
            scores, outcomes, true.subsets, resamples=findings_lib.RESAMPLES
          ),
          training=of(members.training),
          serving=sum(p.seconds * i * min(d, p.scores.shape[1]) for p in parts),
          storage=of(members.storage),
        )
      )
  return out


def _flat(scores):
  return scores.reshape(-1, *scores.shape[2:])


def result_rows(measured_ensembles: dict, true) -> list[dict]:
  """LDS of each ensemble, and what it cost."""
  out = []
  for (name, kind), of_kind in measured_ensembles.items():
    for e in of_kind:
      whole = kind in ensembles.WHOLE
      size = f'{e.models}' if whole else f'{e.models} x {e.variants}'
      row = {'method': f'{name}, {kind} {size}', 'n': e.models * e.variants}
      low, high = e.lds.low, e.lds.high
      out.append(
        {**row, 'metric': 'lds', 'value': e.lds.value, 'low': low, 'high': high}
      )
      for cost, unit in claims_lib.COSTS.items():
        if np.isnan(getattr(e, cost)):
          continue
        out.append(
          {**row, 'metric': f'{cost}, {unit}', 'value': getattr(e, cost)}
        )
  top = true.ceiling
  out.append(
    {
      'method': 'perfect predictor',
      'metric': 'ceiling',
      'value': top.value,
      'low': top.low,
      'high': top.high,
    }
  )
  return out


def draw(
  config, measured_ensembles: dict, true, folder: pathlib.Path
) -> list[str]:
  """LDS against each cost: of every kind, what no cheaper ensemble reaches."""
  folder.mkdir(exist_ok=True)
  top = true.ceiling
  paths = []
  for name in dict.fromkeys(name for name, _ in measured_ensembles):
    kinds = {
      kind: of_kind
      for (of, kind), of_kind in measured_ensembles.items()
      if of == name
    }
    for cost, unit in claims_lib.COSTS.items():
      if any(np.isnan(getattr(e, cost)) for x in kinds.values() for e in x):
        continue
      curves = [_front(kind, of_kind, cost) for kind, of_kind in kinds.items()]
      paths.append(
        plots.points(
          curves,
          folder / f'{config.setting}_{name}_{cost}.png',
          f'{cost}, {unit}',
          'LDS',
          ceiling=(top.value, top.low, top.high),
          title=f'{name}: LDS against {cost}, {results.name_of(config)}',
          ticks=False,
        )
      )
  return paths


def _front(kind, of_kind: list[Ensemble], cost) -> plots.Curve:
  """The ensembles that are better than all cheaper ones."""
  best, kept = -np.inf, []
  for e in sorted(of_kind, key=lambda e: (getattr(e, cost), -e.lds.value)):
    if e.lds.value > best:
      best = e.lds.value
      kept.append(e)
  spans = [(e.lds.value, e.lds.low, e.lds.high) for e in kept]
  return plots.Curve(
    kind, [getattr(e, cost) for e in kept], *zip(*spans, strict=True)
  )
