"""LDS against all seconds: ensembles, and what retraining itself buys.

Where a model is trained in the time that attribution takes, two more ways lead to
scores: half-subset models, each scored on its own rows only, and datamodels, fitted
to retrained models from nothing or towards an ensemble's scores.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.shared import findings as findings_lib
from experiments.shared import results, stages, timing
from tda_jax.data.subsets import half_subsets
from tda_jax.evaluation import bootstrap, datamodel, factors, lds
from tda_jax.report import plots

OWN, PLAIN, TOWARDS = 'own_rows', 'datamodel', 'datamodel_towards'


class Point(NamedTuple):
  """Scores by one way: their LDS, and all seconds that they took.

  Attributes:
    line: of the plot that it is of.
    name: of its rows.
    models: how many models were trained for it.
    seconds: of training them, scoring them and fitting.
  """

  line: str
  name: str
  models: int
  lds: bootstrap.Estimate
  seconds: float


def of_ensembles(measured: dict) -> list[Point]:
  """The ensembles of models that were trained whole, or on halves."""
  return [
    Point(
      f'{name}, {kind}',
      f'{name}, {kind} {e.models}',
      e.models,
      e.lds,
      e.training + e.serving,
    )
    for (name, kind), of_kind in measured.items()
    if kind in ('naive', 'halves')
    for e in of_kind
  ]


def of_own_rows(config, name: str, halves: list, measured: list, true):
  """The ensembles of halves, of whose models each counts for its own rows.

  Args:
    halves: the scores of models on halves, [I, 1, N, Q] a factor.
    measured: of all their rows; costs are the same.
  """
  whole = [part.scores[:, 0] for part in halves]
  rows, out = whole[0].shape[1], []
  subsets = half_subsets(config.seed + 2, rows, config.members)
  for e in measured:
    chosen = subsets[: e.models]
    if len(np.unique(chosen)) < rows:
      continue  # rows that no model was trained on have no score
    scores = factors.of_own_rows([f[: e.models] for f in whole], chosen)
    label = f'{name}, {OWN}'
    seconds = e.training + e.serving
    out.append(
      Point(label, f'{label} {e.models}', e.models, _lds(scores, true), seconds)
    )
  return out


def of_datamodels(
  config, task, of_models: dict, measured: dict, true, workdir
) -> list[Point]:
  """Datamodels of the first M retrained models, alone and towards scores.

  Args:
    of_models: method -> factors of its models' scores [I, N, Q], whose ensembles
      of 1 and of I are what datamodels are fitted towards.
  """
  if not config.retrained:
    return []
  subsets, outcomes = stages.retrained(config, task, workdir)
  each = timing.on(workdir, 'retrained') / len(subsets)
  rows = len(next(iter(of_models.values()))[0][0])
  out = []

  def fit(line, name, count, scores, models=0, before=0.0):
    name = f'{name}, {count} retrained'
    given = subsets[:count], outcomes[:count], rows, scores
    stage = f'datamodels/{name}'  # timed once: a second run says the same
    found = timing.timed(workdir, stage, lambda: datamodel.datamodel(*given))
    seconds = before + count * each + timing.on(workdir, stage)
    of_rows = _lds(found.scores, true)
    out.append(Point(line, name, models + count, of_rows, seconds))

  for count in config.retrained:
    fit(PLAIN, PLAIN, count, None)
  for name, parts in of_models.items():
    naive = measured[name, 'naive']
    for e in {e.models: e for e in (naive[0], naive[-1])}.values():
      scores = factors.together([part[: e.models] for part in parts])
      line = f'{TOWARDS}_{name} {e.models}'
      for count in config.retrained:
        fit(line, line, count, scores, e.models, e.training + e.serving)
  return out


def rows(points: list[Point]) -> list[dict]:
  """Result rows: all seconds of each point, and the LDS of those that are new."""
  out = []
  for p in points:
    if any(word in p.line for word in (OWN, PLAIN)):
      out.append(results.row(p.name, 'lds', p.lds, p.models))
    if not np.isnan(p.seconds):
      out.append(
        {
          'method': p.name,
          'metric': 'all seconds, s',
          'value': p.seconds,
          'n': p.models,
        }
      )
  return out


def draw(config, points: list[Point], true, folder: pathlib.Path) -> list[str]:
  """LDS against all seconds, a line for each way; none where they are not known."""
  lines: dict[str, Any] = {}
  for p in points:
    if not np.isnan(p.seconds):
      lines.setdefault(p.line, []).append(p)
  if not lines:
    return []
  folder.mkdir(exist_ok=True)
  top = true.ceiling
  return [
    plots.points(
      [_curve(line, of_line) for line, of_line in _best(lines).items()],
      folder / f'{config.setting}_frontier.png',
      'all seconds: training, scoring, fitting',
      'LDS',
      ceiling=(top.value, top.low, top.high),
      title=f'LDS against all seconds, {results.name_of(config)}',
      ticks=False,
    )
  ]


def _best(lines: dict, most: int = 8) -> dict:
  """The lines that reach the highest LDS, at most as many as have colours."""
  height = lambda line: max(p.lds.value for p in lines[line])
  return {line: lines[line] for line in sorted(lines, key=height)[-most:]}


def _curve(line: str, points: list[Point]) -> plots.Curve:
  points = sorted(points, key=lambda p: p.seconds)
  spans = [(p.lds.value, p.lds.low, p.lds.high) for p in points]
  return plots.Curve(
    line, [p.seconds for p in points], *zip(*spans, strict=True)
  )


def _lds(scores, true) -> bootstrap.Estimate:
  outcomes = true.outcomes.mean(1)
  return lds.interval(
    scores, outcomes, true.subsets, resamples=findings_lib.RESAMPLES
  )
