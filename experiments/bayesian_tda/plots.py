"""The plots of `bayesian_tda`, and its pairs of least noise."""

import pathlib

import numpy as np

from experiments.bayesian_tda import claims as claims_lib
from experiments.shared import arguments
from experiments.shared import looks as looks_lib
from tda_jax.report import cards, panels, plots
from tda_jax.storage import record

SYMBOLS = {'mean': 'μ', 'deviation': 'σ', 'ratio': 'μ/σ'}
PAIRED = ('loo', 'influence')  # whose pairs of least noise are shown


def draw(config, measured: dict, workdir) -> list[str]:
  """Correlations and p-values of each part, noise by size, and pictures."""
  folder = pathlib.Path(workdir) / 'plots'
  folder.mkdir(exist_ok=True)
  out = [
    by_size(
      config,
      measured,
      folder / 'mean_p.png',
      claims_lib.mean_p,
      'mean p over pairs',
    ),
    by_size(
      config,
      measured,
      folder / 'deviation.png',
      claims_lib.relative_deviation,
      'mean σ / root mean square μ',
      scale='log',
    ),
  ]
  for name, part in measured.items():
    out += [
      panels.correlations(
        [
          panels.Matrix(f'{kind.capitalize()}, {SYMBOLS[quantity]}', values)
          for (kind, quantity), values in part.correlations.items()
        ],
        list(part.scores),
        folder / f'{name}_correlations.png',
        title=f'Correlation between methods over pairs: {name}',
      ),
      panels.histograms(
        [panels.Histogram(m, u.p) for m, u in part.by_code.items()],
        folder / f'{name}_p.png',
        "p of the paper's code",
        title=f'p-values of all pairs: {name}',
      ),
    ]
  return out + certain(config, measured, workdir, folder)


def by_size(config, measured, path, value, unit, scale='linear') -> str:
  """`value` of scores against rows per class: a panel for each kind of part."""
  curves = {}
  for name, part in measured.items():
    own = arguments.changed(config, config.parts[name])
    size, shared = own.data.per_class, own.training.get('shared_init')
    kind = own.model.kind + (', batches only' if shared else '')
    for method, scores in part.scores.items():
      line = curves.setdefault(kind, {}).setdefault(method, {})
      line[size] = value(scores)
  return panels.lines(
    {
      kind: [_curve(method, line) for method, line in methods.items()]
      for kind, methods in curves.items()
    },
    path,
    'training rows per class',
    unit,
    title=f'Noise against the number of rows: {config.setting}',
    scale=scale,
  )


def certain(config, measured, workdir, folder) -> list[str]:
  """The pairs of least p with their pictures; all of them in pairs.json."""
  out, listed = [], {}
  for name, part in measured.items():
    for method in PAIRED:
      if method not in part.scores:
        continue
      u = part.by_text[method]
      order = np.argsort(u.p, axis=None, kind='stable')[: config.pictured]
      pairs = list(zip(*np.unravel_index(order, u.p.shape), strict=True))
      listed.setdefault(name, {})[method] = [
        {
          'row': int(part.rows[i]),
          'query': int(q),
          'mean': float(u.mean[i, q]),
          'deviation': float(u.deviation[i, q]),
          'p': float(u.p[i, q]),
          'significant': bool(u.significant[i, q]),
        }
        for i, q in pairs
      ]
      looks = looks_lib.of(part.task)
      if looks.train.ndim < 3:  # no pictures
        continue
      out.append(
        panels.pairs(
          [_pair(part.rows[i], looks, u, i, q) for i, q in pairs],
          folder / f'{name}_{method}_pairs.png',
          title=f'Pairs of least noise, {method}: {name}'
          ' (row left, query right; μ ± σ, t-test)',
        )
      )
  record.write_json(pathlib.Path(workdir) / 'pairs.json', listed)
  return out


def _pair(row, looks, u, i, q):
  low = float(min(looks.train.min(), looks.queries.min()))
  scale = float(max(looks.train.max(), looks.queries.max())) - low or 1.0
  label = lambda y: cards.label_text(y, looks.classes)
  star = '*' if u.significant[i, q] else ''
  return panels.Pair(
    (np.float32(looks.train[row]) - low) / scale,
    (np.float32(looks.queries[q]) - low) / scale,
    f'row {row}: {label(looks.labels[row])}',
    f'query {q}: {label(looks.query_labels[q])}',
    f'{_short(u.mean[i, q])} ± {_short(u.deviation[i, q])}'
    f'\np = {u.p[i, q]:.1g}{star}',
  )


def _short(value):
  return f'{value:.2g}'.replace('-', '−')


def _curve(name, line):
  sizes = sorted(line)
  values = np.array([line[size] for size in sizes])
  return plots.Curve(name, sizes, *values.T)
