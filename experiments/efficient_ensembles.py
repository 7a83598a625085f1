"""Efficient ensembles (Deng et al. 2024): LDS against what an ensemble costs.

Trains I models, makes D variants of each without training (dropout masks, fresh
projections) or by a short one (LoRA adapters), and tells what LDS each ensemble
of I x D members reaches for how much training, scoring and storage: a table,
results.json and plots in the workdir.
"""

import functools
import logging
import pathlib
import time
import types
from typing import NamedTuple

import jax
import numpy as np

from experiments import efficient_ensembles_claims as claims_lib
from experiments import findings as findings_lib
from experiments import launch, stages, tasks
from tda_jax import trees
from tda_jax.evaluation import lds
from tda_jax.problem import Problem
from tda_jax.report import plots, table
from tda_jax.storage import record
from tda_jax.training import ensembles, members
from tda_jax.training.fit import Run

KINDS = ('naive', 'dropout', 'forward', 'projections', 'lora')
OF_TRAK = ('forward', 'projections')  # where only TRAK's factors differ
MASK = 8e-6  # MB of the key that a dropout mask is drawn from


class Members(NamedTuple):
  """I models with D variants each, and what they cost.

  Attributes:
    runs: I·D members, model by model.
    problem: of them.
    variants: D.
    training: seconds of (a model, a variant).
    storage: MB of (a model, a variant).
  """

  runs: Run
  problem: Problem
  variants: int
  training: tuple[float, float]
  storage: tuple[float, float]


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
  lds: lds.Estimate
  training: float
  serving: float
  storage: float


def main(config, workdir: pathlib.Path) -> None:
  task = tasks.load(config)
  runs, seconds = trained(config, task, workdir)
  true = findings_lib.truth(config, task, workdir)
  made = {
    kind: make(kind, config, task, runs, seconds, workdir)
    for kind in config.kinds
  }
  found = {}
  for name, settings in stages.methods_of(config).items():
    for kind in config.kinds:
      if kind in OF_TRAK and settings['kind'] != 'trak':
        continue
      parts = scored(config, name, kind, settings, task, made, workdir)
      found[name, kind] = measured(config, made[kind], parts, true)
      best = max(found[name, kind], key=lambda e: e.lds.value)
      logging.info(
        '%s, %s: LDS %.3f of %d x %d',
        *(name, kind, best.lds.value, best.models, best.variants),
      )
  savings = claims_lib.savings(found)
  rows = [*result_rows(found, true), *claims_lib.saving_rows(savings)]
  rows += claims_lib.control_rows(found)
  claims = claims_lib.computed(config, found, savings)
  record.results(
    workdir / 'results.json', config.experiment, config.setting, rows, claims
  )
  table.print_results(rows, f'{config.experiment} {config.setting}')
  table.print_claims(claims)
  for path in draw(config, found, true, workdir / 'plots'):
    print(f'plot: {path}')


def trained(config, task, workdir) -> tuple[Run, float]:
  """The models, and the seconds that training one took."""
  train = lambda: stages.train(config, task, workdir)
  return _timed(workdir / 'train', train, config.members)


def make(kind: str, config, task, runs, seconds, workdir) -> Members:
  """The members that all ensembles of this kind are made of.

  Args:
    seconds: of training one of the models.

  Raises:
    ValueError: unknown kind.
  """
  if kind not in KINDS:
    raise ValueError(
      f'unknown ensemble {kind!r}: use one of {", ".join(KINDS)}'
    )
  most = max(config.variants)
  key = jax.random.fold_in(jax.random.key(config.seed), KINDS.index(kind))
  size = _megabytes(runs.params) / config.members
  bare = Members(runs, task.problem, 1, (seconds, 0.0), (size, 0.0))
  if kind == 'naive':
    return bare
  if kind == 'projections':
    return bare._replace(runs=ensembles.repeated(runs, most), variants=most)
  if kind == 'lora':
    return adapted(config, task, bare, key, workdir)
  masked = ensembles.masked(runs, most, key)
  return bare._replace(runs=masked, variants=most, storage=(size, MASK))


def adapted(config, task, bare: Members, key, workdir) -> Members:
  """L LoRA adapters on each model, fine-tuned from seeds of their own."""
  settings = config.lora
  bases = ensembles.repeated(bare.runs, settings.adapters).params
  count = trees.count(bases)
  init = functools.partial(
    lora.init,
    params=jax.eval_shape(lambda: trees.row(bare.runs.params, 0)),
    rank=settings.rank,
    targets=tuple(settings.targets),
  )
  of_adapters = types.SimpleNamespace(
    model=config.model, training=settings.training
  )
  problem = lora.adapted(task.problem, settings.alpha)
  train = lambda: members.train(
    problem,
    tasks.recipe(of_adapters, init),
    task.train,
    jax.random.split(key, count),
    frozen=bases,
    directory=workdir / 'lora',
    progress=True,
  )
  runs, seconds = _timed(workdir / 'lora', train, count)
  size = _megabytes(runs.params) / count
  return Members(
    runs,
    problem,
    settings.adapters,
    (bare.training[0], seconds),
    (bare.storage[0], size),
  )


def scored(
  config, name, kind, settings, task, made: dict[str, Members], workdir
) -> list[Part]:
  """The scores of a method, or the factors whose means make those of TRAK.

  `models` and `variants` of the settings are how many of each are scored.
  """
  settings = dict(settings)
  models = settings.pop('models', config.members)
  variants = settings.pop('variants', max(config.variants))

  def part(settings, kind, suffix=''):
    own = made[kind]
    most = min(variants, own.variants)
    chosen = (
      np.arange(models)[:, None] * own.variants + np.arange(most)
    ).ravel()
    label = f'{name}{suffix}_{kind}'
    scores = stages.scores(
      config,
      label,
      settings,
      task._replace(problem=own.problem),
      ensembles.members_at(own.runs, chosen),
      workdir,
    )
    facts = stages.facts(config, workdir, label, len(scores))
    seconds = [f['prepare_seconds'] + f['score_seconds'] for f in facts]
    shape = (models, most, *scores.shape[1:])
    return Part(scores.reshape(shape), float(np.median(seconds)))

  if settings['kind'] != 'trak':
    return [part(settings, kind)]
  # Masks on the second factor only; projections are of the first only.
  of_kernel = 'naive' if kind == 'forward' else kind
  of_slopes = {'forward': 'dropout', 'projections': 'naive'}.get(kind, kind)
  kernel = {**settings, 'kind': 'trak_kernel'}
  return [
    part(kernel, of_kernel, '_kernel'),
    part({'kind': 'trak_slopes'}, of_slopes, '_slopes'),
  ]


def measured(config, own: Members, parts: list[Part], true) -> list[Ensemble]:
  """Every ensemble of the grid, of its first models and variants."""
  models, _ = parts[0].scores.shape[:2]
  variants = max(part.scores.shape[1] for part in parts)
  outcomes = true.outcomes.mean(1)
  out = []
  for i in (i for i in config.models if i <= models):
    for d in (d for d in config.variants if d <= variants):
      scores = np.prod([p.scores[:i, :d].mean((0, 1)) for p in parts], axis=0)
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


def result_rows(found: dict, true) -> list[dict]:
  """LDS of each ensemble, and what it cost."""
  out = []
  for (name, kind), every in found.items():
    for e in every:
      size = f'{e.models}' if kind == 'naive' else f'{e.models} x {e.variants}'
      row = {'method': f'{name}, {kind} {size}', 'n': e.models * e.variants}
      low, high = e.lds.low, e.lds.high
      out.append(
        {**row, 'metric': 'lds', 'value': e.lds.value, 'low': low, 'high': high}
      )
      for cost, unit in claims_lib.COSTS.items():
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
      curves = [_front(kind, every, cost) for kind, every in kinds.items()]
      paths.append(
        plots.points(
          curves,
          folder / f'{config.setting}_{name}_{cost}.png',
          f'{cost}, {unit}',
          'LDS',
          ceiling=(top.value, top.low, top.high),
          title=f'{name}: LDS against {cost}, {config.setting}',
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


def _timed(folder: pathlib.Path, train, count: int) -> tuple[Run, float]:
  """What `train` returns and the seconds of one model, kept in `folder`.

  A killed process takes its seconds with it: the time is then a lower bound,
  and a warning says so.
  """
  file = folder / 'seconds.json'
  continued = folder.exists() and not file.exists()
  started = time.monotonic()
  runs = train()
  if not file.exists():
    if continued:
      logging.warning('%s is without the time of a killed process', file)
    record.write_json(file, {'seconds': time.monotonic() - started})
  return runs, record.read_json(file)['seconds'] / count


def _megabytes(tree) -> float:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / 1e6


if __name__ == '__main__':
  launch.launch(main)
