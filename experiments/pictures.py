"""The plots and the HTML page of an experiment."""

import pathlib

import jax
import numpy as np

from experiments import evidence, results, tasks
from tda_jax import chosen
from tda_jax.curvature import layers
from tda_jax.data import rows as rows_lib
from tda_jax.report import page, plots
from tda_jax.storage import record


def report(
  config, task, runs, found, truth, rows, claims, workdir, folder
) -> str:
  """Writes the plots and report.html into `folder`; returns its path."""
  method = evidence.pictured(found)
  shown = evidence.shown(
    config, task, runs, found[method].factors, method,
    unit=found[method].unit, again=found[method].again,
  )  # fmt: skip
  return page.write(
    folder / 'report.html',
    title=results.title(config),
    facts={**record.environment(), 'config': config.to_dict()},
    rows=rows,
    claims=claims,
    plots=draw(config, found, truth, workdir, folder),
    coverage=_coverage(task, runs),
    **shown._asdict(),
  )


def draw(config, found, truth, workdir, folder) -> list[page.Plot]:
  """Every plot that the methods of the run allow."""
  folder = pathlib.Path(folder) / 'plots'
  folder.mkdir(exist_ok=True)
  ceiling = _span(truth.ceiling)
  most = max(f.members for f in found.values())
  out = [
    page.Plot(
      plots.bars(
        [
          plots.Bar(
            name if f.members == most else f'{name} (of {f.members})',
            _span(f.single),
            _span(f.ensemble) if f.members > 1 else None,
          )
          for name, f in found.items()
        ],
        folder / f'{config.setting}_lds.png',
        ceiling=ceiling,
        members=most,
      ),
      'LDS of every method',
      'Bars of the LDS of single models and of the ensemble, by method',
    )
  ]
  if residuals := _residuals(found):
    out.append(
      page.Plot(
        plots.residuals(residuals, folder / f'{config.setting}_residual.png'),
        'Residual against solver steps',
        'Relative residual of the solve, falling with steps, by method',
      )
    )
  if curves := _dampings(config, found, workdir):
    out.append(
      page.Plot(
        plots.damping(
          curves,
          folder / f'{config.setting}_damping.png',
          literal=not tasks.own(config) and config.paper_damping or None,
        ),
        'LDS against damping',
        'LDS by damping, a line for each solver',
      )
    )
  sizes = [
    plots.Curve(name, f.sizes, *_band(f.by_size))
    for name, f in sorted(
      found.items(), key=lambda x: x[0] not in evidence.PICTURED
    )
    if f.members > 2
  ][:12]
  if sizes:
    out.append(
      page.Plot(
        plots.ensemble(
          sizes, folder / f'{config.setting}_ensemble.png', ceiling=ceiling
        ),
        'LDS against ensemble size',
        'LDS rising with the number of averaged models, by method',
      )
    )
  return out


def _residuals(found):
  out = []
  for name, f in found.items():
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


def _dampings(config, found, workdir):
  """Curves of a damping ablation, else of what dampings were chosen by."""
  curves = {}
  for name, f in found.items():
    kind, _, value = name.rpartition('_')
    if config.setting.endswith('_damping') and kind:
      curves.setdefault(kind, {})[float(value)] = f.single.value
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
