"""RESULTS.md from results/*.json: every figure with the run that computed it.

  python -m scripts.results

Each file is the results.json of a run, with a `run` object that says where it
comes from; nothing in RESULTS.md is typed in, nor in README's leaderboard, which
stands between two marks.
"""

import json
import pathlib
import shlex
import sys

import jinja2

ROOT = pathlib.Path(__file__).parents[1]
RUN = ('command', 'commit', 'hardware', 'seconds', 'date', 'versions')

# README's leaderboard: its run, and the columns of its metrics.
BOARD = 'quanda_mnist5k.json'
COLUMNS = {
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
}
RUNS = {'faults': 'digits.json', 'mutants': 'mutants.json'}
MARKS = ('<!-- {}: by `make results` -->\n', '<!-- end -->\n')

PAGE = """\
# Results

Made by `make results` from `results/*.json`; do not edit. Intervals: 95%
bootstrap; two standard errors of the jackknife over seeds in bayesian_tda, Wilson's
of shares of queries (quanda, `flip_rate`), DeLong's of wrong labels, and in quanda the
range over seeds of random scores. In runs of commit b10bb96 and before: one standard
error over the n models for `lds_single`, two over queries for `loo_*`, one over queries
in final_model_only. –: the spread is not known. Seconds: of one model. Peak MB: of the whole process.
{% if files %}

| run | claims that hold | figures |
| :--- | ---: | ---: |
{% for f in files %}
| [{{ f.title }}](#{{ f.anchor }}) | {{ f.hold }} of {{ f.claims | length }} | \
{{ f.rows | length }} |
{% endfor %}
{% else %}

No run is committed yet.
{% endif %}
{% for f in files %}

## {{ f.title }}

    {{ f.run.command | command }}

{{ f.run.date }}, {{ f.run.seconds | duration }} on {{ f.run.hardware | words }}; \
commit {{ f.run.commit | words }}; {{ f.run.versions | words }}.
{% if f.board %}

{{ f.board }}
{% endif %}
{% if f.rows %}

| method | metric | value | interval | n | seconds | peak MB |
| :--- | :--- | ---: | :--- | ---: | ---: | ---: |
{% for r in f.rows %}
| {{ r.method | cell }} | {{ r.metric | cell }} | {{ r.value | number }} | \
{{ r | interval }} | {{ r.n | number }} | {{ r.seconds | number }} | \
{{ r.peak_mb | number }} |
{% endfor %}
{% endif %}
{% if f.claims %}

| claim | source | expected | observed | holds |
| :--- | :--- | :--- | :--- | :--- |
{% for c in f.claims %}
| {{ c.claim | cell }} | {{ c.source | cell }} | {{ c.expected | cell }} | \
{{ c.observed | cell }} | {{ 'yes' if c.holds else '**no**' }} |
{% endfor %}
{% endif %}
{% endfor %}
"""


def render(folder: pathlib.Path) -> str:
  """The page of all result files in `folder`, in the order of their names.

  Raises:
    ValueError: a file is damaged, or does not say which run it comes from.
  """
  environment = jinja2.Environment(
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters |= {
    'cell': cell,
    'command': command,
    'duration': duration,
    'interval': interval,
    'number': number,
    'words': words,
  }
  files = [load(path) for path in sorted(folder.glob('*.json'))]
  return environment.from_string(PAGE).render(files=files)


def load(path: pathlib.Path) -> dict:
  """One result file, with what the page says of it as a whole."""
  try:
    content = json.loads(path.read_text())
    run, rows, claims = (content[key] for key in ('run', 'rows', 'claims'))
    title = f'{content["experiment"]}: {content["setting"]}'
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is no result of a run ({type(error).__name__}: {error}): copy'
      ' the results.json of a finished run there'
    ) from None
  missing = [field for field in RUN if (run or {}).get(field) is None]
  if missing:
    raise ValueError(
      f'{path} does not say the {", ".join(missing)} of its run: copy the'
      ' results.json of a finished run there'
    )
  return {
    'title': title,
    # As GitHub makes anchors of headings.
    'anchor': title.lower().replace(': ', '-'),
    'run': run,
    'rows': rows,
    'claims': claims,
    'hold': sum(bool(claim['holds']) for claim in claims),
    'board': board(rows) if content['experiment'] == 'quanda' else '',
  }


def board(rows: list[dict]) -> str:
  """Method x metric, those of the largest LDS first; random scores last."""
  cells = {}
  for row in rows:
    if row['metric'] in COLUMNS:
      cells.setdefault(row['method'], {})[row['metric']] = row['value']
  order = sorted(
    cells, key=lambda m: (m == 'random', -cells[m].get('lds', 0.0))
  )
  lines = [
    ('method', *COLUMNS.values()),
    (':---', *['---:'] * len(COLUMNS)),
    *((m, *(short(cells[m].get(c)) for c in COLUMNS)) for m in order),
  ]
  return table(lines)


def filled(text: str, made: str, name: str = 'leaderboard') -> str:
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
  lines = [
    ('', *fields),
    (':---', *['---:'] * len(fields)),
    ('damaged files', *(content[field] for field in fields)),
  ]
  if kills:
    lines.append(('kills', *(kills[field] for field in fields)))
  return table(lines)


def mutants(content: dict) -> str:
  """What `scripts.mutants` counted."""
  counts = content['counts']
  died = counts.get('killed', 0) + counts.get('timeout', 0)
  told = f'{died} of {died + counts.get("survived", 0)}'
  head = [('changes that a test noticed', 'share'), (':---', '---:')]
  return table([*head, (told, f'{content["share_killed"]:.0%}')])


def table(lines: list[tuple]) -> str:
  """Lines of cells as a table."""
  return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def reliability(text: str) -> str:
  """docs/reliability.md with the counts of its two runs."""
  for name, of in (('faults', faults), ('mutants', mutants)):
    file = ROOT / 'results' / 'faults' / RUNS[name]
    text = filled(text, of(json.loads(file.read_text())), name)
  return text


def short(value) -> str:
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
  """'[low, high]'; – where the spread is not known: one without width is none."""
  low, high = row.get('low'), row.get('high')
  if low is None or high is None or low == high:
    return '–'
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
  return shlex.join(value) if isinstance(value, list) else str(value)


def duration(seconds: float) -> str:
  if seconds < 120:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  hours = f'{minutes // 60} h ' if minutes >= 60 else ''
  return f'{hours}{minutes % 60} min'


def main() -> None:
  readme, docs = ROOT / 'README.md', ROOT / 'docs' / 'reliability.md'
  try:
    page = render(ROOT / 'results')
    shown = filled(readme.read_text(), load(ROOT / 'results' / BOARD)['board'])
    counted = reliability(docs.read_text())
  except ValueError as error:
    sys.exit(f'error: {error}')
  (ROOT / 'RESULTS.md').write_text(page)
  readme.write_text(shown)
  docs.write_text(counted)


if __name__ == '__main__':
  main()
