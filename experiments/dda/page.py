"""What the page says first: a wrong summary, and the rows behind it, by token."""

import numpy as np

from experiments.dda import models as models_lib
from experiments.shared import evidence, texts
from experiments.shared.evidence import Shown
from tda_jax import scoring
from tda_jax.data import rows as rows_lib
from tda_jax.methods import dda, method
from tda_jax.report.cards import Evidence, Example, Query


def shown(config, world) -> Shown:
  """The first wrong summaries of a world, by denoised influence on the contrast."""
  models, made = models_lib.of(config), dda.dda()
  problem = models.problem
  given = (made, problem, world.run, world.train)
  which = np.flatnonzero(world.wrong)[: config.report.queries]
  queries = rows_lib.take(world.queries, which)
  scores = method.attribute(*given, queries, batch_size=config.batch_size)
  cards = []
  for i, q in enumerate(which):
    order = np.argsort(-scores[:, i], kind='stable')
    chosen = order[: config.report.evidence]
    one = rows_lib.take(queries, slice(i, i + 1))
    by_token = scoring.token_scores(*given, one, rows=chosen)[..., 0]
    largest = np.abs(by_token).max() or 1.0
    found = [
      Evidence(
        Example(
          int(row),
          str(world.reports.kinds[row]),
          tokens=_words(models, world.train, row, of / largest),
        ),
        scores[row, i],
      )
      for row, of in zip(chosen, by_token, strict=True)
    ]
    asked = {n: x[:, 0] for n, x in world.queries.items()}
    mask = np.asarray(asked['mask'][q])
    card = Example(int(q), 'wrong', tokens=_words(models, asked, q, 0 * mask))
    said = (
      f'It writes “{world.written[q].strip()}”, not “{world.right[q].strip()}”.'
    )
    cards.append(Query(card, said, found, []))
  told = {
    'measure': evidence.measure_in_words(problem),
    'score': evidence.UNITS[made.unit],
    'labels': (
      'Swapped rows are those that taught the name; partial ones have it in their'
      ' last sentence alone, others swap another name for it.'
    ),
  }
  return Shown(cards, 'dda', told)


def _words(models, rows, i, weights):
  """(word, its weight), of the first word 0, each with the space behind it."""
  tokens = texts.tokens_of(rows, i)
  weights = [0.0, *map(float, weights)]
  words = models.words
  behind = ' ' if models.base is None else ''  # parts of words have their own
  return [
    (f'{texts.said([t], words)}{behind}', weight)
    for t, weight in zip(tokens, weights, strict=False)  # then padding
    if t != words.end
  ]
