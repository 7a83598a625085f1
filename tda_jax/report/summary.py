"""Writes an HTML page of an experiment: its results, claims and plots."""

import os
import pathlib
from collections.abc import Sequence

from tda_jax.report import cards, page
from tda_jax.storage import record


def write(
  path: str | os.PathLike,
  *,
  title: str,
  about: str,
  rows: Sequence[dict] = (),
  claims: Sequence[dict] = (),
  plots: Sequence[str | os.PathLike] = (),
  queries: Sequence[cards.Query] = (),
  method: str = '',
  context: dict[str, str] | None = None,
) -> str:
  """Writes the page, with the command, commit and versions of this process.

  Args:
    about: what the experiment is; an empty line starts a paragraph.
    rows, claims: those of results.json.
    plots: PNG files, titled by their names.
    queries, method, context: as `page.write`.

  Returns:
    The path.

  Raises:
    ValueError: a plot is not there.
  """
  return page.write(
    path,
    title=title,
    about=about,
    facts=record.environment(),
    rows=rows,
    claims=claims,
    plots=[_plot(plot) for plot in plots],
    queries=queries,
    method=method,
    context=context,
  )


def _plot(path):
  name = pathlib.Path(path).stem.replace('_', ' ')
  return page.Plot(path, name, f'plot: {name}')
