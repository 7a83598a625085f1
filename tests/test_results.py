import json
import pathlib
import re

import pytest

from scripts import cells, figures, results, stale

ROOT = pathlib.Path(__file__).parents[1]
PAPERS = [name for name, paper in results.FINDINGS.items() if paper['link']]
RUN = {
  'command': [
    'python',
    '-m',
    'experiments.astra',
    '--config=a b.py',
    '--workdir=/home/me/w',
  ],
  'commit': 'abc123',
  'hardware': '2 cores',
  'seconds': 4000.0,
  'date': '2026-11-24T10:00:00+00:00',
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
  'claim': 'the gain of ASTRA over EKFAC grows with ensembling',
  'source': 'paper,\nFig. | 2',
  'expected': 'gain above 0',
  'observed': '+0.010 [-0.005, +0.025]',
  'holds': False,
}
CONTENT = {
  'experiment': 'astra',
  'setting': 'digits',
  'rows': [ROW],
  'claims': [CLAIM],
  'run': RUN,
}


def write(folder, name='astra_digits.json', **changes):
  content = {**CONTENT, **changes}
  (folder / name).write_text(json.dumps(content))
  return folder


def split(line):
  return [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]


def test_all_pages_are_what_the_files_say():
  """`make results` after a change of results/*.json or of the scripts."""
  for path, text in results.made().items():
    assert path.read_text() == text, path


def test_results_of_older_code_are_printed(monkeypatch, capsys):
  of = stale.Result('astra_digits', [], ['a' * 40], False, 60.0)
  monkeypatch.setattr(results, 'made', dict)
  monkeypatch.setattr(stale, 'ages', lambda: [stale.Age(of, ['b.py'])])
  results.main()
  line = capsys.readouterr().out.splitlines()[1]
  assert line.split() == ['astra_digits', 'a' * 7, '1', '1', 'b.py']


def test_what_stands_is_a_page_to_read():
  assert (
    len((ROOT / 'RESULTS.md').read_text().splitlines()) <= 280
  )  # eight papers


def test_the_first_table_has_what_each_of_the_eight_papers_is_known_for():
  lines = (ROOT / 'RESULTS.md').read_text().splitlines()
  start = next(
    i for i, line in enumerate(lines) if line.startswith('| paper |')
  )
  rows = [split(line) for line in lines[start + 2 : lines.index('', start)]]
  titles = [row[0] for row in rows if row[0]]
  papers = [n for n in PAPERS if n != 'language']  # which is of many papers
  assert titles == [results.FINDINGS[name]['title'] for name in papers]
  assert len(titles) == 8
  for _, known, verdict, why in rows:
    assert known and re.search('hold|undecided|does not', verdict)
    assert why.endswith('.') and len(why) > 40
    assert not re.search(r'[.]\d', why)  # a figure could go out of date


def test_every_committed_claim_is_counted():
  lines = (ROOT / 'RESULTS.md').read_text().splitlines()
  start = lines.index('| :--- | ---: | ---: | ---: | ---: | ---: |')
  end = lines.index('', start)
  counted = [
    sum(int(split(line)[column]) for line in lines[start + 1 : end])
    for column in range(1, 6)
  ]
  files = list((ROOT / 'results').glob('*.json'))
  claims = [c for f in files for c in json.loads(f.read_text())['claims']]
  assert counted[:2] == [len(files), len(claims)]
  assert counted[2] == sum(c['holds'] for c in claims)
  assert sum(counted[2:]) == len(claims)


@pytest.mark.parametrize('name', PAPERS)
def test_a_papers_readme(name):
  """Its figures are committed ones; the page has its three sentences."""
  text = (ROOT / 'experiments' / name / 'README.md').read_text()
  assert results.FINDINGS[name]['link'] in text
  prose = re.sub(r'<!-- \w+: .*?<!-- end -->', '', text, flags=re.S)
  made = (ROOT / 'results' / f'{name}.md').read_text()
  links = r'https?://\S+'
  for figure in re.findall(r'\b0\.\d{3}\b', re.sub(links, '', prose)):
    assert figure in made, figure
  for linked in re.findall(r'\]\((\.[\w./]+)\)', text):
    assert (ROOT / 'experiments' / name / linked).exists(), linked
  for path in re.findall(r'`((?:tda_jax|tests)/[\w./]+)`', prose):
    assert (ROOT / path).exists(), path
  why = results.differs(name)
  assert ' '.join(why.split()) in (ROOT / 'RESULTS.md').read_text()
  assert 3 == len(re.findall(r'[.]\s', why + '\n')), why


def test_no_page_names_a_machines_folders():
  pages = [ROOT / 'RESULTS.md', *(ROOT / 'results').glob('*.md')]
  for path in pages:
    assert not re.search(r'[ =](/home|/tmp|/root|/work)\b', path.read_text())


def test_a_leaderboard():
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
  found = [
    split(line)
    for line in results.board(rows, results.BOARDS['leaderboard']).splitlines()
  ]
  named = dict(zip(found[0], range(11), strict=True))
  assert [line[0] for line in found[2:]] == ['high', 'low', 'random']
  assert found[2][named['mislabel AUC ↑']] == '0.99'
  assert found[3][named['LDS ↑']] == '0.00'
  assert found[3][named['mislabel AUC ↑']] == '–'


def test_a_text_without_marks_is_refused():
  with pytest.raises(ValueError, match='there are no marks .*leaderboard'):
    results.filled('# a readme', 'table', 'leaderboard')


def test_what_stands(tmp_path):
  write(tmp_path, 'a.json', claims=[{**CLAIM, 'holds': True}])
  write(tmp_path, 'b.json', setting='concrete')
  lines = results.render(tmp_path).splitlines()
  assert '| ASTRA (Wang et al. 2025) | 2 | 2 | 1 | 1 | 0 |' in lines
  at = lines.index('| finding | settings | ours | the paper | verdict |')
  assert split(lines[at + 2])[1:] == [
    'digits',
    '+0.010 [-0.005, +0.025]',
    '§5.1: it does',
    'holds',
  ]
  assert split(lines[at + 3]) == [
    '',
    'concrete',
    '+0.010 [-0.005, +0.025]',
    '',
    'undecided',
  ]


def test_figures(tmp_path):
  ceiling = {**ROW, 'method': 'perfect', 'metric': 'ceiling', 'n': None}
  noise = {**ROW, 'metric': 'damping', 'value': 3e-5, 'low': None, 'n': 2}
  other = {**ROW, 'method': 'cg', 'seconds': None, 'peak_mb': None}
  write(tmp_path, rows=[ROW, other, noise, ceiling])
  loaded = results.load(tmp_path / 'astra_digits.json')
  lines = figures.page('ASTRA', [loaded]).splitlines()
  for line in (
    '# ASTRA: figures',
    '## digits',
    "    python -m experiments.astra '--config=a b.py' --workdir=DIR",
    '2026-11-24T10:00:00+00:00, 1 h 7 min on 2 cores; commit abc123;'
    ' jax 0.10.2, python 3.11.',
    '| method | lds_single | damping | n | seconds | MB |',
    '| exact | 0.618 [0.600, 0.630] | 3.00e-05 | 10, 2 | 7.250 | 1,234 |',
    '| cg | 0.618 [0.600, 0.630] | – | 10 | – | – |',
    '| method | ceiling | seconds | MB |',
    f'| {CLAIM["claim"]} | paper, Fig. \\| 2 | gain above 0 |'
    ' +0.010 [-0.005, +0.025] | undecided |',
  ):
    assert line in lines
  # A table needs an empty line before it and none inside.
  for i, line in enumerate(lines):
    if line.startswith('| :---'):
      assert lines[i - 2] == '' and lines[i + 1].startswith('| ')


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
  assert cells.number(value) == text


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'run': {**RUN, 'commit': None}}, 'does not say the commit of its run'),
    ({'run': None}, 'astra_digits.json'),
    ({'experiment': 'mine'}, 'mine, which scripts/findings.toml does not know'),
    (
      {'claims': [{**CLAIM, 'claim': 'another'}]},
      "the claim 'another' of astra is of no finding",
    ),
  ],
)
def test_figures_without_a_place_are_refused(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    results.render(write(tmp_path, **changes))


def test_damaged_and_foreign_files(tmp_path):
  (tmp_path / 'a.json').write_text('{"rows": [')
  with pytest.raises(ValueError, match='a.json is no result of a run'):
    results.render(tmp_path)
  (tmp_path / 'a.json').write_text('{"rows": [], "claims": []}')
  with pytest.raises(ValueError, match="KeyError: 'run'"):
    results.render(tmp_path)
