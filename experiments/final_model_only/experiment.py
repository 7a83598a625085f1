"""Attribution of a model of which only the end is known (Wei et al. 2025).

Trains one model, trains it further with all rows and without each of some, and
tells which method's scores agree with what that changed, by the amount of
further training and by the number of averaged seeds: a table, results.json,
plots and report.html in the workdir. The measure is minus the loss.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.final_model_only import claims as claims_lib
from experiments.shared import dampings, results, stages, tasks
from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared import settings as settings_lib
from experiments.shared.scored import Scored
from tda_jax import trees
from tda_jax.evaluation import agreement, bootstrap
from tda_jax.report import plots

AGREEMENTS = {'cosine': agreement.cosine, 'spearman': agreement.spearman}
SEEDS = (1, 2, 5, 10, 20, 50, 100)


class Found(NamedTuple):
  """How one method agrees with further training.

  Attributes:
    by_point: name of the agreement -> [T, Q], with all seeds averaged.
    by_seeds: number of seeds k -> cosine [Q] at the best point, mean over
      disjoint groups of k seeds.
    seconds: of scoring all pairs.
    scored: what it was made with.
  """

  by_point: dict[str, np.ndarray]
  by_seeds: dict[int, np.ndarray]
  seconds: float
  scored: Scored | None = None


def main(config, workdir: pathlib.Path) -> None:
  """Runs the Final-Model-Only experiment and writes its results into the workdir."""
  settings_lib.check(config, 'final_model_only')
  task = tasks.load(config)
  run = stages.train(config, task, workdir)
  params = trees.row(run.params, 0)
  left, effects = stages.further(config, task, params, workdir)
  chosen = dampings.chosen(config, task, run, workdir)
  agreed_by = {}
  for name, scored in scored_lib.of(config).items():
    scored = dampings.resolved(scored, chosen)
    scores = scores_lib.of_members(config, name, scored, task, run, workdir)
    facts = scores_lib.facts(config, workdir, name, 1)[0]
    agreed = compared(scores[0][left], effects, facts['seconds'])
    agreed_by[name] = agreed._replace(scored=scored)
  points = config.further.points
  turn = turn_of_truth(effects)
  rows = result_rows(agreed_by, points, turn)
  claims = claims_lib.computed(agreed_by, points, config.plotted, turn)
  claims = results.judged(config, claims)
  results.write_results(config, workdir, rows, claims)
  drawn = draw(config, agreed_by, workdir / 'plots')
  results.page(config, workdir, __doc__, rows, claims, drawn)


def compared(scores, effects, seconds: float) -> Found:
  """Agreement of scores [L, Q] with effects [L, R, T, Q], query by query."""
  mean = effects.mean(1)
  by_point = {
    name: np.stack([of(scores, mean[:, t]) for t in range(mean.shape[1])])
    for name, of in AGREEMENTS.items()
  }
  repeats, by_seeds = effects.shape[1], {}
  for k in sorted({k for k in SEEDS if k <= repeats} | {repeats}):
    groups = [
      effects[:, g : g + k].mean(1) for g in range(0, repeats - k + 1, k)
    ]
    cosines = np.mean(
      [
        [agreement.cosine(scores, gold[:, t]) for t in range(gold.shape[1])]
        for gold in groups
      ],
      axis=0,
    )  # [T, Q]
    by_seeds[k] = cosines[cosines.mean(1).argmax()]
  return Found(by_point, by_seeds, seconds)


def turn_of_truth(effects) -> np.ndarray | None:
  """How far further training turns the truth from its first point to its last.

  One less the cosine of the first and last effects without their noise: that of
  half the seeds with the other half's, over what either has with itself,

    1 − cos(first, last′) / √(cos(first, first′) · cos(last, last′)),

  [Q]. 0 where either is no more than noise, in which no turn is seen.

  Args:
    effects: [L, R, T, Q]. None where there is one seed or one point.
  """
  seeds, points = effects.shape[1:3]
  if seeds < 2 or points < 2:
    return None
  one, other = (
    effects[:, : seeds // 2].mean(1),
    effects[:, seeds // 2 :].mean(1),
  )
  between = lambda s, t: agreement.cosine(one[:, s], other[:, t])
  across = (between(0, -1) + between(-1, 0)) / 2
  within = np.maximum(between(0, 0), 0) * np.maximum(between(-1, -1), 0)
  known = within > 0
  turn = 1 - across / np.sqrt(np.where(known, within, 1))
  return np.where(known, turn, 0.0)


def result_rows(agreed_by: dict[str, Found], points, turn) -> list[dict]:
  """Means over queries with their 95% bootstrap intervals."""
  out = []
  if turn is not None:
    metric = f'turn, epoch {points[0]:g} to {points[-1]:g}'
    value = bootstrap.of_queries(turn)
    out.append(results.row('ground truth', metric, value, len(turn)))
  for name, f in agreed_by.items():
    for metric, values in f.by_point.items():
      for point, value in zip(points, values, strict=True):
        out.append(_row(name, f'{metric}@epoch {point:g}', value, f.seconds))
    for k, value in f.by_seeds.items():
      seeds = '1 seed' if k == 1 else f'{k} seeds'
      out.append(_row(name, f'best cosine, {seeds}', value, f.seconds))
  return out


def draw(
  config, agreed_by: dict[str, Found], folder: pathlib.Path
) -> list[str]:
  """Agreement against further training, and against averaged seeds."""
  folder.mkdir(exist_ok=True)
  shown = {
    name: agreed_by[name] for name in config.plotted if name in agreed_by
  }
  shown = shown or agreed_by
  paths = [
    plots.points(
      [
        _curve(name, config.further.points, f.by_point[metric])
        for name, f in shown.items()
      ],
      folder / f'{config.setting}_{metric}.png',
      'epochs of further training',
      f'{metric} over rows left out, mean over queries',
      title=f'Agreement with further training: {results.name_of(config)}',
    )
    for metric in AGREEMENTS
  ]
  seeds = [
    _curve(name, list(f.by_seeds), np.stack(list(f.by_seeds.values())))
    for name, f in shown.items()
  ]
  paths.append(
    plots.points(
      seeds,
      folder / f'{config.setting}_seeds.png',
      'seeds averaged in further training',
      'cosine at the best epoch, mean over queries',
      title=f'Agreement by averaged seeds: {results.name_of(config)}',
    )
  )
  return paths


def _row(method, metric, values, seconds):
  row = results.row(method, metric, bootstrap.of_queries(values), len(values))
  return {**row, 'seconds': seconds}


def _curve(name, x, values):
  ends = [bootstrap.of_queries(value)[:3] for value in values]
  return plots.Curve(name, list(x), *np.transpose(ends))
