"""Pages for newcomers: what they point at is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  ROOT / name
  for name in ('README.md', 'AGENTS.md', 'CONTRIBUTING.md', 'RESULTS.md')
] + [*(ROOT / 'docs').glob('*.md'), *(ROOT / 'experiments').rglob('README.md')]


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page):
  links = re.findall(r'\]\(([^)#]+)\)', page.read_text())
  gone = [
    link
    for link in links
    if '://' not in link and not (page.parent / link).exists()
  ]
  assert not gone


def test_ten_questions_are_answered_two_clicks_from_the_readme():
  assert '](docs/where.md)' in (ROOT / 'README.md').read_text()
  rows = [
    line
    for line in (ROOT / 'docs' / 'where.md').read_text().splitlines()
    if line.startswith('| W') or line.startswith('| H')
  ]
  assert len(rows) >= 10 and all('](' in row for row in rows)
  # What a row says of a file is there: `damped`, `_descend`, ...
  assert 'def damped' in (ROOT / 'tda_jax/inverses/inverse.py').read_text()


@pytest.mark.parametrize('name', ['maths.md', 'hosts.md', 'AGENTS.md'])
def test_the_files_that_are_named_are_there(name):
  page = ROOT / name if name == 'AGENTS.md' else ROOT / 'docs' / name
  named = re.findall(r'`([a-z_/]+\.py)', page.read_text())
  # Names without a folder stand for a file of each paper, or of `shared/`.
  tops = (
    '.',
    'tda_jax',
    'experiments',
    'experiments/shared',
    'experiments/astra',
  )
  tops = [ROOT / top for top in (*tops, 'experiments/bayesian_tda')]
  missing = [p for p in named if not any((top / p).exists() for top in tops)]
  assert not missing
