"""Writes an HTML page that ranks methods by many metrics: sortable, offline."""

import base64
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from tda_jax.report import page, table

UNFOLDED = 12  # methods shown below a metric; more are folded away


class Metric(NamedTuple):
  """What a column measures.

  Attributes:
    name: as rows have it.
    label: as people read it.
    definition: a sentence or two.
    better: 'higher' or 'lower'.
    chance: value of random scores; None: there is none.
    low, high: its range, and the ends of its axis; None: those of the values.
  """

  name: str
  label: str
  definition: str
  better: str = 'higher'
  chance: float | None = None
  low: float | None = None
  high: float | None = None


class Mark(NamedTuple):
  """A value on the axis of its metric, all in percent of its length.

  Attributes:
    start, width: of the bar from chance, or from the axis's low end.
    value: of the tick.
    low, high: of the whisker; None: no interval.
    chance: of the line; None: no chance level.
  """

  start: float
  width: float
  value: float
  low: float | None
  high: float | None
  chance: float | None


class Cell(NamedTuple):
  """One method's result.

  Attributes:
    value, interval: as text.
    order: to sort by; '' sorts last.
    side: 'better' or 'worse' than chance, 'level' where the interval holds it,
      'unsure' where there is no interval or no chance level.
    mark: its drawing; None for a missing value.
    n: number of values that the value is a mean of; None: not known.
  """

  value: str
  interval: str
  order: str
  side: str
  mark: Mark | None
  n: int | None


MISSING = Cell('–', '', '', 'missing', None, None)


def write(
  path: str | os.PathLike,
  *,
  title: str,
  metrics: Sequence[Metric],
  rows: Sequence[dict],
  examples: Mapping[str, Sequence[tuple[str, np.ndarray]]] | None = None,
  claims: Sequence[dict] = (),
  facts: Mapping[str, Any] | None = None,
  about: str = '',
) -> str:
  """Writes the page, which makes no network requests.

  A click on a metric sorts by it, the best first; methods without a value come
  last. Colour only says on which side of chance an interval lies.

  Args:
    rows: those of results.json: dicts with `method`, `metric`, `value` and any
      of `low`, `high`, `n`, `seconds`.
    examples: name of the metric -> captions and images in [0, 1], [H, W],
      [H, W, 1] or [H, W, 3]: its test cases.
    claims: those of results.json.
    facts: name -> text, number or list of them; a dict is folded away.
    about: what was measured; an empty line starts a paragraph.

  Returns:
    The path.

  Raises:
    ValueError: a row or an example of an unknown metric, two rows of one method
      for one metric, an unknown direction, a damaged image.
  """
  examples = examples or {}
  _check(metrics, rows, examples)
  _, methods = table.by_method(list(rows))
  columns = {m.name: _column(m, methods) for m in metrics}
  timed = any(method.seconds is not None for method in methods)
  return page.render(
    path,
    'leaderboard.html',
    title=title,
    about=page.paragraphs(about),
    **page.listed(dict(facts or {})),
    metrics=metrics,
    hints={m.name: hint(m) for m in metrics},
    sections=[
      (m, _ranked(m, columns[m.name]), examples.get(m.name, ()))
      for m in metrics
    ],
    methods=methods,
    columns=columns,
    timed=timed,
    claims=claims,
    unfolded=UNFOLDED,
    bundle=_bundle(),
  )


def cell(metric: Metric, row: dict | None, axis: tuple[float, float]) -> Cell:
  """The cell of a row of results.json; `axis` has the ends of the drawing."""
  if row is None or row['value'] is None or math.isnan(row['value']):
    return MISSING
  low, high = (_number_or_none(row.get(end)) for end in ('low', 'high'))
  if low == high:  # nothing varied: its spread is not known
    low = high = None
  start, end = axis
  along = lambda x: 100 * min(max((x - start) / (end - start), 0), 1)
  place = lambda x: None if x is None else along(x)
  value, chance = along(row['value']), place(metric.chance)
  base = 0.0 if chance is None else chance
  mark = Mark(
    min(base, value), abs(value - base), value, place(low), place(high), chance
  )
  return Cell(
    table.number(row['value']),
    table.interval(row),
    repr(float(row['value'])),
    side(metric, low, high),
    mark,
    row.get('n'),
  )


def _number_or_none(value):
  return None if value is None or math.isnan(value) else value


def side(metric: Metric, low: float | None, high: float | None) -> str:
  """On which side of chance an interval lies; see `Cell.side`."""
  if metric.chance is None or low is None or high is None:
    return 'unsure'
  if low <= metric.chance <= high:
    return 'level'
  above = low > metric.chance
  return 'better' if above == (metric.better == 'higher') else 'worse'


def axis(metric: Metric, rows: Sequence[dict]) -> tuple[float, float]:
  """Ends of a metric's axis: its range, else what holds all that is drawn."""
  drawn = [row.get(name) for row in rows for name in ('value', 'low', 'high')]
  drawn = [x for x in [*drawn, metric.chance] if x is not None]
  drawn = [x for x in drawn if math.isfinite(x)]
  low = min(drawn, default=0.0) if metric.low is None else metric.low
  high = max(drawn, default=1.0) if metric.high is None else metric.high
  return (low, high) if high > low else (low, low + 1.0)


def hint(metric: Metric) -> str:
  """A phrase with the direction, range and chance level of a metric."""
  parts = [f'{metric.better} is better']
  if metric.low is not None and metric.high is not None:
    parts.append(f'from {metric.low:g} to {metric.high:g}')
  elif metric.low is not None:
    parts.append(f'at least {metric.low:g}')
  elif metric.high is not None:
    parts.append(f'at most {metric.high:g}')
  if metric.chance is None:
    return ', '.join([*parts, 'no chance level'])
  return ', '.join([*parts, f'chance {metric.chance:.3g}'])


def _column(metric, methods):
  """Name of the method -> its cell."""
  rows = {m.name: m.results.get(metric.name) for m in methods}
  ends = axis(metric, [row for row in rows.values() if row])
  return {name: cell(metric, row, ends) for name, row in rows.items()}


def _ranked(metric, cells):
  """(method, cell) of the methods that have a value, the best first."""
  measured = [(name, c) for name, c in cells.items() if c.mark is not None]
  sign = -1 if metric.better == 'higher' else 1
  return sorted(measured, key=lambda x: sign * float(x[1].order))


def _check(metrics, rows, examples):
  names = [metric.name for metric in metrics]
  for metric in metrics:
    if metric.better not in ('higher', 'lower'):
      raise ValueError(
        f"metric {metric.name!r} is better {metric.better!r}: say 'higher' or"
        " 'lower'"
      )
  for name in [*(row['metric'] for row in rows), *examples]:
    if name not in names:
      raise ValueError(
        f'there is no metric {name!r} among {names}: describe it, or leave its'
        ' rows and examples out'
      )


def _bundle():
  """DataTables as an importable URL, from the package that ships it."""
  file = resources.files('itables') / 'html' / 'dt_bundle.js'
  code = base64.b64encode(file.read_bytes()).decode()
  return f'data:text/javascript;base64,{code}'
