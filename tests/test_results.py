import json
import pathlib

import pytest

from scripts import results

ROOT = pathlib.Path(__file__).parents[1]
RUN = {
  'command': ['python', '-m', 'experiments.astra', '--config=a b.py'],
  'commit': 'abc123',
  'hardware': '2 cores',
  'seconds': 4000.0,
  'date': '2026-11-24',
  'versions': {'jax': '0.10.2', 'python': '3.11'},
}
ROW = {
  'method': 'exact',
  'metric': 'lds_single',
  'value': 0.6178,
  'low': 0.6,
  'high': 0.63,
  'n': 10,
  'seconds': 7.25,
  'peak_mb': 1234.5,
}
CLAIM = {
  'claim': 'a | b',
  'source': 'paper,\nFig. 2',
  'expected': 0.5,
  'observed': '0.4',
  'holds': False,
}
CONTENT = {
  'experiment': 'astra',
  'setting': 'digits',
  'rows': [ROW],
  'claims': [CLAIM, {**CLAIM, 'holds': True}],
  'run': RUN,
}


def write(folder, name='astra_digits.json', **changes):
  content = {**CONTENT, **changes}
  (folder / name).write_text(json.dumps(content))
  return folder


def test_results_page_is_what_the_files_say():
  """`make results` after a change of results/*.json or of the script."""
  assert (ROOT / 'RESULTS.md').read_text() == results.render(ROOT / 'results')


def test_readme_has_the_leaderboard_of_its_run():
  board = results.load(ROOT / 'results' / results.BOARD)['board']
  readme = (ROOT / 'README.md').read_text()
  assert results.filled(readme, board) == readme


def test_a_leaderboard(tmp_path):
  rows = [
    {**ROW, 'method': method, 'metric': metric, 'value': value}
    for method, metric, value in (
      ('random', 'lds', 0.9),
      ('low', 'lds', -0.004),
      ('high', 'lds', 0.5),
      ('high', 'mislabel_auc', 0.987),
      ('models, clean', 'accuracy, train', 1.0),
    )
  ]
  page = results.render(write(tmp_path, experiment='quanda', rows=rows))
  lines = page.splitlines()
  first = lines.index(next(line for line in lines if 'LDS ↑' in line))
  found = [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in lines[first : first + 5]
  ]
  named = dict(zip(found[0], range(11), strict=True))
  assert [line[0] for line in found[2:]] == ['high', 'low', 'random']
  assert found[2][named['mislabel AUC ↑']] == '0.99'
  assert found[3][named['LDS ↑']] == '0.00'
  assert found[3][named['mislabel AUC ↑']] == '–'


def test_a_readme_without_marks_is_refused():
  with pytest.raises(ValueError, match='there are no marks .*leaderboard'):
    results.filled('# a readme', 'table')


def test_page(tmp_path):
  lines = results.render(write(tmp_path)).splitlines()
  for line in (
    '| [astra: digits](#astra-digits) | 1 of 2 | 1 |',
    '## astra: digits',
    "    python -m experiments.astra '--config=a b.py'",
    '2026-11-24, 1 h 7 min on 2 cores; commit abc123; jax 0.10.2, python 3.11.',
    '| exact | lds_single | 0.618 | [0.600, 0.630] | 10 | 7.250 | 1,234 |',
    '| a \\| b | paper, Fig. 2 | 0.500 | 0.4 | **no** |',
    '| a \\| b | paper, Fig. 2 | 0.500 | 0.4 | yes |',
  ):
    assert line in lines
  # A table needs an empty line before it and none inside.
  for i, line in enumerate(lines):
    if line.startswith('| :---'):
      assert lines[i - 2] == '' and lines[i + 1].startswith('| ')


def test_files_follow_their_names(tmp_path):
  write(tmp_path, 'b.json', setting='later')
  write(tmp_path, 'a.json', setting='sooner')
  page = results.render(tmp_path)
  assert page.index('## astra: sooner') < page.index('## astra: later')


def test_no_files(tmp_path):
  assert 'No run is committed yet.' in results.render(tmp_path)


@pytest.mark.parametrize(
  'value, text',
  [
    (None, '–'),
    (0.0, '0.000'),
    (-0.05, '-0.050'),
    (3e-5, '3.00e-05'),
    (200, '200'),
    (12345.6, '12,346'),
    ('8×', '8×'),
  ],
)
def test_numbers(value, text):
  assert results.number(value) == text


def test_row_without_interval_and_cost(tmp_path):
  row = {'method': 'm', 'metric': 'damping', 'value': 0.003}
  row |= dict.fromkeys(('low', 'high', 'n', 'seconds', 'peak_mb'))
  page = results.render(write(tmp_path, rows=[row], claims=[]))
  assert '| m | damping | 0.003 | – | – | – | – |' in page
  assert '| claim |' not in page


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'run': {**RUN, 'commit': None}}, 'does not say the commit of its run'),
    ({'run': None}, 'astra_digits.json'),
  ],
)
def test_figures_without_a_run_are_refused(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    results.render(write(tmp_path, **changes))


def test_damaged_and_foreign_files(tmp_path):
  (tmp_path / 'a.json').write_text('{"rows": [')
  with pytest.raises(ValueError, match='a.json is no result of a run'):
    results.render(tmp_path)
  (tmp_path / 'a.json').write_text('{"rows": [], "claims": []}')
  with pytest.raises(ValueError, match="KeyError: 'run'"):
    results.render(tmp_path)
