"""Where people look for results: results.json, the terminal, a page."""

import pathlib
from collections.abc import Sequence

from tda_jax.report import summary, table
from tda_jax.report.page import Query
from tda_jax.storage import record


def tell(
  config, folder: pathlib.Path, rows, claims, tabled: bool = True
) -> None:
  """Writes results.json into the folder and prints its tables.

  Args:
    tabled: whether rows are printed, which some print as they come.
  """
  record.results(
    folder / 'results.json', config.experiment, config.setting, rows, claims
  )
  if tabled:
    table.print_results(rows, f'{config.experiment} {config.setting}')
  if claims:
    table.print_claims(claims)


def page(
  config,
  workdir: pathlib.Path,
  about: str,
  rows,
  claims,
  plots: Sequence[str],
  queries: Sequence[Query] = (),
  method: str = '',
) -> None:
  """Writes report.html into the workdir, and says where it and the plots are.

  Args:
    queries, method: experiments.evidence, and whose scores it is by.
  """
  for path in plots:
    print(f'plot: {path}')
  path = summary.write(
    workdir / 'report.html',
    title=f'{config.experiment}: {config.setting}',
    about=about,
    rows=rows,
    claims=claims,
    plots=plots,
    queries=queries,
    method=method,
  )
  print(f'report: {path}')
