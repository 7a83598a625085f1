"""One HTML page of an evaluation: self-contained, readable offline."""

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

from tda_jax.report import table
from tda_jax.storage import files

COLUMNS = 12  # of a table row; what is beyond is counted, not shown


class Plot(NamedTuple):
  """A PNG file; `text` says what it shows to who cannot see it."""

  path: str | os.PathLike
  title: str
  text: str


class Example(NamedTuple):
  """A row of data as people look at it.

  Attributes:
    row: its number.
    label: as text.
    image: [H, W], [H, W, 1] or [H, W, 3] in [0, 1]; None for a table's row.
    cells: column -> value or text; None for an image.
  """

  row: int
  label: str
  image: np.ndarray | None = None
  cells: dict[str, float | str] | None = None


class Evidence(NamedTuple):
  """A training row and its score for a query: positive supports it.

  Attributes:
    standard_error: of an ensemble's score; None for one model's.
    significant: whether models that did not pick the row confirm it.
  """

  example: Example
  score: float
  standard_error: float | None = None
  significant: bool = False


class Query(NamedTuple):
  """A query, what the model makes of it, and its strongest evidence.

  Attributes:
    supporters: highest score first.
    opponents: lowest score first.
  """

  example: Example
  predicted: str
  supporters: Sequence[Evidence]
  opponents: Sequence[Evidence]


def queries(
  scores: np.ndarray,
  train: np.ndarray,
  labels: Sequence,
  shown: np.ndarray,
  shown_labels: Sequence,
  predicted: Sequence,
  which: Sequence[int],
  *,
  count: int = 6,
  classes: Sequence[str] | None = None,
  columns: Sequence[str] | None = None,
  standard_error: np.ndarray | None = None,
  significant: np.ndarray | None = None,
) -> list[Query]:
  """The strongest supporters and opponents of some queries.

  Args:
    scores: [N, Q].
    train, shown: rows and queries to look at; images [N, H, W], [N, H, W, 1 or
      3], scaled together to [0, 1], or tables [N, D] of numbers or texts.
    labels, shown_labels: of the rows and of the queries.
    predicted: [Q], the model's labels or values.
    which: numbers of the queries to show.
    count: supporters, and opponents, of each; fewer where fewer rows have a
      score of that sign.
    classes: names of the labels; None: as they are.
    columns: names of a table's columns; None: numbered.
    standard_error, significant: of each score, [N, Q], as
      `significance.uncertainty` and `supporters.marked` have them; None: of one
      model.

  Raises:
    ValueError: scores of other rows or queries.
  """
  for given in (scores, standard_error, significant):
    if given is not None and given.shape != (len(train), len(shown)):
      raise ValueError(
        f'scores of shape {given.shape} do not fit {len(train)} rows and'
        f' {len(shown)} queries to show: give those that were scored'
      )
  train, shown = np.asarray(train), np.asarray(shown)
  if train.ndim > 2:
    low = min(train.min(), shown.min())
    scale = max(train.max(), shown.max()) - low or 1.0
  names = columns or [f'x{i}' for i in range(train.shape[-1])]

  def example(rows, labels, i):
    label = label_text(labels[i], classes)
    if rows.ndim > 2:
      return Example(int(i), label, image=(rows[i] - low) / scale)
    cells = dict(zip(names, rows[i], strict=True))
    return Example(int(i), label, cells=cells)

  def evidence(q, order, sign):
    rows = [i for i in order[:count] if sign * scores[i, q] > 0]
    return [
      Evidence(
        example(train, labels, i),
        scores[i, q],
        None if standard_error is None else float(standard_error[i, q]),
        significant is not None and bool(significant[i, q]),
      )
      for i in rows
    ]

  found = []
  for q in which:
    order = np.argsort(-scores[:, q], kind='stable')
    found.append(
      Query(
        example(shown, shown_labels, q),
        label_text(predicted[q], classes),
        evidence(q, order, 1),
        evidence(q, order[::-1], -1),
      )
    )
  return found


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
) -> str:
  """Writes the page; what is left empty is left out.

  Args:
    facts: name -> text, number or list of them; a dict is folded away.
    about: what the page is of; an empty line begins a paragraph.
    rows, claims: those of results.json.
    coverage: rows (name, kind, parameters, fraction).
    method: whose scores the queries show.

  Returns:
    The path.

  Raises:
    ValueError: a plot is not there.
  """
  metrics, methods = table.by_method(list(rows))
  return render(
      path,
      'page.html',
      title=title,
      about=paragraphs(about),
      **listed(facts),
      tables=[(of, some, table.costs(some))
              for of, some in table.apart(metrics, methods)],
      best={metric: _best(methods, metric) for metric in metrics},
      claims=claims,
      plots=[(plot, _file(plot.path)) for plot in plots],
      coverage=coverage,
      queries=queries,
      power=_power(queries),
      uncertain=any(one.standard_error is not None for one in _evidence(queries)),
      method=method,
      columns=COLUMNS,
  )  # fmt: skip


def render(path: str | os.PathLike, template: str, **content) -> str:
  """Writes a page of this folder's `template`, whole or not at all.

  Returns:
    The path.
  """
  text = _environment().get_template(template).render(**content)
  files.show(path, text.encode())
  return os.fspath(path)


def listed(facts: dict[str, Any]) -> dict[str, list]:
  """Facts as a page has them: short ones as text, dicts folded away as JSON."""
  short, folded = [], []
  for name, value in facts.items():
    if isinstance(value, dict):
      folded.append((name, json.dumps(value, indent=2, default=str)))
    else:
      short.append((name, _fact(value)))
  return {'facts': short, 'folded': folded}


def paragraphs(text: str) -> list[str]:
  """Of a docstring: empty lines part them, other line ends are spaces."""
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
      number=table.number, interval=table.interval, verdict=table.verdict,
      png=png, signed=_signed, error=_error, cell=_cell,
      share=lambda x: f'{100 * x:.1f}%',
  )  # fmt: skip
  return environment


def _best(methods, metric):
  """Name of the method of the largest LDS; other metrics have no best."""
  if not metric.lower().startswith('lds'):
    return None
  values = {
    method.name: method.results[metric]['value']
    for method in methods
    if metric in method.results and 'ceiling' not in method.name
  }
  known = {name: v for name, v in values.items() if v is not None}
  return max(known, key=known.get) if len(known) > 1 else None


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


def label_text(value, classes=None) -> str:
  """A label as people read it: its class's name, or the number."""
  if classes is not None:
    return str(classes[int(value)])
  if np.issubdtype(np.asarray(value).dtype, np.floating):
    return f'{float(value):.4g}'
  return str(value)


def _power(queries):
  """The power of ten that scores are shown in; 0 where they need none."""
  scores = [abs(one.score) for one in _evidence(queries)]
  if not any(scores):
    return 0
  power = math.floor(math.log10(max(scores)))
  return 0 if -1 <= power <= 3 else power


def _evidence(queries):
  return [
    one for query in queries for one in (*query.supporters, *query.opponents)
  ]


def _error(evidence, power):
  """'± 0.12', with a star where the score is significant; '' of one model."""
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
  return value if isinstance(value, str) else f'{float(value):.4g}'


def _file(path):
  try:
    return _url(pathlib.Path(path).read_bytes())
  except FileNotFoundError:
    raise ValueError(
      f'the plot {path} is not there: make it before the page'
    ) from None


def _url(content):
  return 'data:image/png;base64,' + base64.b64encode(content).decode()
