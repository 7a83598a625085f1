"""results/PAPER.md: every figure and claim of a paper's committed runs.

Wide tables: a line a method, a column a metric. Methods that were asked about
different things (the models, pairs of methods) have tables of their own.
"""

from scripts import verdicts
from scripts.cells import (
  cell,
  command,
  duration,
  head,
  interval,
  number,
  table,
  words,
)

NOTE = """\
Made by `make results` from the JSON files beside it; do not edit. Intervals: 95%
bootstrap; two standard errors of the jackknife over seeds in bayesian_tda, Wilson's
of shares of queries (quanda, `flip_rate`), DeLong's of wrong labels, and in quanda the
range over seeds of random scores. In runs of commit b10bb96 and before: one standard
error over the n models for `lds_single`, two over queries for `loo_*`, one over queries
in final_model_only. A figure without an interval: its spread is not known. Seconds: of
one model. Peak MB: of the whole process.
"""


def page(title: str, runs: list[dict]) -> str:
  """The page of one paper: a section a run."""
  parts = [f'# {title}: figures\n', NOTE]
  for run in runs:
    parts.append(section(run))
  return '\n'.join(parts)


def section(loaded: dict) -> str:
  """One run: where it comes from, its figures, its claims."""
  run = loaded['run']
  parts = [
    f'## {loaded["setting"]}\n',
    f'    {command(run["command"])}\n',
    f'{words(run["date"])}, {duration(run["seconds"])} on'
    f' {words(run["hardware"])}; commit {words(run["commit"])};'
    f' {words(run["versions"])}.\n',
  ]
  parts += [wide(rows) + '\n' for rows in alike(loaded['rows'])]
  if loaded['claims']:
    parts.append(claims(loaded['claims']) + '\n')
  return '\n'.join(parts)


def alike(rows: list[dict]) -> list[list[dict]]:
  """Rows in tables: methods that share a metric are in the same one."""
  kinds = []  # (metrics, rows)
  for row in rows:
    of = [r for r in rows if r['method'] == row['method']]
    metrics = {r['metric'] for r in of}
    joined = [kind for kind in kinds if kind[0] & metrics]
    kinds = [kind for kind in kinds if kind not in joined]
    kinds.append(
      (
        metrics.union(*(kind[0] for kind in joined)),
        [*(r for kind in joined for r in kind[1]), row],
      )
    )
  return [found for _, found in kinds]


def wide(rows: list[dict]) -> str:
  """A line a method, a column a metric; what it cost at the end."""
  metrics = list(dict.fromkeys(row['metric'] for row in rows))
  methods = {}
  for row in rows:
    methods.setdefault(row['method'], {})[row['metric']] = row
  costs = [
    (field, label)
    for field, label in (('n', 'n'), ('seconds', 'seconds'), ('peak_mb', 'MB'))
    if any(row.get(field) is not None for row in rows)
  ]
  labels = [cell(metric) for metric in metrics]
  out = head('method', *labels, *(label for _, label in costs), numbers=True)
  for method, of in methods.items():
    values = [figure(of.get(metric)) for metric in metrics]
    spent = [cost(of.values(), field) for field, _ in costs]
    out.append((cell(method), *values, *spent))
  return table(out)


def figure(row: dict | None) -> str:
  """'0.333 [0.313, 0.353]'; a dash for what was not measured."""
  if row is None:
    return '–'
  return f'{number(row["value"])} {interval(row)}'.rstrip()


def cost(rows, field: str) -> str:
  """What the rows of a method say of it; all values where they differ."""
  values = dict.fromkeys(row.get(field) for row in rows)
  values.pop(None, None)
  return ', '.join(map(number, values)) or '–'


def claims(every: list[dict]) -> str:
  """All claims of a run with their verdicts."""
  out = head('claim', 'source', 'expected', 'observed', 'verdict')
  for claim in every:
    fields = ('claim', 'source', 'expected', 'observed')
    told = (cell(claim[field]) for field in fields)
    out.append((*told, verdicts.verdict(claim)))
  return table(out)
