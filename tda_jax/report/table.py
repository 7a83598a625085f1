"""Prints results and claims as tables in the terminal."""

import math
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tda_jax.report import verdicts

LOG_WIDTH = 160  # columns where the output is no terminal


class Method(NamedTuple):
  """All results of one method.

  Attributes:
    name: of the method.
    results: metric -> row of results.json.
    seconds, peak_mb: the largest of its rows; None: not measured.
  """

  name: str
  results: dict[str, dict]
  seconds: float | None
  peak_mb: float | None


def by_method(rows: list[dict]) -> tuple[list[str], list[Method]]:
  """Groups rows of results.json by method: (metrics, methods), in order.

  Raises:
    ValueError: a method has two rows for one metric.
  """
  metrics = list(dict.fromkeys(row['metric'] for row in rows))
  results_of: dict[str, dict] = {}
  for row in rows:
    results = results_of.setdefault(row['method'], {})
    if row['metric'] in results:
      raise ValueError(
        f'method {row["method"]!r} has two results for {row["metric"]!r}:'
        ' give each its own name'
      )
    results[row['metric']] = row

  def largest(results, field):
    values = [row.get(field) for row in results.values()]
    return max((v for v in values if v is not None), default=None)

  return metrics, [
    Method(
      name, results, largest(results, 'seconds'), largest(results, 'peak_mb')
    )
    for name, results in results_of.items()
  ]


def apart(
  metrics: list[str], methods: list[Method]
) -> list[tuple[list[str], list[Method]]]:
  """Splits methods into tables that share no metric: no table is mostly empty.

  Methods that are linked by the metrics of other methods stay together.
  """
  groups: list[tuple[set[str], list[Method]]] = []
  for method in methods:
    shared, members = set(method.results), [method]
    linked = [group for group in groups if group[0] & shared]
    for names, some in reversed(linked):
      shared, members = shared | names, some + members
    places = [i for i, group in enumerate(groups) if group in linked]
    groups = [group for group in groups if group not in linked]
    groups.insert(places[0] if places else len(groups), (shared, members))
  return [
    ([metric for metric in metrics if metric in names], some)
    for names, some in groups
  ]


def costs(methods: list[Method]) -> list[str]:
  """Which of `seconds` and `peak_mb` was measured for any method."""
  return [
    field
    for field in ('seconds', 'peak_mb')
    if any(getattr(method, field) is not None for method in methods)
  ]


def number(value: Any) -> str:
  """A number as text: three decimals, or 1.2e-05 where these show too little."""
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return '–'
  if isinstance(value, bool | str):
    return str(value)
  if isinstance(value, int):
    return f'{value:,}'
  size = abs(value)
  if size and (size < 5e-4 or size >= 1e6):
    return f'{value:.1e}'
  return f'{value:,.0f}' if size >= 1000 else f'{value:.3f}'


def interval(row: dict) -> str:
  """'[low, high]' of a row of results.json; '' if its spread is not known.

  An interval without width means that nothing varied, so that it is not shown.
  """
  low, high = row.get('low'), row.get('high')
  if low is None or high is None or math.isnan(low + high) or low == high:
    return ''
  return f'[{number(low)}, {number(high)}]'


def print_results(
  rows: list[dict], title: str = '', console: Console | None = None
) -> None:
  """Prints rows of results.json, one line a method, one column a metric.

  If intervals do not fit the terminal beside their values, they are printed
  below them; if that does not fit either, each metric gets a table.

  Args:
    rows: dicts with `method`, `metric`, `value` and any of `low`, `high`,
      `seconds`, `peak_mb`.
    console: where to; the terminal by default.
  """
  console = console or _console()
  metrics, methods = by_method(rows)
  for separator in (' ', '\n'):
    table = _results(metrics, methods, title, separator)
    if _width(console, table) <= console.width:
      console.print(table)
      return
  for i, metric in enumerate(metrics):
    some = [method for method in methods if metric in method.results]
    console.print(_results([metric], some, '' if i else title, ' '))


def print_claims(
  claims: list[dict], title: str = 'Claims', console: Console | None = None
) -> None:
  """Prints claims of results.json: what was expected, seen, and the verdict."""
  console = console or _console()
  table = Table(title=title, box=box.SIMPLE_HEAD, title_justify='left')
  table.add_column('verdict')
  for name in ('claim', 'source', 'expected', 'observed'):
    table.add_column(name, overflow='fold')
  for claim in claims:
    said = verdicts.verdict(claim)
    table.add_row(
      said,
      *(
        Text(number(claim[name]))
        for name in ('claim', 'source', 'expected', 'observed')
      ),
      style='red' if said == verdicts.DOES_NOT else None,
    )
  console.print(table)


def _results(metrics, methods, title, separator):
  fields = costs(methods)
  table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify='left')
  table.add_column('method', overflow='fold')
  for name in [*metrics, *(field.replace('_mb', ' MB') for field in fields)]:
    table.add_column(Text(name), justify='right', no_wrap=True, min_width=7)
  columns = [
    _cells([method.results.get(metric) for method in methods], separator)
    for metric in metrics
  ]
  columns += [[_cost(getattr(m, field)) for m in methods] for field in fields]
  for method, *cells in zip(methods, *columns, strict=True):
    table.add_row(Text(method.name), *cells)
  return table


def _cells(rows, separator):
  """Values and intervals of a column, each aligned with those above."""
  values = [number(row['value']) if row else '' for row in rows]
  spans = [interval(row) if row else '' for row in rows]
  if any(spans):  # a dash where it is not known, beside those where it is
    spans = [
      span or ('–' if row else '')
      for span, row in zip(spans, rows, strict=True)
    ]
  if separator == '\n':
    return [
      Text(f'{value}\n{span}' if span else value)
      for value, span in zip(values, spans, strict=True)
    ]
  wide, far = max(map(len, values)), max(map(len, spans))
  return [
    # Left-justified, as rich would strip the spaces of a missing interval.
    Text(
      f'{value:>{wide}} {span:>{far}}' if far else value,
      justify='left' if far else 'right',
    )
    for value, span in zip(values, spans, strict=True)
  ]


def _cost(value):
  if value is None:
    return '–'
  return f'{value:,.1f}' if value < 100 else f'{value:,.0f}'


def _console():
  console = Console()
  return console if console.is_terminal else Console(width=LOG_WIDTH)


def _width(console, table):
  wide = console.options.update(width=10_000)
  return Measurement.get(console, wide, table).maximum
