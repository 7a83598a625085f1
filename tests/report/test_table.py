"""Tables in the terminal: complete, aligned, at any width."""

import io
import re

import pytest
from rich.console import Console

from tda_jax.report import table


def row(method, metric, value, low=None, high=None, **more):
  return {
      'method': method, 'metric': metric, 'value': value, 'low': low,
      'high': high, 'n': 200, 'seconds': None, 'peak_mb': None, **more,
  }  # fmt: skip


ROWS = [
  row('Grad-Dot', 'LDS', 0.34, 0.32, 0.36, seconds=1.5),
  row('EKFAC [heuristic]', 'LDS', -0.6, -0.62, -0.58, seconds=0.25),
  row('EKFAC [heuristic]', 'LDS of the ensemble', 0.7, 0.68, 0.72),
  row('exact', 'LDS', 0.618),
  row('exact', 'relative residual', 3.2e-6, peak_mb=1536.0),
]


def printed(width, rows=ROWS):
  console = Console(width=width, record=True, file=io.StringIO())
  table.print_results(rows, 'results', console)
  return console.export_text()


@pytest.mark.parametrize('width', [160, 90, 60])
def test_nothing_is_cut_at_any_width(width):
  text = printed(width)
  for words in (
      'results', 'EKFAC [heuristic]', 'LDS of the ensemble', '3.2e-06',
      '-0.600', '[-0.620, -0.580]', '0.618', '1,536',
  ):  # fmt: skip
    assert words in text, words
  assert '…' not in text
  assert max(map(len, text.splitlines())) <= width


def test_values_are_aligned_with_and_without_interval():
  lines = printed(160).splitlines()
  ends = {
    re.search(r'0\.\d{3}', line).end()
    for line in lines
    if line.strip().startswith(('Grad-Dot', 'EKFAC', 'exact'))
  }
  assert len(ends) == 1


def test_a_spread_that_is_not_known_is_a_dash():
  ends = [(0.1, 0.3), (None, None), (float('nan'),) * 2, (0.126, 0.126)]
  rows = [
    row(f'm{i}', 'LDS', 0.126, low=low, high=high)
    for i, (low, high) in enumerate(ends)
  ]
  lines = [
    re.search(rf'm{i} +0.126 +(.*)', printed(160, rows))[1].strip()
    for i in range(4)
  ]
  assert lines == ['[0.100, 0.300]', '–', '–', '–']


def test_cost_is_the_largest_of_a_method():
  rows = [row('a', 'x', 1.0, seconds=2.0), row('a', 'y', 1.0, seconds=5.0)]
  _, (method,) = table.by_method(rows)
  assert method.seconds == 5.0 and method.peak_mb is None
  assert 'peak MB' not in printed(160, rows)


def test_two_results_under_one_name_are_refused():
  with pytest.raises(ValueError, match="'exact' has two results for 'LDS'"):
    table.by_method([*ROWS, ROWS[3]])


@pytest.mark.parametrize(
    ('value', 'text'),
    [(0.61849, '0.618'), (-0.05, '-0.050'), (0.0, '0.000'), (2e-5, '2.0e-05'),
     (1234.5, '1,234'), (None, '–'), (float('nan'), '–'), (1000, '1,000'),
     ('> 0', '> 0'), (3e7, '3.0e+07')],
)  # fmt: skip
def test_numbers(value, text):
  assert table.number(value) == text


def test_claims_say_whether_they_hold():
  claims = [
      {'claim': f'claim {i}', 'source': 'paper, Fig. [2]', 'expected': '> 0',
       'observed': 0.1, 'holds': holds}
      for i, holds in enumerate((True, False, None))
  ]  # fmt: skip
  console = Console(width=100, record=True, file=io.StringIO())
  table.print_claims(claims, console=console)
  text = console.export_text()
  assert 'paper, Fig. [2]' in text and '0.100' in text
  for i, word in enumerate(('holds', 'does not', 'open')):
    assert re.search(rf'{word} +claim {i}', text)
