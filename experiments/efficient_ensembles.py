"""Efficient ensembles (Deng et al. 2024): LDS against what an ensemble costs.

Trains I models, makes D variants of each without training (dropout masks, fresh
projections) or by a short one (LoRA adapters), and tells what LDS each ensemble
of I x D members reaches for how much training, scoring and storage: a table,
results.json, plots and report.html in the workdir. Intervals resample the queries
and the ground truth's subsets, not the models: how far other seeds would move the
figures, they do not tell.
"""

import logging
import pathlib
from typing import NamedTuple

import numpy as np

from experiments import (
  dampings,
  ensembles,
  evidence,
  launch,
  results,
  stages,
  tasks,
)
from experiments import efficient_ensembles_claims as claims_lib
from experiments import findings as findings_lib
from experiments import scores as scores_lib
from experiments import settings as settings_lib
from experiments.ensembles import Members
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
  settings_lib.check(config, 'efficient_ensembles')
  check(config)
  task = tasks.load(config)
  models = ensembles.trained(config, task, workdir)
  true = findings_lib.truth(config, task, workdir)
  made = {
    kind: ensembles.make(kind, count, config, task, models, workdir)
    for kind, count in map(ensembles.named, config.ensembles)
  }
  kinds = [*made, *(['forward'] if 'dropout' in made else [])]
  found, of_models = {}, {}
  for name, settings in stages.methods_of(config).items():
    for kind in kinds:
      if kind in OF_TRAK and settings['kind'] != 'trak':
        continue
      parts, cost = scored(config, name, kind, settings, task, made, workdir)
      found[name, kind] = measured(config, cost, parts, true)
      if kind == 'naive':
        of_models[name] = tuple(part.scores[:, 0] for part in parts)
        if len(parts[0].scores) > 1:
          label = f'{name}_naive'
          scores_lib.uncertainty(config, workdir, label, of_models[name])
      best = max(found[name, kind], key=lambda e: e.lds.value)
      logging.info(
        '%s, %s: LDS %.3f of %d x %d',
        *(name, kind, best.lds.value, best.models, best.variants),
      )
  savings = claims_lib.savings(found)
  rows = [*result_rows(found, true), *claims_lib.saving_rows(savings)]
  rows += claims_lib.control_rows(found)
  claims = claims_lib.computed(config, found, savings)
  claims = results.judged(config, claims)
  results.tell(config, workdir, rows, claims)
  drawn = draw(config, found, true, workdir / 'plots')
  shown = answers(config, task, models, of_models, made, workdir)
  results.page(config, workdir, __doc__, rows, claims, drawn, shown)


def answers(
  config, task, models: Members, of_models, made, workdir
) -> evidence.Shown:
  """What the page says first, by the models themselves."""
  method = evidence.pictured(of_models)
  settings = dampings.resolved(stages.methods_of(config)[method], {})
  counts = ('models', 'varied', 'variants')
  bare = {k: v for k, v in settings.items() if k not in counts}

  def again(queries):
    label = scores_lib.predicted(method, queries)
    of = task._replace(queries=queries)
    parts, _ = scored(config, label, 'naive', settings, of, made, workdir)
    return tuple(part.scores[:, 0] for part in parts)

  unit, factors = scores_lib.unit(config, bare, task), of_models[method]
  return evidence.shown(
    config, task, models.runs, factors, method, unit=unit, again=again
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
  config, name, kind, settings, task, made: dict[str, Members], workdir
) -> tuple[list[Part], Members]:
  """The scores of a method, or the factors whose means make those of TRAK.

  `models` and `variants` of the settings are how many of each are scored, and
  `varied` how many of the models where each has variants.

  Returns:
    (parts, the members that the ensemble has to train and store).
  """
  settings = dampings.resolved(settings, {})
  models = settings.pop('models', config.members)
  varied = min(models, settings.pop('varied', config.varied))
  variants = settings.pop('variants', None)

  def part(label, settings, of, kind):
    own = made[kind]
    most = own.variants if variants is None else min(variants, own.variants)
    count = models if own.variants == 1 else varied
    chosen = np.arange(count)[:, None] * own.variants + np.arange(most)
    scores = scores_lib.of_members(
      config,
      label,
      settings,
      of._replace(problem=own.problem),
      ensembles_lib.members_at(own.runs, chosen.ravel()),
      workdir,
    )
    facts = scores_lib.facts(config, workdir, label, len(scores))
    shape = (count, most, *scores.shape[1:])
    return Part(
      scores.reshape(shape), float(np.median([f['seconds'] for f in facts]))
    )

  of_slopes = {'forward': 'dropout', 'projections': 'naive'}.get(kind, kind)
  cost = made[of_slopes if kind == 'forward' else kind]
  if settings['kind'] != 'trak':
    return [part(f'{name}_{kind}', settings, task, kind)], cost
  # Masks on the second factor only; projections are of the first only.
  kinds = (of_slopes, 'naive' if kind == 'forward' else kind)
  parts = scores_lib.factors_of_trak(settings, task).items()
  return [
    part(f'{name}_{of}/{factor}', *own, of)
    for (factor, own), of in zip(parts, kinds, strict=True)
  ], cost


def measured(config, own: Members, parts: list[Part], true) -> list[Ensemble]:
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
          training=of(own.training),
          serving=sum(p.seconds * i * min(d, p.scores.shape[1]) for p in parts),
          storage=of(own.storage),
        )
      )
  return out


def _flat(scores):
  return scores.reshape(-1, *scores.shape[2:])


def result_rows(found: dict, true) -> list[dict]:
  """LDS of each ensemble, and what it cost."""
  out = []
  for (name, kind), every in found.items():
    for e in every:
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
  out.append({
      'method': 'perfect predictor', 'metric': 'ceiling', 'value': top.value,
      'low': top.low, 'high': top.high,
  })  # fmt: skip
  return out


def draw(config, found: dict, true, folder: pathlib.Path) -> list[str]:
  """LDS against each cost: of every kind, what no cheaper ensemble reaches."""
  folder.mkdir(exist_ok=True)
  top = true.ceiling
  paths = []
  for name in dict.fromkeys(name for name, _ in found):
    kinds = {kind: every for (of, kind), every in found.items() if of == name}
    for cost, unit in claims_lib.COSTS.items():
      if any(np.isnan(getattr(e, cost)) for x in kinds.values() for e in x):
        continue
      curves = [_front(kind, every, cost) for kind, every in kinds.items()]
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


def _front(kind, every: list[Ensemble], cost) -> plots.Curve:
  """The ensembles that are better than all cheaper ones."""
  best, kept = -np.inf, []
  for e in sorted(every, key=lambda e: (getattr(e, cost), -e.lds.value)):
    if e.lds.value > best:
      best = e.lds.value
      kept.append(e)
  spans = [(e.lds.value, e.lds.low, e.lds.high) for e in kept]
  return plots.Curve(
    kind, [getattr(e, cost) for e in kept], *zip(*spans, strict=True)
  )


if __name__ == '__main__':
  launch.launch(main)
