"""RESULTS.md and results/PAPER.md from results/*.json, the archive.

  python -m scripts.results

Each JSON file is the results.json of a run, with a `run` object that says where
it comes from. RESULTS.md says for each paper what stands and what does not;
results/PAPER.md has every figure. No figure is typed in: the words of findings
are in scripts/findings.toml, those on what differs in the READMEs of experiments/,
whose tables are made here too, between two marks, as those of README. Which files are
of older code than the present is printed and in no page, which would be out of date
with the next commit.
"""

import json
import pathlib
import re
import sys
import tomllib
from typing import NamedTuple

from scripts import figures, stale, verdicts
from scripts.cells import (
  cell,
  command,
  duration,
  head,
  short,
  table,
  words,
)

ROOT = pathlib.Path(__file__).parents[1]
RUN = ('command', 'commit', 'hardware', 'seconds', 'date', 'versions')
FINDINGS = tomllib.loads(
  (pathlib.Path(__file__).parent / 'findings.toml').read_text()
)


class Board(NamedTuple):
  """A table of methods in README: its run, and its metrics with their columns.

  Attributes:
    run: file in results/.
    columns: metric -> title.
    by: the metric whose largest value comes first.
    skipped: a word of the names of rows that it leaves out.
  """

  run: str
  columns: dict[str, str]
  by: str
  skipped: str | None = None


BOARDS = {  # the name of the mark in README -> its table
  'leaderboard': Board(
    'quanda_mnist5k.json',
    {
      'class_detection': 'class ↑',
      'subclass_detection': 'subclass ↑',
      'shortcut': 'shortcut ↑',
      'mixed': 'foreign ↑',
      'mislabel_auc': 'mislabel AUC ↑',
      'cleaning': 'cleaning ↑',
      'randomisation': 'randomised ↓',
      'lds': 'LDS ↑',
      'loo': 'leave-one-out ↑',
      'brittleness': 'brittleness ↑',
    },
    'lds',
  ),
  'language': Board(
    'language_tiny.json',
    {
      'lds_same_run': 'LDS, same run ↑',
      'lds_single': 'LDS, halves ↑',
      'qld': 'QLD, nats a token ↑',
      'token_qld': 'QLD of tokens ↑',
    },
    'lds_same_run',
  ),
  'fasttrack': Board(
    'fasttrack_facts.json',
    {
      'f1': 'F1 ↑',
      'precision': 'precision ↑',
      'recall': 'recall ↑',
      'mrr': 'MRR ↑',
      'judged': 'sentences judged',
    },
    'f1',
    'judged',
  ),
}
RUNS = {'faults': 'digits.json', 'mutants': 'mutants.json'}
MARKS = ('<!-- {}: by `make results` -->\n', '<!-- end -->\n')
DIFFERS = '## What differs, and why'

INTRODUCTION = """\
# Results

What the papers found, and what our committed runs say of it. Made by `make results`
from `results/*.json`; do not edit. **Ours** is what was measured, with its 95%
interval; of several claims the smallest and the largest. **Verdict**: `holds` as the
run judged; `undecided` where it does not, but the interval reaches the threshold;
`does not` otherwise. Lines without a finding go on with the one above. † is known to
us from summaries of the paper only. Every claim and figure, with command, commit and
hardware, is in the page named under the title.
"""

COUNTS = 'How many claims stand; a claim is one finding in one setting, often of one method.\n'


def render(folder: pathlib.Path) -> str:
  """RESULTS.md: what stands of each paper, of all result files in `folder`.

  Raises:
    ValueError: a file is damaged, or does not say which run it comes from, or a
      claim is of no finding.
  """
  papers = by_paper(folder)
  if not papers:
    return INTRODUCTION + '\nNo run is committed yet.\n'
  parts = [INTRODUCTION, headlines(papers), COUNTS, summary(papers)]
  for name, runs in papers.items():
    paper = FINDINGS[name]
    link = f'[The paper]({paper["link"]}), ' if paper['link'] else ''
    readme = f', [more](experiments/{name}/README.md)' if link else ''
    what = f'{link}[figures](results/{name}.md){readme}.'
    # One long line: a paragraph is wrapped where it is read.
    why = ' '.join(differs(name).split())
    parts.append(f'## {paper["title"]}\n\n{what} {why}\n')
    parts.append(findings(name, runs) + '\n')
  return '\n'.join(parts)


def by_paper(folder: pathlib.Path) -> dict[str, list[dict]]:
  """Name -> its runs, in the order of scripts/findings.toml."""
  papers = {name: [] for name in FINDINGS}
  for path in sorted(folder.glob('*.json')):
    run = load(path)
    if run['experiment'] not in papers:
      raise ValueError(
        f'{path} is of the experiment {run["experiment"]}, which'
        ' scripts/findings.toml does not know: say there what the paper found'
      )
    papers[run['experiment']].append(run)
  return {name: runs for name, runs in papers.items() if runs}


def load(path: pathlib.Path) -> dict:
  """One result file, which says all that the pages need."""
  try:
    content = json.loads(path.read_text())
    fields = ('run', 'experiment', 'setting', 'rows', 'claims')
    loaded = {key: content[key] for key in fields}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is no result of a run ({type(error).__name__}: {error}): copy'
      ' the results.json of a finished run there'
    ) from None
  missing = [f for f in RUN if (loaded['run'] or {}).get(f) is None]
  if missing:
    raise ValueError(
      f'{path} does not say the {", ".join(missing)} of its run: copy the'
      ' results.json of a finished run there'
    )
  return loaded


def summary(papers: dict[str, list[dict]]) -> str:
  """How many claims of each paper's runs have which verdict."""
  out = head('', 'runs', 'claims', *verdicts.VERDICTS, numbers=True)
  for name, runs in papers.items():
    found = [verdicts.verdict(c) for run in runs for c in run['claims']]
    counts = [found.count(v) for v in verdicts.VERDICTS]
    title = FINDINGS[name]['title']
    out.append((title, len(runs), len(found), *counts))
  return table(out) + '\n'


def headlines(papers: dict[str, list[dict]]) -> str:
  """What each paper is known for, what came of it here, and why."""
  out = head('paper', 'what it is known for', 'verdict', 'why')
  for name, runs in papers.items():
    title = FINDINGS[name]['title']
    for finding, claims in grouped(name, runs):
      if 'headline' not in finding:
        continue
      every = [claim for of in claims.values() for claim in of]
      verdict = verdicts.counted(every)
      cells = (title, finding['says'], verdict, finding['headline'])
      out.append(tuple(map(cell, cells)))
      title = ''
  return table(out) + '\n'


def findings(name: str, runs: list[dict]) -> str:
  """The table of one paper: a line a finding and verdict."""
  out = head('finding', 'settings', 'ours', 'the paper', 'verdict')
  for finding, claims in grouped(name, runs):
    measure = finding['measure']
    says = f'{finding["says"]} ({measure})' if measure else finding['says']
    paper = finding['paper']
    for line in verdicts.lines(claims):
      # Numbers of several kinds have no smallest and largest.
      ours = line.ours if measure else '–'
      cells = (says, ', '.join(line.settings), ours, paper, line.verdict)
      out.append(tuple(map(cell, cells)))
      says = paper = ''
  return table(out)


def ran(name: str, runs: list[dict]) -> str:
  """The committed runs of one paper; their whole commands are in its page."""
  out = head('setting', '`--config=`', 'time', 'hardware', 'date')
  for loaded in runs:
    run = loaded['run']
    config = re.search(r'--config=(\S+)', command(run['command']))
    what = f'`{config[1]}`' if config else ''
    cells = (loaded['setting'], what, duration(run['seconds']))
    cells += (words(run['hardware']), words(run['date'])[:10])
    out.append(tuple(map(cell, cells)))
  return table(out)


def grouped(name: str, runs: list[dict]) -> list[tuple[dict, dict]]:
  """(finding, setting -> its claims), of all findings that have any.

  Raises:
    ValueError: a claim is of no finding.
  """
  every = FINDINGS[name]['findings']
  found = [{} for _ in every]
  for run in runs:
    for claim in run['claims']:
      text = claim['claim']
      fit = (i for i, f in enumerate(every) if re.search(f['claims'], text))
      i = next(fit, None)
      if i is None:
        raise ValueError(
          f'the claim {text!r} of {name} is of no finding: add one to'
          ' scripts/findings.toml'
        )
      found[i].setdefault(run['setting'], []).append(claim)
  return [pair for pair in zip(every, found, strict=True) if pair[1]]


def differs(name: str) -> str:
  """What differs from the paper and why, in the words of its README.

  Raises:
    ValueError: the README lacks the section.
  """
  if 'differs' in FINDINGS[name]:
    return FINDINGS[name]['differs']
  path = ROOT / 'experiments' / name / 'README.md'
  _, found, rest = path.read_text().partition(f'{DIFFERS}\n\n')
  if not found:
    raise ValueError(f'{path} has no section {DIFFERS!r}: write it')
  return rest.partition('\n\n')[0]


def board(rows: list[dict], of: Board) -> str:
  """Method x metric, those of the largest `of.by` first; random scores last."""
  cells = {}
  for row in rows:
    skip = of.skipped and re.search(rf'\b{of.skipped}\b', row['method'])
    if row['metric'] in of.columns and not skip:
      cells.setdefault(row['method'], {})[row['metric']] = row['value']
  order = sorted(
    cells, key=lambda m: (m == 'random', -cells[m].get(of.by, 0.0))
  )
  lines = head('method', *of.columns.values(), numbers=True)
  lines += [(m, *(short(cells[m].get(c)) for c in of.columns)) for m in order]
  return table(lines)


def filled(text: str, made: str, name: str) -> str:
  """A text with `made` between the marks of that name.

  Raises:
    ValueError: a mark is missing.
  """
  start, end = MARKS[0].format(name), MARKS[1]
  if text.count(start) != 1 or end not in text.partition(start)[2]:
    raise ValueError(f'there are no marks {start!r} and {end!r}: put them')
  before, _, rest = text.partition(start)
  return before + start + made + '\n' + end + rest.partition(end)[2]


def faults(content: dict) -> str:
  """What `scripts.faults` counted."""
  fields = (
    'injected',
    'survived',
    'refused',
    'silent',
    'dead end',
    'traceback',
  )
  kills = content.get('kills', {})
  lines = head('', *fields, numbers=True)
  lines.append(('damaged files', *(content[field] for field in fields)))
  if kills:
    lines.append(('kills', *(kills[field] for field in fields)))
  return table(lines)


def mutants(content: dict) -> str:
  """What `scripts.mutants` counted."""
  counts = content['counts']
  died = counts.get('killed', 0) + counts.get('timeout', 0)
  tried = died + counts.get('survived', 0)
  names = ('changes tried', 'that a test noticed', 'share', 'commit')
  cells = (tried, died, f'{content["share_killed"]:.0%}', content['commit'])
  return table([*head(*names, numbers=True), tuple(map(str, cells))])


def reliability(text: str) -> str:
  """docs/reliability.md with the counts of its two runs."""
  for name, of in (('faults', faults), ('mutants', mutants)):
    file = ROOT / 'results' / 'faults' / RUNS[name]
    text = filled(text, of(json.loads(file.read_text())), name)
  return text


def pods(content: dict) -> str:
  """Programs of a pod: memory, operations and exchanges of a chip."""
  lines = head(
    'program', 'chips', 'given, GB', 'left, GB', 'at work, GB', 'GFLOP',
    'exchanged, GB', 'compiled, s', numbers=True,
  )  # fmt: skip
  for one in content['programs']:
    name = f'{one["case"]}, {one["stage"]}, {one["topology"]}'
    fields = ('arguments', 'results', 'working', 'flops', 'sent')
    sizes = (f'{one[field] / 1e9:.3g}' for field in fields)
    lines.append((name, str(one['chips']), *sizes, f'{one["seconds"]:.0f}'))
  return table(lines)


def hours(rows: list[dict]) -> str:
  """The hours of a pod by what bounds them."""
  kinds = ('hours of products', 'hours of links', 'hours of memory')
  found = {}
  for row in rows:
    if row['metric'] in kinds:
      found.setdefault(row['method'], {})[row['metric']] = row['value']
  lines = head('', *kinds, numbers=True)
  for name, of in found.items():
    lines.append((name, *(f'{of[kind]:.3g}' for kind in kinds)))
  return table(lines)


def checked(rows: list[dict]) -> str:
  """How far the formulas are off, and the work of the hosts."""
  lines = head('', 'formula over', 'ratio')
  for row in rows:
    what, _, over = row['metric'].partition('formula over ')
    if not what:
      lines.append((row['method'], over, f'{row["value"]:.2f}'))
  return table(lines)


def scaling(text: str, folder: pathlib.Path) -> str:
  """docs/scaling.md with the tables of its two runs."""
  rows = load(folder / 'scaling.json')['rows']
  content = json.loads((folder / 'pods.json').read_text())
  text = filled(text, pods(content), 'pods')
  return filled(filled(text, hours(rows), 'scaling'), checked(rows), 'checked')


def made(root: pathlib.Path = ROOT) -> dict[pathlib.Path, str]:
  """All pages -> what they are to say."""
  folder = root / 'results'
  pages = {}
  for name, runs in by_paper(folder).items():
    path = folder / f'{name}.md'
    pages[path] = figures.page(FINDINGS[name]['title'], runs)
    if FINDINGS[name]['link']:
      path = root / 'experiments' / name / 'README.md'
      text = path.read_text()
      text = filled(text, ran(name, runs), 'runs')
      pages[path] = filled(text, findings(name, runs), 'findings')
  pages[root / 'RESULTS.md'] = render(folder)
  readme, docs = root / 'README.md', root / 'docs' / 'reliability.md'
  pages[readme] = readme.read_text()
  for name, of in BOARDS.items():
    rows = load(folder / of.run)['rows']
    pages[readme] = filled(pages[readme], board(rows, of), name)
  pages[docs] = reliability(docs.read_text())
  docs = root / 'docs' / 'scaling.md'
  pages[docs] = scaling(docs.read_text(), folder)
  return pages


def main() -> None:
  try:
    pages = made()
  except (OSError, ValueError) as error:
    sys.exit(f'error: {error}')
  for path, text in pages.items():
    path.write_text(text)
  print(stale.table(stale.ages()))


if __name__ == '__main__':
  main()
