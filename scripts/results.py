"""RESULTS.md from results/*.json: every figure with the run that computed it.

  python -m scripts.results

Each file is the results.json of a run, with a `run` object that says where it
comes from; nothing in RESULTS.md is typed in.
"""

import json
import pathlib
import shlex
import sys

import jinja2

ROOT = pathlib.Path(__file__).parents[1]
RUN = ('command', 'commit', 'hardware', 'seconds', 'date', 'versions')

PAGE = """\
# Results

Made by `make results` from `results/*.json`; do not edit. Intervals: one
standard error over the n models for `lds_single`, two over queries for `loo_*`,
95% bootstrap otherwise. Seconds: of one model. Peak MB: of the whole process.
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
  }


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
  low, high = row.get('low'), row.get('high')
  if low is None and high is None:
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
  return shlex.join(value) if isinstance(value, list) else str(value)


def duration(seconds: float) -> str:
  if seconds < 120:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  hours = f'{minutes // 60} h ' if minutes >= 60 else ''
  return f'{hours}{minutes % 60} min'


def main() -> None:
  try:
    page = render(ROOT / 'results')
  except ValueError as error:
    sys.exit(f'error: {error}')
  (ROOT / 'RESULTS.md').write_text(page)


if __name__ == '__main__':
  main()
