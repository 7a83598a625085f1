"""Plots estimates by group: points with intervals, one colour a series."""

import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from tda_jax.report import plots
from tda_jax.report.plots import Span


def groups(
  names: Sequence[str],
  series: Mapping[str, Sequence[Span | None]],
  path: str | os.PathLike,
  unit: str,
  *,
  ceiling: Span | None = None,
  floor: Span | None = None,
  title: str = '',
) -> str:
  """Plots one line of points for each group, from the top down.

  Args:
    names: of the groups.
    series: name -> value, low, high of each group; None where there is none.
    unit: what the points are.
    ceiling, floor: value, low, high of the best possible and of random scores;
      each is drawn as a line and a band.

  Returns:
    The path.

  Raises:
    ValueError: nothing to show.
  """
  plots._some(names and series, 'groups')
  with matplotlib.rc_context(plots.STYLE):
    figure, axes = plots._figure(1.6 + 0.14 * len(names) * (len(series) + 1.2))
    y = np.arange(len(names))
    shifts = 0.86 * ((np.arange(len(series)) + 0.5) / len(series) - 0.5)
    for i, ((name, spans), shift) in enumerate(
      zip(series.items(), shifts, strict=True)
    ):
      shown = [j for j, span in enumerate(spans) if span is not None]
      value, low, high = np.array([spans[j] for j in shown]).reshape(-1, 3).T
      color = plots.COLORS[i % len(plots.COLORS)]
      axes.hlines(y[shown] + shift, low, high, color=color, linewidth=1.5)
      axes.plot(value, y[shown] + shift, 'o', color=color, label=name)
    axes.set_yticks(y, names)
    axes.tick_params('y', length=0)
    axes.grid(False, axis='y')
    for line in y[:-1] + 0.5:
      axes.axhline(line, color='#E6E6E6', linewidth=0.8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    if floor is not None:
      axes.axvspan(
        *floor[1:], color=plots.GREY, alpha=0.2, linewidth=0, label='random'
      )
      axes.axvline(floor[0], color=plots.GREY, linewidth=0.8)
    if ceiling is not None:
      plots._ceiling(axes, ceiling, axes.axvline, axes.axvspan)
    rows = -(-len(axes.get_legend_handles_labels()[0]) // 4)
    axes.set_title(title, pad=14 + 18 * rows)
    axes.legend(
      loc='lower left',
      bbox_to_anchor=(-0.01, 1.0),
      ncols=4,
      frameon=False,
      borderpad=0,
      handlelength=1.4,
    )
    axes.set_xlabel(unit)
    return plots._save(figure, path)
