"""What the page of a language model says first: queries and the rows behind them."""

import numpy as np

from experiments.language import tokens as tokens_lib
from experiments.shared import decoders, evidence, texts
from experiments.shared import findings as findings_lib
from experiments.shared import scores as scores_lib
from experiments.shared.evidence import Shown
from tda_jax import problem as problem_lib
from tda_jax import run as run_lib
from tda_jax.data import rows as rows_lib
from tda_jax.data import sequences
from tda_jax.evaluation import factors as factors_lib
from tda_jax.models import generate
from tda_jax.report.cards import Evidence, Example, Query


def shown(config, task, runs, findings) -> Shown | None:
  """The first queries, what their rows' tokens carry, and how the model goes on.

  By the first model and the method `_pictured`, if its scores can be split by token;
  None: there is none.
  """
  name = _pictured(findings)
  if name is None or 'words' not in (task.shown or {}):
    return None
  run = run_lib.member(runs, 0)
  finding = findings[name]
  if scores_lib.method_of(finding.scored, task).vectors is None:
    return None
  scores = factors_lib.per_model(finding.factors)[0]
  which = np.arange(min(config.report.queries, scores.shape[1]))
  problem = problem_lib.bound(task.problem, run.frozen)
  asked = rows_lib.take(task.queries, which)
  surprise = problem_lib.terms(problem, run.params, asked)
  goes_on = _continued(config, task, problem, run, which)
  chosen = [_strongest(scores[:, q], config.report.evidence) for q in which]
  rows = np.unique(chosen)
  by_token = tokens_lib.scores(config, task, runs, finding, asked, rows)
  cards = []
  for q in which:
    carried = by_token[np.searchsorted(rows, chosen[q]), ..., q]
    found = _evidence(task, chosen[q], scores[:, q], carried)
    unlikely = -np.asarray(surprise[q]) / (np.asarray(surprise[q]).max() or 1.0)
    said, predicted, continued = goes_on[q]
    tokens = _words(task, 'queries', q, unlikely)
    cards.append(
      Query(
        Example(int(q), said, tokens=tokens),
        predicted,
        [one for one in found if one.score > 0],
        [one for one in found if one.score < 0][::-1],
        continued=continued,
      )
    )
  told = {
    'measure': evidence.measure_in_words(task.problem),
    'score': evidence.UNITS.get(finding.unit, f'In the unit {finding.unit}.'),
  }
  return Shown(cards, name, told)


def _evidence(task, rows, scores, carried) -> list[Evidence]:
  """The rows with their scores of one query, and what their tokens carry of it.

  Args:
    scores: of all rows, [N].
    carried: of the tokens of `rows`, [R, T].
  """
  most = np.abs(carried).max() or 1.0
  return [
    Evidence(
      Example(int(i), '', tokens=_words(task, 'train', i, of / most)), scores[i]
    )
    for i, of in zip(rows, carried, strict=True)
  ]


def _pictured(findings) -> str | None:
  """The first of `evidence.PICTURED` whose solution beats none, residual 1."""
  solved = lambda f: (findings_lib.residual(f) or 0.0) < 1
  of = (n for n in evidence.PICTURED if n in findings and solved(findings[n]))
  return next(of, None)


def _strongest(scores, count):
  """Numbers of the rows with the highest and the lowest scores, in that order."""
  order = np.argsort(-scores, kind='stable')
  count = min(count, len(order) // 2)
  return np.concatenate([order[:count], order[len(order) - count :]])


def _words(task, part, i, weights):
  """(words of a token, its weight), of the first token 0."""
  tokens = texts.tokens_of(getattr(task, part), i)
  weights = [0.0, *map(float, weights)]
  words = task.shown['words']
  return [
    (texts.said([t], words), weight)
    for t, weight in zip(tokens, weights, strict=False)  # then padding
    if t != words.end
  ]


def _continued(config, task, problem, run, which):
  """(what is continued, how the model does it greedily, by words), of each query.

  That is the prompt of a question, or the first half of a text.
  """
  words = task.shown['words']
  sizes, params = decoders.of_run(config, run)
  prompts = []
  for q in which:
    tokens = texts.tokens_of(task.queries, q)
    prompt = int(np.argmax(np.asarray(task.queries['mask'][q]) != 0))
    prompts.append(tokens[: prompt + 1 if prompt else 1 + len(tokens) // 2])
  room = max(1, config.data.length - max(map(len, prompts)))
  found = generate.generate(sizes, params, prompts, room, end=words.end)
  out = []
  for prompt, ids in zip(prompts, found, strict=True):
    asked = f'After “{texts.said(prompt, words)}” the model goes on:'
    said = texts.said(ids, words)
    if not said.strip():
      out.append((asked, '(with spaces alone)', ()))
      continue
    weights = _unlikely(problem, run.params, prompt, ids)
    tokens = [
      (texts.said([token], words), weight)
      for token, weight in zip(ids, weights, strict=True)
      if token != words.end
    ]
    out.append((asked, said.strip(), tokens))
  return out


def _unlikely(problem, params, prompt, ids):
  """How unlikely each token behind a prompt was to the model, 0 to -1."""
  whole = sequences.Tokenized(np.concatenate([prompt, ids]), len(prompt))
  row = sequences.filled([whole], len(whole.ids) - 1)
  surprise = np.asarray(problem_lib.terms(problem, params, row))
  surprise = surprise[row['mask'] > 0]
  return -surprise / (surprise.max() or 1.0)
