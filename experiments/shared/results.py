"""Writes results where people look: results.json, the terminal, a page."""

import pathlib
from collections.abc import Sequence

from experiments.shared import tasks
from experiments.shared.evidence import Shown
from tda_jax.evaluation.bootstrap import Estimate
from tda_jax.report import summary, table
from tda_jax.storage import record


def name_of(config) -> str:
  """What the results are of: the setting, or a user's own task or file."""
  if tasks.is_file(config):
    return pathlib.Path(config.data.name).name
  return config.task if tasks.is_users(config) else config.setting


def title(config) -> str:
  """The title of a page: experiment and setting, or a user's own task."""
  if tasks.is_users(config):
    return name_of(config)
  return f'{config.experiment}: {config.setting}'


def judged(config, claims) -> list:
  """The claims, which are about the papers' own tasks: none of a user's."""
  return [] if tasks.is_users(config) else claims


def row(method: str, metric: str, estimate: Estimate, n: int | None) -> dict:
  """A result row: a value with its interval, of n things."""
  return {
    'method': method,
    'metric': metric,
    'value': estimate.value,
    'low': estimate.low,
    'high': estimate.high,
    'n': n,
  }


def write_results(
  config, folder: pathlib.Path, rows, claims, tabled: bool = True
) -> None:
  """Writes results.json into the folder and prints its tables.

  Args:
    tabled: whether rows are printed, which some print as they come.
  """
  record.results(
    folder / 'results.json', config.experiment, name_of(config), rows, claims
  )
  if tabled:
    table.print_results(rows, f'{config.experiment} {name_of(config)}')
  if claims:
    table.print_claims(claims)


def page(
  config,
  workdir: pathlib.Path,
  about: str,
  rows,
  claims,
  plots: Sequence[str],
  shown: Shown | None = None,
) -> None:
  """Writes report.html into the workdir, and says where it and the plots are.

  Args:
    shown: experiments.shared.evidence; None: no queries.
  """
  for path in plots:
    print(f'plot: {path}')
  path = summary.write(
    workdir / 'report.html',
    title=title(config),
    about=about,
    rows=rows,
    claims=claims,
    plots=plots,
    **({} if shown is None else shown._asdict()),
  )
  print(f'report: {path}')
