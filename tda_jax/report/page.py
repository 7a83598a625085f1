"""Writes an HTML page of an evaluation: self-contained, readable offline."""

import base64
import io
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import matplotlib.image
import numpy as np

from tda_jax import parallel
from tda_jax.report import table, verdicts
from tda_jax.report.cards import Query
from tda_jax.storage import files

COLUMNS = 12  # shown of a table's row; further ones are counted


class Plot(NamedTuple):
  """A PNG file with its title and alt text."""

  path: str | os.PathLike
  title: str
  text: str


def write(
  path: str | os.PathLike,
  *,
  title: str,
  facts: dict[str, Any],
  about: str = '',
  rows: Sequence[dict] = (),
  claims: Sequence[dict] = (),
  plots: Sequence[Plot] = (),
  coverage: Sequence[tuple] = (),
  queries: Sequence[Query] = (),
  method: str = '',
  context: dict[str, str] | None = None,
) -> str:
  """Writes the page; empty parts are left out.

  The queries come first: readers ask why the model answered as it did. Of several
  hosts the first writes, whose plots are there.

  Args:
    facts: name -> text, number or list of them; a dict is folded away.
    about: what the page shows; an empty line starts a paragraph.
    rows, claims: those of results.json.
    coverage: rows (name, kind, parameters, fraction).
    queries: `cards.queries`.
    method: whose scores they show.
    context: what readers must know to understand the queries, name -> text: the
      model, how often it is right, what a score is a change of.

  Returns:
    The path.

  Raises:
    ValueError: a plot is not there.
  """
  if not parallel.owner():
    return str(path)
  metrics, methods = table.by_method(list(rows))
  return render(
    path,
    'page.html',
    title=title,
    about=paragraphs(about),
    **listed(facts),
    tables=[
      (names, part, table.costs(part))
      for names, part in table.apart(metrics, methods)
    ],
    best={metric: _best(methods, metric) for metric in metrics},
    claims=claims,
    plots=[(plot, _file(plot.path)) for plot in plots],
    coverage=coverage,
    queries=queries,
    power=_power(queries),
    uncertain=any(one.standard_error is not None for one in _evidence(queries)),
    tested=any(one.significant is not None for one in _evidence(queries)),
    method=method,
    context=context or {},
    columns=COLUMNS,
  )


def render(path: str | os.PathLike, template: str, **content: Any) -> str:
  """Writes a page of this folder's `template`, whole or not at all.

  Returns:
    The path.
  """
  files.show(path, text(template, **content).encode())
  return str(path)


def text(template: str, **content: Any) -> str:
  """A page of this folder's `template`, with what it shows escaped."""
  return _environment().get_template(template).render(**content)


def listed(facts: dict[str, Any]) -> dict[str, list]:
  """Facts for a page: short ones as text, dicts as JSON to be folded away."""
  short, folded = [], []
  for name, value in facts.items():
    if isinstance(value, dict):
      folded.append((name, json.dumps(value, indent=2, default=str)))
    else:
      short.append((name, _fact(value)))
  return {'facts': short, 'folded': folded}


def paragraphs(text: str) -> list[str]:
  """The paragraphs of a docstring: empty lines separate them."""
  return [' '.join(p.split()) for p in text.split('\n\n') if p.strip()]


def png(image: np.ndarray) -> str:
  """An image in [0, 1] as a data URL.

  Raises:
    ValueError: not [H, W], [H, W, 1] or [H, W, 3].
  """
  image = np.asarray(image, np.float32)
  if image.ndim == 3 and image.shape[-1] == 1:
    image = image[..., 0]
  if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3):
    raise ValueError(
      f'an image of shape {image.shape} cannot be shown: give [H, W], [H, W,'
      ' 1] or [H, W, 3]'
    )
  file = io.BytesIO()
  matplotlib.image.imsave(
    file, np.clip(image, 0, 1), vmin=0, vmax=1, cmap='gray', format='png'
  )
  return _url(file.getvalue())


def _environment():
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('tda_jax.report', '.'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(
    number=table.number,
    interval=table.interval,
    verdict=verdicts.verdict,
    png=png,
    signed=_signed,
    error=_error,
    cell=_cell,
    sides=_sides,
    tint=_tint,
    share=lambda x: f'{100 * x:.1f}%',
  )
  return environment


def _best(methods, metric):
  """The method with the largest LDS; None for other metrics."""
  if not metric.lower().startswith('lds'):
    return None
  values = {
    method.name: method.results[metric]['value']
    for method in methods
    if metric in method.results and 'ceiling' not in method.name
  }
  known = {name: v for name, v in values.items() if v is not None}
  return max(known, key=known.__getitem__) if len(known) > 1 else None


def _fact(value):
  if isinstance(value, list | tuple):
    words = [str(word) for word in value]
    if len(words) > 1 and len(set(words)) == 1:
      return f'{len(words)} × {words[0]}'
    return ' '.join(words)
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, float):
    return f'{value:.6g}'
  return '–' if value is None else str(value)


def _power(queries):
  """The power of ten that scores are shown in; 0 if they need none."""
  scores = [abs(one.score) for one in _evidence(queries)]
  if not any(scores):
    return 0
  power = math.floor(math.log10(max(scores)))
  return 0 if -1 <= power <= 3 else power


def _evidence(queries):
  return [
    one
    for query in queries
    for side in (query.supporters, query.opponents, query.rivals or ())
    for one in side
  ]


def _tint(weight):
  """The background of words, as CSS: of its sign's colour; '' where it is faint."""
  percent = round(60 * min(abs(weight), 1.0))
  colour = 'for' if weight > 0 else 'against'
  mixed = f'color-mix(in srgb, var(--{colour}) {percent}%, transparent)'
  return f'background: {mixed}' if percent else ''


def _sides(query):
  """(heading, kind, evidence) of the two sides that a query is shown with."""
  ups, downs = ('Supporters', 'supporter'), ('Opponents', 'opponent')
  if query.rivals is None:
    return [(*ups, query.supporters), (*downs, query.opponents)]
  return [
    (f'Supports its label: {query.example.label}', ups[1], query.supporters),
    (f'Supports the prediction: {query.predicted}', downs[1], query.rivals),
  ]


def _error(evidence, power):
  """'± 0.12', with a star if the score is significant; '' for one model."""
  if evidence.standard_error is None:
    return ''
  size = evidence.standard_error / 10.0**power
  text = f'± {size:.2g}' if size >= 1e-3 else f'± {size:.1g}'
  return text + (' *' if evidence.significant else '')


def _signed(value, power):
  """A score with its sign, in units of 10^power; short enough for its column."""
  size = abs(value) / 10.0**power
  text = f'{size:#.3g}' if size >= 1e-3 else f'{size:#.2g}'
  return ('+' if value >= 0 else '−') + text.rstrip('.')


def _cell(value):
  if isinstance(value, str):
    return value
  whole = float(value).is_integer() and abs(value) < 1e9  # as years and ids
  return f'{float(value):{".0f" if whole else ".4g"}}'


def _file(path):
  try:
    return _url(pathlib.Path(path).read_bytes())
  except FileNotFoundError:
    raise ValueError(
      f'the plot {path} is not there: make it before the page'
    ) from None


def _url(content):
  return 'data:image/png;base64,' + base64.b64encode(content).decode()
