"""Cells of markdown tables: numbers, intervals, words."""

import re
import shlex


def table(lines: list[tuple]) -> str:
  """Lines of cells as a table."""
  return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def head(*columns: str, numbers: bool = False) -> list[tuple]:
  """The two lines above a table; all columns but the first hold numbers."""
  align = '---:' if numbers else ':---'
  return [columns, (':---', *[align] * (len(columns) - 1))]


def short(value) -> str:
  """Two decimals; a dash for none."""
  return '–' if value is None else f'{value:.2f}'.replace('-0.00', '0.00')


def number(value) -> str:
  """Three decimals; powers of ten below a thousandth; a dash for none."""
  if value is None:
    return '–'
  if isinstance(value, bool) or not isinstance(value, int | float):
    return cell(value)
  if isinstance(value, int) or abs(value) >= 1000:
    return f'{value:,.0f}'
  if 0 < abs(value) < 1e-3:
    return f'{value:.2e}'
  return f'{value:.3f}'


def interval(row: dict) -> str:
  """'[low, high]'; empty where the spread is unknown, as of one without width."""
  low, high = row.get('low'), row.get('high')
  if low is None or high is None or low == high:
    return ''
  return f'[{number(low)}, {number(high)}]'


def cell(value) -> str:
  """Text for a table cell: a bar or a new line would end it."""
  if isinstance(value, int | float) and not isinstance(value, bool):
    return number(value)
  return ' '.join(words(value).split()).replace('|', '\\|')


def words(value) -> str:
  """Lists and dicts as prose."""
  if isinstance(value, dict):
    return ', '.join(f'{name} {words(v)}' for name, v in value.items())
  if isinstance(value, list):
    return ', '.join(map(words, value))
  return str(value)


def command(value) -> str:
  """A command as typed in a shell; where its workdir was says nothing."""
  text = shlex.join(value) if isinstance(value, list) else str(value)
  return re.sub(r'--workdir=\S+', '--workdir=DIR', text)


def duration(seconds: float) -> str:
  """Seconds below two minutes, otherwise hours and minutes."""
  if seconds < 120:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  hours = f'{minutes // 60} h ' if minutes >= 60 else ''
  return f'{hours}{minutes % 60} min'
