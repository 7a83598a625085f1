"""The plots and the HTML page of an experiment."""

import pathlib

import jax
import numpy as np

from experiments.shared import evidence, results, tasks
from tda_jax import chosen
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers
from tda_jax.report import page, plots
from tda_jax.storage import record


def report(
  config, task, runs, *, findings, truth, rows, claims, workdir, folder
) -> str:
  """Writes the plots and report.html into `folder`; returns its path."""
  method = evidence.pictured(findings)
  shown = evidence.shown(
    config,
    task,
    runs,
    findings[method].factors,
    method,
    unit=findings[method].unit,
    again=findings[method].again,
  )
  return page.write(
    folder / 'report.html',
    title=results.title(config),
    facts={**record.environment(), 'config': config.to_dict()},
    rows=rows,
    claims=claims,
    plots=draw(config, findings, truth, workdir, folder),
    coverage=_coverage(task, runs),
    **shown._asdict(),
  )


def draw(config, findings, truth, workdir, folder) -> list[page.Plot]:
  """Every plot that the methods of the run allow."""
  folder = pathlib.Path(folder) / 'plots'
  folder.mkdir(exist_ok=True)
  path = lambda kind: folder / f'{config.setting}_{kind}.png'
  ceiling = _span(truth.ceiling)
  out = [_bars(findings, ceiling, path('lds'))]
  if residuals := _residuals(findings):
    out.append(
      page.Plot(
        plots.residuals(residuals, path('residual')),
        'Residual against solver steps',
        'Relative residual of the solve, falling with steps, by method',
      )
    )
  if curves := _dampings(config, findings, workdir):
    literal = not tasks.is_users(config) and config.paper_damping or None
    out.append(
      page.Plot(
        plots.damping(curves, path('damping'), literal=literal),
        'LDS against damping',
        'LDS by damping, a line for each solver',
      )
    )
  if sizes := _sizes(findings):
    out.append(
      page.Plot(
        plots.ensemble(sizes, path('ensemble'), ceiling=ceiling),
        'LDS against ensemble size',
        'LDS rising with the number of averaged models, by method',
      )
    )
  return out


def _bars(findings, ceiling, path) -> page.Plot:
  """LDS of single models and of the ensemble, a bar each, by method."""
  most = max(f.members for f in findings.values())
  bars = [
    plots.Bar(
      name if f.members == most else f'{name} (of {f.members})',
      _span(f.single),
      _span(f.ensemble) if f.members > 1 else None,
    )
    for name, f in findings.items()
  ]
  return page.Plot(
    plots.bars(bars, path, ceiling=ceiling, members=most),
    'LDS of every method',
    'Bars of the LDS of single models and of the ensemble, by method',
  )


def _sizes(findings):
  """Curves of LDS by ensemble size, those that a page pictures first."""
  pictured_first = lambda item: item[0] not in evidence.PICTURED
  return [
    plots.Curve(name, f.sizes, *_band(f.by_size))
    for name, f in sorted(findings.items(), key=pictured_first)
    if f.members > 2
  ][:12]


def _residuals(findings):
  out = []
  for name, f in findings.items():
    traces = [x['residual'] for x in f.facts if x.get('residual')]
    if traces and len(traces[0]) > 1:
      traces = np.array(traces)
      out.append(
        plots.Curve(
          name,
          f.facts[0]['steps'],
          traces.mean(0),
          traces.min(0),
          traces.max(0),
        )
      )
  return out


def _dampings(config, findings, workdir):
  """Curves of a damping ablation, else of what dampings were chosen by."""
  curves = {}
  for f in findings.values():
    if f.scored.curve:
      curve = curves.setdefault(f.scored.curve, {})
      curve[f.scored.settings['damping']] = f.single.value
  file = pathlib.Path(workdir) / 'chosen.json'
  if not curves and config.choose and file.exists():
    for name, curve in record.read_json(file)['validation_lds'].items():
      curves[f'{name} (validation)'] = {float(k): v for k, v in curve.items()}
  return [
    plots.Curve(name, sorted(curve), [curve[k] for k in sorted(curve)])
    for name, curve in curves.items()
  ]


def _coverage(task, runs):
  params = jax.tree.map(lambda leaf: leaf[0], runs.params)
  outputs = evidence.outputs_of(task, runs)
  problem, params = chosen.restricted(
    task.problem._replace(outputs=outputs), params
  )
  example = rows_lib.take(task.train, 0)
  found = layers.find(problem.outputs, params, example, problem.as_leaf)
  return layers.coverage(found, params)


def _span(estimate):
  return estimate.value, estimate.low, estimate.high


def _band(estimates):
  value, low, high = zip(*map(_span, estimates), strict=True)
  return value, low, high
