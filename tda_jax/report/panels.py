"""Plots figures of several panels: correlation matrices, histograms, images."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tda_jax.report import plots


class Matrix(NamedTuple):
  """A correlation matrix [A, A]."""

  title: str
  values: np.ndarray


class Histogram(NamedTuple):
  """Numbers from 0 to 1, such as p-values."""

  title: str
  values: np.ndarray


class Pair(NamedTuple):
  """A training image, a query's, each [H, W] or [H, W, 3] in [0, 1], and text."""

  train: np.ndarray
  query: np.ndarray
  train_text: str
  query_text: str
  text: str


def correlations(
  matrices: Sequence[Matrix],
  names: Sequence[str],
  path: str | os.PathLike,
  *,
  columns: int = 3,
  title: str = '',
) -> str:
  """Plots heat maps from −1 to 1, with a number in every cell.

  Args:
    names: of the A methods.

  Returns:
    The path.
  """
  with matplotlib.rc_context(plots.STYLE):
    figure, panels = _panels(len(matrices), columns, 3.4, 3.2, title)
    for i, (panel, matrix) in enumerate(zip(panels, matrices, strict=True)):
      values = np.asarray(matrix.values)
      panel.imshow(values, vmin=-1, vmax=1, cmap='RdBu')
      for (row, column), value in np.ndenumerate(values):
        panel.text(
          column,
          row,
          f'{value:.2f}'.replace('-', '−'),
          ha='center',
          va='center',
          fontsize=8,
          color='white' if abs(value) > 0.65 else plots.INK,
        )
      places = range(len(names))
      panel.set_xticks(places, names, rotation=40, ha='right', fontsize=9)
      first = i % columns == 0
      panel.set_yticks(places, names if first else [], fontsize=9)
      panel.tick_params(length=0)
      panel.grid(False)
      panel.spines[:].set_visible(False)
      panel.set_title(matrix.title, fontsize=11)
    return plots._save(figure, path)


def lines(
  curves: dict[str, Sequence[plots.Curve]],
  path: str | os.PathLike,
  setting: str,
  unit: str,
  *,
  title: str = '',
  scale: str = 'linear',
) -> str:
  """Plots lines in adjacent panels that share their axes and legend.

  Args:
    curves: title of a panel -> its lines; a name has the same colour in all.
    setting, unit: what x and y are; x is logarithmic, with a tick at each point.
    scale: of y: 'linear' from 0, or 'log'.
  """
  with matplotlib.rc_context(plots.STYLE):
    figure, panels = _panels(len(curves), len(curves), 3.2, 3.4, title)
    names = list(
      dict.fromkeys(c.name for some in curves.values() for c in some)
    )
    for panel, (name, some) in zip(panels, curves.items(), strict=True):
      for curve in some:
        color = plots.COLORS[names.index(curve.name) % len(plots.COLORS)]
        panel.plot(curve.x, curve.y, 'o-', color=color, label=curve.name)
        if curve.low is not None:
          panel.vlines(curve.x, curve.low, curve.high, color=color, linewidth=1)
      ticks = sorted({float(x) for curve in some for x in curve.x})
      panel.set_xscale('log')
      panel.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
      panel.minorticks_off()
      panel.set_title(name, fontsize=11)
      panel.set_xlabel(setting)
      panel.sharey(panels[0])
    panels[0].set_ylabel(unit)
    if scale == 'linear':
      panels[0].set_ylim(bottom=0)
    else:
      panels[0].set_yscale(scale)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(
      *handles,
      loc='outside lower center',
      ncols=len(names),
      frameon=False,
      fontsize=9,
      handlelength=1.4,
    )
    return plots._save(figure, path)


def histograms(
  values: Sequence[Histogram],
  path: str | os.PathLike,
  unit: str,
  *,
  columns: int = 3,
  bins: int = 20,
  title: str = '',
) -> str:
  """Plots histograms of numbers from 0 to 1.

  The full line is their mean, the dashed one what uniform numbers would have.
  """
  with matplotlib.rc_context(plots.STYLE):
    figure, panels = _panels(len(values), columns, 2.8, 2.3, title)
    for i, (panel, histogram) in enumerate(zip(panels, values, strict=True)):
      flat = np.ravel(histogram.values)
      shares, edges = np.histogram(flat, bins, (0, 1))
      panel.stairs(shares / len(flat), edges, fill=True, color=plots.LIGHT)
      panel.axhline(1 / bins, color=plots.GREY, linestyle='--', linewidth=1)
      panel.axvline(flat.mean(), color=plots.COLORS[0], linewidth=1.5)
      panel.set_title(f'{histogram.title}: mean {flat.mean():.2f}', fontsize=11)
      panel.set_xlim(0, 1)
      if i >= len(values) - columns:
        panel.set_xlabel(unit)
      if i % columns == 0:
        panel.set_ylabel('share of pairs')
    return plots._save(figure, path)


def pairs(
  shown: Sequence[Pair],
  path: str | os.PathLike,
  *,
  columns: int = 4,
  title: str = '',
) -> str:
  """Plots pairs of a training image and a query's, with a text below."""
  with matplotlib.rc_context(plots.STYLE):
    figure, panels = _panels(len(shown), columns, 2.4, 2.0, title)
    for panel, pair in zip(panels, shown, strict=True):
      panel.axis('off')
      sides = (pair.train, pair.train_text), (pair.query, pair.query_text)
      for side, (image, text) in enumerate(sides):
        box = panel.inset_axes((0.06 + 0.45 * side, 0.2, 0.43, 0.66))
        image = np.asarray(image)
        image = image[..., 0] if image.shape[2:] == (1,) else image
        box.imshow(image, cmap='gray', vmin=0, vmax=1)
        box.set_xticks([])
        box.set_yticks([])
        box.grid(False)
        box.spines[:].set_visible(False)
        box.set_title(text, fontsize=8, pad=3, loc='center')
      panel.text(
        0.5,
        0.14,
        pair.text,
        ha='center',
        va='top',
        fontsize=8.5,
        transform=panel.transAxes,
      )
    return plots._save(figure, path)


def _panels(count, columns, width, height, title):
  """(figure, `count` axes); the last line may have empty places."""
  if not count:
    raise ValueError(f'the figure {title!r} has nothing to show: give a panel')
  columns = min(columns, count)
  lines = -(-count // columns)
  size = (width * columns, height * lines + (0.4 if title else 0))
  figure = Figure(figsize=size, dpi=plots.DPI, layout='constrained')
  FigureCanvasAgg(figure)
  panels = figure.subplots(lines, columns, squeeze=False).ravel()
  for panel in panels[count:]:
    panel.axis('off')
  if title:
    figure.suptitle(title, fontsize=13, x=0.01, ha='left')
  return figure, panels[:count]
