"""The leaderboard: cells, order, escaping, offline, and in a browser."""

import re

import browser
import numpy as np
import pytest
from test_page import CLAIMS, read

from tda_jax.report import leaderboard
from tda_jax.report.leaderboard import Metric

AUC = Metric('auc', 'AUC <b>', 'Finds "wrong" labels.', 'higher', 0.5, 0, 1)
LEFT = Metric('left', 'left over', 'Accuracy that is left.', 'lower', 0.8)
METRICS = [AUC, LEFT]


def row(method, metric, value, half=None, **more):
  span = {} if half is None else {'low': value - half, 'high': value + half}
  return {'method': method, 'metric': metric, 'value': value, **span, **more}


ROWS = [
  row('a <script>', 'auc', 0.6, 0.05, n=30),
  row('b', 'auc', 0.9, 0.05, seconds=2.5),
  row('c_d', 'auc', 0.5, 0.1),
  row('b', 'left', 0.7, 0.02),
  row('c_d', 'left', 0.9, 0.02),
]
CASES = [(f'given {i}, <true> 3', np.eye(4) * i / 2) for i in range(3)]


def write(folder, **more):
  path = folder / 'page.html'
  leaderboard.write(
    path,
    **{
      **{'title': 'T & <i>', 'metrics': METRICS, 'rows': ROWS},
      **{'examples': {'auc': CASES}, 'claims': CLAIMS},
      **{'about': 'Of all.\n\nAll of it.', 'facts': {'command': 'python -m x'}},
      **more,
    },
  )
  return path


def body(path):
  """What people read, without the library."""
  content, reader, _ = read(path)
  content = re.sub(r'<style>.*?</style>', '', content, flags=re.S)
  return re.sub(r'<script.*?</script>', '', content, flags=re.S), reader


def test_content(tmp_path):
  content, reader = body(write(tmp_path))
  text = re.sub(r'\s+', ' ', re.sub(r'<[^>]*>', ' ', content))
  for words in (
    *('T &amp; &lt;i&gt;', 'a &lt;script&gt;', 'AUC &lt;b&gt;', '0.900'),
    *('[0.850, 0.950]', '2.5', 'Higher is better, from 0 to 1, chance 0.5.'),
    *('Lower is better, chance 0.8.', 'Accuracy that is left.', 'A &gt; B'),
    *('given 2, &lt;true&gt; 3', 'Of all.', 'All of it.', 'python -m x'),
  ):
    assert words in text, words
  assert '<b>' not in content and '<true>' not in content
  heads = [a for tag, a in reader.tags if tag == 'th' and 'data-better' in a]
  assert [a['data-better'] for a in heads] == ['higher', 'lower', 'lower']
  assert heads[0]['title'].startswith('Finds "wrong" labels. (higher is')
  images = [a['src'] for tag, a in reader.tags if tag == 'img']
  assert len(images) == 3 and all(s.startswith('data:image') for s in images)


def test_each_metric_ranks_its_methods(tmp_path):
  content, _ = body(write(tmp_path))
  names = re.findall(r'<span class="name">(.*?)</span>', content)
  assert names == ['b', 'a &lt;script&gt;', 'c_<wbr>d', 'b', 'c_<wbr>d']


def test_a_missing_value_is_a_dash_that_sorts_last(tmp_path):
  rows = [*ROWS, row('d', 'auc', float('nan')), row('d', 'left', None)]
  content, _ = body(write(tmp_path, rows=rows))
  cells = re.findall(r'<td class="n missing" data-order="">(.*?)</td>', content)
  assert cells == ['–'] * 3
  assert '<svg' not in ''.join(cells)


@pytest.mark.parametrize(
  'metric, low, high, side',
  [
    (AUC, 0.6, 0.7, 'better'),
    (AUC, 0.3, 0.4, 'worse'),
    (AUC, 0.4, 0.6, 'level'),
    (AUC, 0.5, 0.6, 'level'),
    (LEFT, 0.6, 0.7, 'better'),
    (LEFT, 0.85, 0.9, 'worse'),
    (AUC, None, None, 'unsure'),
    (AUC._replace(chance=None), 0.6, 0.7, 'unsure'),
  ],
)
def test_colour_says_on_which_side_of_chance(metric, low, high, side):
  assert leaderboard.side(metric, low, high) == side


def test_marks_stand_where_their_values_are():
  axis = leaderboard.axis(AUC, ROWS)
  assert axis == (0, 1)
  mark = leaderboard.cell(AUC, ROWS[1], axis).mark
  np.testing.assert_allclose(mark, (50, 40, 90, 85, 95, 50))
  below = leaderboard.cell(AUC, row('x', 'auc', 0.2, 0.3), axis).mark
  np.testing.assert_allclose(below, (20, 30, 20, 0, 50, 50))  # -0.1 is cut off
  free = AUC._replace(chance=None, low=None, high=None)
  assert leaderboard.axis(free, ROWS[:3]) == (0.4, pytest.approx(0.95))
  assert leaderboard.axis(LEFT, [row('x', 'left', 0.7)]) == (0.7, 0.8)
  assert leaderboard.axis(free, [row('x', 'auc', 2)]) == (2, 3)


def test_it_needs_nothing_but_itself(tmp_path):
  path = write(tmp_path)
  content, reader, _ = read(path)
  assert not re.search(r'https?://|@import|url\(', content)
  for tag, attrs in reader.tags:
    assert tag not in ('link', 'iframe', 'object')
    for name in ('src', 'href'):
      assert attrs.get(name, 'data:').startswith('data:')
  assert 500_000 < path.stat().st_size < 2_000_000


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'rows': [row('a', 'new', 1.0)]}, "no metric 'new' among"),
    ({'examples': {'new': CASES}}, "no metric 'new' among"),
    ({'metrics': [AUC._replace(better='up'), LEFT]}, "'higher' or 'lower'"),
    ({'rows': ROWS + ROWS[:1]}, "two results for 'auc'"),
    ({'examples': {'auc': [('x', np.ones(4))]}}, 'cannot be shown'),
  ],
)
def test_bad_input_is_named(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    write(tmp_path, **changes)


HEADS = 'document.querySelectorAll("#leaderboard thead th")'
ORDER = (
  '[...document.querySelectorAll("#leaderboard tbody th")]'
  '.map(cell => cell.textContent)'
)


@pytest.mark.slow
def test_a_browser_sorts_finds_and_asks_for_nothing(tmp_path):
  rows = [row('z', 'auc', None), *ROWS]
  path = write(tmp_path, rows=rows)
  with browser.tab(tmp_path / 'profile') as tab:
    browser.shape(tab, 1280, dark=False)
    browser.visit(tab, path)
    assert tab.evaluate(f'{HEADS}[1].className').count('dt-orderable') == 2
    assert tab.evaluate(ORDER) == ['z', 'a <script>', 'b', 'c_d']

    def sorted_by(column):
      tab.evaluate(f'{HEADS}[{column}].click()')
      return tab.evaluate(ORDER)

    assert sorted_by(1) == ['b', 'a <script>', 'c_d', 'z']  # higher is better
    assert sorted_by(1) == ['c_d', 'a <script>', 'b', 'z']
    assert 'dt-ordering-asc' in tab.evaluate(f'{HEADS}[1].className')
    assert sorted_by(2)[:2] == ['b', 'c_d']  # lower is better
    assert sorted_by(2)[:2] == ['c_d', 'b']
    assert sorted_by(0) == ['a <script>', 'b', 'c_d', 'z']
    tab.evaluate(
      '(() => { const box = document.querySelector(".dt-search input");'
      ' box.value = "script"; box.dispatchEvent(new Event("input")); })()'
    )
    assert tab.evaluate(ORDER) == ['a <script>']
    for width in (1280, 400):
      for dark in (False, True):
        browser.shape(tab, width, dark)
        file = tmp_path / f'{width}_{"dark" if dark else "light"}.png'
        browser.photograph(tab, file)
        assert file.stat().st_size > 10_000
        # A wide table scrolls in its own frame: the page does not.
        wide = 'document.documentElement.scrollWidth'
        assert tab.evaluate(wide) <= width
        ink = 'getComputedStyle(document.body).color.match(/\\d+/)[0]'
        assert (int(tab.evaluate(ink)) > 127) == dark
  asked = [
    event['params']['request']['url']
    for event in tab.events
    if event['method'] == 'Network.requestWillBeSent'
  ]
  assert asked[0] == path.as_uri()
  assert all(url.startswith('data:') for url in asked[1:])
  wrong = ('Runtime.exceptionThrown', 'Log.entryAdded', 'Runtime.consoleAPI')
  assert not [e for e in tab.events if e['method'].startswith(wrong)]
