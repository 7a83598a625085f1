"""Cards of a report page: a query, its prediction, and its evidence."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

LIKELY = 3  # classes whose probabilities are shown, beside the query's own


class Example(NamedTuple):
  """A row of data for display.

  Attributes:
    row: its number.
    label: as text.
    image: [H, W], [H, W, 1] or [H, W, 3] in [0, 1]; None for a table's row.
    cells: column -> value or text; None for an image or a text.
    tokens: of a text, (words, share in -1 to 1 by which they are coloured).
  """

  row: int
  label: str
  image: np.ndarray | None = None
  cells: dict[str, float | str] | None = None
  tokens: Sequence[tuple[str, float]] | None = None


class Evidence(NamedTuple):
  """A training row and its score for a query: positive supports it.

  Attributes:
    standard_error: of an ensemble's score; None for one model's.
    significant: whether models that did not pick the row confirm it; None: too
      few models to say.
  """

  example: Example
  score: float
  standard_error: float | None = None
  significant: bool | None = None


class Query(NamedTuple):
  """A query, the models' prediction, and its strongest evidence.

  Attributes:
    supporters: of its label, highest score first.
    opponents: lowest score first.
    rivals: for a wrong prediction, the supporters of the predicted class; None:
      the prediction is right, or there are no such scores.
    wrong: whether the prediction is; None for numbers.
    chances: (class, probability), the likeliest first.
    error: of a predicted number, as text.
    continued: `predicted`, of a text, by words as `Example.tokens`.
  """

  example: Example
  predicted: str
  supporters: Sequence[Evidence]
  opponents: Sequence[Evidence]
  rivals: Sequence[Evidence] | None = None
  wrong: bool | None = None
  chances: Sequence[tuple[str, float]] = ()
  error: str = ''
  continued: Sequence[tuple[str, float]] = ()


class Scored(NamedTuple):
  """Scores [N, Q] with their uncertainty.

  Attributes:
    standard_error: [N, Q], from `significance.uncertainty`; None: one model.
    significant: [N, Q] bool, from `supporters.marked`; None: too few models.
  """

  scores: np.ndarray
  standard_error: np.ndarray | None = None
  significant: np.ndarray | None = None


class Looks(NamedTuple):
  """Rows and queries for display.

  Attributes:
    train, queries: images [N, H, W], [N, H, W, 1] or [N, H, W, 3], scaled
      together to [0, 1], or tables [N, D] of numbers or texts.
    labels, query_labels: [N] and [Q], or [N, K] and [Q, K] of several.
    classes: names of the labels; None: as they are.
    columns: names of a table's columns; None: numbered.
  """

  train: np.ndarray
  labels: np.ndarray
  queries: np.ndarray
  query_labels: np.ndarray
  classes: Sequence[str] | None = None
  columns: Sequence[str] | None = None


class Answers(NamedTuple):
  """The models' predictions for the queries; each [Q, ...], None if not known.

  Attributes:
    predicted: labels or values, like the queries' labels.
    wrong: bool.
    chances: probability of each class, [Q, K].
    error: of predicted numbers.
  """

  predicted: np.ndarray | None = None
  wrong: np.ndarray | None = None
  chances: np.ndarray | None = None
  error: np.ndarray | None = None


def queries(
  scored: Scored,
  looks: Looks,
  answers: Answers,
  which: Sequence[int],
  *,
  count: int = 6,
  rivals: Scored | None = None,
) -> list[Query]:
  """The strongest supporters and opponents of some queries.

  Args:
    which: numbers of the queries to show, in this order.
    count: supporters, and opponents, of each; fewer where fewer rows have a
      score of that sign.
    rivals: scores [N, W] for the predicted class of the W wrong ones of `which`,
      in its order; None: there are none.

  Raises:
    ValueError: scores of other rows or queries; a label without a name.
  """
  wrong = (
    [q for q in which if answers.wrong[q]] if answers.wrong is not None else []
  )
  _check(scored, looks, len(looks.queries))
  if rivals is not None:
    _check(rivals, looks, len(wrong))
  draw = _drawing(looks)
  text = lambda value: label_text(value, looks.classes)
  cards = []
  for q in which:
    query = Query(
      draw('queries', q),
      '' if answers.predicted is None else text(answers.predicted[q]),
      _strongest(scored, q, 1, count, draw),
      _strongest(scored, q, -1, count, draw),
      chances=_likely(answers.chances, looks, q),
    )
    if answers.wrong is not None:
      query = query._replace(wrong=bool(answers.wrong[q]))
    if answers.error is not None:
      query = query._replace(error=f'{answers.error[q]:.4g}')
    if query.wrong and rivals is not None:
      against = _strongest(rivals, wrong.index(q), 1, count, draw)
      query = query._replace(rivals=against)
    cards.append(query)
  return cards


def label_text(
  value: np.ndarray | np.generic | float, classes: Sequence[str] | None = None
) -> str:
  """A label as text: the name of its class, or the number.

  Several labels of 0 or 1 (integers) give the names of those that are 1; several
  numbers give all of them.
  """
  value = np.asarray(value)
  if value.ndim:
    if np.issubdtype(value.dtype, np.floating):
      return ', '.join(label_text(one) for one in value.ravel())
    ones = [label_text(i, classes) for i in np.flatnonzero(value)]
    return ', '.join(ones) or 'none'
  if classes is not None:
    return str(classes[int(value)])
  if value.dtype == bool:
    return str(int(value))
  if np.issubdtype(value.dtype, np.floating):
    return f'{float(value):.4g}'
  return str(value)


def _check(scored, looks, count):
  for given in scored:
    if given is not None and given.shape != (len(looks.train), count):
      raise ValueError(
        f'scores of shape {given.shape} do not fit {len(looks.train)} rows and'
        f' {count} queries to show: give those that were scored'
      )
  labels = [np.asarray(looks.labels), np.asarray(looks.query_labels)]
  if looks.classes is not None:
    several = labels[0].ndim > 1
    most = labels[0].shape[1] if several else 1 + max(map(np.max, labels))
    if len(looks.classes) < most:
      raise ValueError(
        f'there are names for {len(looks.classes)} classes and labels of'
        f' {int(most)}: name every class, or give classes=None'
      )


def _drawing(looks):
  """('train' or 'queries', i) -> Example, all images in one scale."""
  train, queries = np.asarray(looks.train), np.asarray(looks.queries)
  parts = {
    'train': (train, looks.labels),
    'queries': (queries, looks.query_labels),
  }
  pictures = train.ndim > 2
  if pictures:
    low = float(min(train.min(), queries.min()))
    scale = float(max(train.max(), queries.max())) - low or 1.0
  names = looks.columns or [f'x{i}' for i in range(train.shape[-1])]

  def draw(part, i):
    rows, labels = parts[part]
    label = label_text(labels[i], looks.classes)
    if pictures:
      image = cast(np.ndarray, np.float32(rows[i]))
      return Example(int(i), label, image=(image - low) / scale)
    return Example(int(i), label, cells=dict(zip(names, rows[i], strict=True)))

  return draw


def _strongest(scored, q, sign, count, draw):
  """Evidence of one sign, strongest first."""
  column = scored.scores[:, q]
  order = np.argsort(-column, kind='stable')[::sign][:count]
  error, marks = scored.standard_error, scored.significant
  return [
    Evidence(
      draw('train', i),
      column[i],
      None if error is None else float(error[i, q]),
      None if marks is None else bool(marks[i, q]),
    )
    for i in order
    if sign * column[i] > 0
  ]


def _likely(chances, looks, q):
  """(class, probability) of the likeliest classes, and of the query's own."""
  if chances is None:
    return ()
  labels = np.asarray(looks.query_labels[q])
  labels = np.flatnonzero(labels) if labels.ndim else [int(labels)]
  order = np.argsort(-chances[q], kind='stable')
  return [
    (label_text(k, looks.classes), float(chances[q, k]))
    for place, k in enumerate(order)
    if place < LIKELY or k in labels
  ]
