"""Plots of an evaluation, written as PNG files."""

import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import matplotlib.colors
import matplotlib.patches
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tda_jax.storage import files

# After Okabe and Ito: colour-blind readers can distinguish them too.
COLORS = (
    '#0072B2', '#D55E00', '#009E73', '#C2649A', '#A87400', '#6A4C93', '#4FA3D1',
    '#8B1E3F',
)  # fmt: skip
LIGHT, GREY, INK = '#A9CBE4', '#8A8A8A', '#222222'
CEILING = '#555555'
STYLE: dict[Any, Any] = {  # the keys have a literal type, new in matplotlib
  'font.family': 'DejaVu Sans',
  'font.size': 11,
  'axes.titlesize': 13,
  'axes.titlelocation': 'left',
  'axes.titlepad': 12,
  'axes.labelsize': 11,
  'axes.edgecolor': GREY,
  'axes.labelcolor': INK,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'axes.grid': True,
  'grid.color': '#E6E6E6',
  'xtick.color': INK,
  'ytick.color': INK,
  'text.color': INK,
  'lines.linewidth': 2,
  'lines.markersize': 5,
}
DPI = 150
BANDS = 5  # more lines than these get bars for intervals: bands would mix
WIDTH = 8.4
Span = tuple[float, float, float]  # value, low, high


class Bar(NamedTuple):
  """LDS of one method; None where it was not computed."""

  name: str
  single: Span | None
  ensemble: Span | None


class Curve(NamedTuple):
  """One line, y against x, with a band where `low` and `high` are given."""

  name: str
  x: Sequence[float]
  y: Sequence[float]
  low: Sequence[float] | None = None
  high: Sequence[float] | None = None


def bars(
  methods: Sequence[Bar],
  path: str | os.PathLike,
  *,
  ceiling: Span | None = None,
  title: str = 'LDS',
  members: int | None = None,
  unit: str = 'LDS (Spearman over subsets, mean over queries)',
) -> str:
  """Plots a value of single models and of the ensemble, with intervals.

  Args:
    ceiling: value, low, high of the noise ceiling, drawn as a line and a band.
    members: of the ensemble, for the legend, which a single kind of bar lacks.
    unit: what the values are.

  Returns:
    The path.
  """
  _some(methods, 'bars')
  with matplotlib.rc_context(STYLE):
    figure, axes = _figure(1.5 + 0.55 * len(methods))
    y = np.arange(len(methods))
    groups = _groups(methods, members)
    for field, shift, color, _ in groups:
      _bar_group(axes, y + shift, [getattr(m, field) for m in methods], color)
    axes.set_yticks(y, [method.name for method in methods])
    axes.tick_params('y', length=0)
    axes.grid(False, axis='y')
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=0.8)
    low, high = axes.get_xlim()
    top = max(high, ceiling[2] if ceiling else high)
    axes.set_xlim(min(low, 0), top + 0.1 * (top - min(low, 0)))
    _bar_labels(axes, y, methods, groups)
    handles: list[Any] = [
      matplotlib.patches.Patch(color=color, label=label)
      for _, _, color, label in groups
    ]
    if ceiling:
      handles.append(_ceiling(axes, ceiling, axes.axvline, axes.axvspan))
    several = len(handles) > 1
    axes.set_title(title, pad=32 if several else None)
    if several:
      axes.legend(
        handles=handles,
        loc='lower left',
        bbox_to_anchor=(-0.01, 1.0),
        ncols=3,
        frameon=False,
        borderpad=0,
        handlelength=1.4,
      )
    axes.set_xlabel(unit)
    return _save(figure, path)


def cells(
  values: np.ndarray,
  names: Sequence[str],
  columns: Sequence[str],
  path: str | os.PathLike,
  *,
  title: str,
  middle: float = 0.5,
) -> str:
  """Plots a table of numbers from 0 to 1, [names, columns], coloured by value.

  Args:
    middle: the value of chance, which is white; better is blue, worse orange.

  Raises:
    ValueError: values of another shape.
  """
  _some(names, title)
  values = np.asarray(values)
  if values.shape != (len(names), len(columns)):
    raise ValueError(
      f'values are {values.shape}: give {(len(names), len(columns))}, a row a name'
      ' and a column a title'
    )
  with matplotlib.rc_context({**STYLE, 'axes.grid': False}):
    figure, axes = _figure(1.6 + 0.4 * len(names))
    shades = matplotlib.colors.LinearSegmentedColormap.from_list(
      'chance', [COLORS[1], 'white', COLORS[0]]
    )
    norm = matplotlib.colors.TwoSlopeNorm(middle, 0.0, 1.0)
    axes.imshow(values, cmap=shades, norm=norm, aspect='auto')
    for (i, j), value in np.ndenumerate(values):
      strong = abs(value - middle) > 0.35
      axes.text(
        j, i, f'{value:.2f}', ha='center', va='center', fontsize=9.5,
        color='white' if strong else INK,
      )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(
      range(len(columns)), columns, rotation=30, ha='right', fontsize=9.5
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    return _save(figure, path)


def residuals(
  curves: Sequence[Curve],
  path: str | os.PathLike,
  *,
  title: str = 'Residual of the solve',
) -> str:
  """Plots the relative residual against solver steps, logarithmic in y.

  Args:
    curves: y is ‖v − (A + damping)x‖/‖v‖; the median over queries, with a band.
  """
  _some(curves, 'residuals')
  with matplotlib.rc_context(STYLE):
    figure, axes = _figure(4.6)
    axes.set_yscale('log')
    _lines(axes, curves, marker=None)
    axes.set_title(title)
    axes.set_xlabel('solver steps')
    axes.set_ylabel('relative residual')
    axes.set_xlim(left=-0.01 * axes.get_xlim()[1])
    _label_ends(axes, curves)
    return _save(figure, path)


def damping(
  curves: Sequence[Curve],
  path: str | os.PathLike,
  *,
  literal: float | None = None,
  ceiling: Span | None = None,
  title: str = 'LDS against damping',
) -> str:
  """Plots LDS against damping, logarithmic in x, with a ring at each line's best.

  Args:
    literal: the damping that the paper names, marked.
  """
  return sweep(
    curves,
    path,
    'damping (added to the mean curvature)',
    literal=literal,
    ceiling=ceiling,
    title=title,
  )


def sweep(
  curves: Sequence[Curve],
  path: str | os.PathLike,
  setting: str,
  *,
  literal: float | None = None,
  ceiling: Span | None = None,
  title: str = 'LDS',
  log: bool = True,
) -> str:
  """Plots LDS against a setting, with a ring at the best of each line.

  Args:
    setting: what x is.
    literal: the paper's value of it, marked.
    log: logarithmic in x.
  """
  _some(curves, title)
  with matplotlib.rc_context(STYLE):
    figure, axes = _figure(4.6)
    axes.set_xscale('log' if log else 'linear')
    _lines(axes, curves, marker='o')
    for curve, color in zip(curves, _colors(curves), strict=True):
      if not np.isfinite(curve.y).any():
        continue
      best = int(np.nanargmax(curve.y))
      axes.plot(
        curve.x[best],
        curve.y[best],
        'o',
        markersize=12,
        color=color,
        markerfacecolor='none',
        markeredgewidth=1.5,
      )
    axes.set_title(title)
    axes.set_xlabel(f'{setting}; ring: best')
    axes.set_ylabel('LDS')
    if literal is not None:
      _mark(axes, literal)
    lines = _lds_axis(axes, ceiling)
    _label_ends(axes, [*curves, *lines])
    return _save(figure, path)


def ensemble(
  curves: Sequence[Curve],
  path: str | os.PathLike,
  *,
  ceiling: Span | None = None,
  title: str = 'LDS against ensemble size',
) -> str:
  """Plots LDS against the number of models whose scores are averaged."""
  return points(
    curves,
    path,
    'models in the ensemble',
    'LDS',
    ceiling=ceiling,
    title=title,
  )


def points(
  curves: Sequence[Curve],
  path: str | os.PathLike,
  setting: str,
  unit: str,
  *,
  ceiling: Span | None = None,
  title: str = '',
  ticks: bool = True,
) -> str:
  """Plots any number at a few points, logarithmic in x.

  Args:
    setting, unit: what x and y are.
    ticks: whether each x is a tick.
  """
  _some(curves, title)
  with matplotlib.rc_context(STYLE):
    figure, axes = _figure(4.6)
    axes.set_xscale('log')
    _lines(axes, curves, marker='o')
    if ticks:
      xs = sorted({float(x) for curve in curves for x in curve.x})
      axes.set_xticks(xs, [f'{x:g}' for x in xs])
      axes.minorticks_off()
    axes.set_title(title)
    axes.set_xlabel(setting)
    axes.set_ylabel(unit)
    lines = _lds_axis(axes, ceiling)
    _label_ends(axes, [*curves, *lines])
    return _save(figure, path)


def _figure(height):
  figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout='constrained')
  FigureCanvasAgg(figure)
  return figure, figure.add_subplot()


def _save(figure, path):
  data = io.BytesIO()
  figure.savefig(
    data, format='png', facecolor='white', bbox_inches='tight', pad_inches=0.15
  )
  files.show(path, data.getvalue())
  return os.fspath(path)


def _some(data, name):
  if not data:
    raise ValueError(f'the plot of {name} has nothing to show: give a method')


def _colors(curves):
  return [COLORS[i % len(COLORS)] for i in range(len(curves))]


def _dashes(i):
  return ('-', '--', ':')[i // len(COLORS) % 3]


def _bar_group(axes, y, spans, color):
  for at, span in zip(y, spans, strict=True):
    if span is None:
      continue
    value, low, high = span
    axes.barh(at, value, height=0.38, color=color)
    if not high > low:  # not known: a bar without a line
      continue
    for color_, width in (('white', 3.0), (INK, 1.3)):  # seen on any bar
      axes.plot([low, high], [at, at], color=color_, linewidth=width)


def _groups(methods, members):
  """(field, place, colour, name) of the bars of each method."""
  if not any(method.ensemble for method in methods):
    return [('single', 0.0, COLORS[0], 'single model')]
  whole = f'ensemble of {members}' if members else 'ensemble'
  return [
    ('single', -0.2, LIGHT, 'single model'),
    ('ensemble', 0.2, COLORS[0], whole),
  ]


def _bar_labels(axes, y, methods, groups):
  """Writes the values right of bars and intervals."""
  for at, method in zip(y, methods, strict=True):
    for field, shift, *_ in groups:
      span = getattr(method, field)
      if span is None:
        continue
      end = np.nanmax([span[0], span[2], 0])
      axes.annotate(
        f'{span[0]:.3f}',
        (end, at + shift),
        xytext=(4, 0),
        textcoords='offset points',
        va='center',
        fontsize=9.5,
        bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.6},
      )


def _ceiling(axes, ceiling, line, span):
  value, low, high = ceiling
  span(low, high, color=CEILING, alpha=0.12, linewidth=0)
  return line(
    value,
    color=CEILING,
    linestyle='--',
    linewidth=1.5,
    label=f'noise ceiling {value:.3f}',
  )


def _lines(axes, curves, marker):
  for i, (curve, color) in enumerate(zip(curves, _colors(curves), strict=True)):
    axes.plot(
      curve.x,
      curve.y,
      color=color,
      linestyle=_dashes(i),
      marker='o' if len(curve.x) == 1 else marker,
      # Earlier lines show at the edges of later ones that cover them.
      linewidth=max(1.6, 3.6 - 0.4 * i),
      markersize=max(4, 6.5 - 0.5 * i),
    )
    if curve.low is None or curve.high is None:
      continue
    if marker is None or len(curves) <= BANDS:
      axes.fill_between(
        curve.x, curve.low, curve.high, color=color, alpha=0.13, linewidth=0
      )
    else:
      axes.vlines(curve.x, curve.low, curve.high, color=color, linewidth=1)


def _mark(axes, literal):
  axes.axvline(literal, color=GREY, linestyle=':', linewidth=1.5)
  axes.annotate(
    f'paper: {literal:g}',
    (literal, 0.02),
    xytext=(5, 0),
    textcoords='offset points',
    xycoords=axes.get_xaxis_transform(),
    color='#555555',
    va='bottom',
  )


def _lds_axis(axes, ceiling):
  """Draws the ceiling; returns it as a curve to label, if there is one."""
  if ceiling is None:
    return []
  _ceiling(axes, ceiling, axes.axhline, axes.axhspan)
  right = axes.get_xlim()[1]
  axes.set_xlim(axes.get_xlim())
  return [Curve(f'noise ceiling {ceiling[0]:.3f}', [right], [ceiling[0]])]


def _label_ends(axes, curves):
  """Writes the names of lines right of the axes, in their colours, without overlap."""
  axes.figure.canvas.draw()  # fixes the limits and the transforms
  ends, colors = [], [*_colors(curves)]
  for curve in curves:
    finite = np.flatnonzero(np.isfinite(curve.y))
    last = finite[-1] if len(finite) else None
    ends.append(None if last is None else (curve.x[last], curve.y[last]))
  shown = [i for i, end in enumerate(ends) if end is not None]
  pixels = axes.transData.transform([ends[i] for i in shown])[:, 1]
  box = axes.get_window_extent()
  places = spread(pixels, 15 * axes.figure.dpi / 72, box.y0, box.y1)
  for i, place in zip(shown, (places - box.y0) / box.height, strict=True):
    ceiling = curves[i].name.startswith('noise ceiling')
    color = CEILING if ceiling else colors[i]
    axes.annotate(
      curves[i].name,
      ends[i],
      xytext=(1.03, place),
      xycoords='data',
      textcoords='axes fraction',
      color=color,
      va='center',
      ha='left',
      annotation_clip=False,
      arrowprops={
        'arrowstyle': '-',
        'color': color,
        'alpha': 0.45,
        'linewidth': 0.9,
        'shrinkA': 1,
        'shrinkB': 2,
        'relpos': (0, 0.5),
      },
    )


def spread(
  places: np.ndarray, gap: float, low: float, high: float
) -> np.ndarray:
  """Moves places as little as needed to lie `gap` apart within [low, high].

  Where there is no room for all, they share what there is evenly.
  """
  order = np.argsort(places, kind='stable')
  gap = min(gap, (high - low) / max(len(places) - 1, 1))
  steps = gap * np.arange(len(places))
  # Distances above `gap` become free: sorted order is all that is left to keep,
  # which pooling neighbours that violate it does at least squares.
  free = np.asarray(places, np.float64)[order] - steps
  pools: list[tuple[float, int]] = []
  for value in free:
    pools.append((value, 1))
    while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
      (a, m), (b, n) = pools[-2:]
      pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
  level = np.concatenate([np.full(n, value) for value, n in pools])
  moved = np.clip(level, low, high - steps[-1]) + steps
  spread_places = np.empty_like(moved)
  spread_places[order] = moved
  return spread_places
