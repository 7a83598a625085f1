"""What people look at: the evidence of claims, and F1 against what is judged."""

import pathlib

from experiments.fasttrack import measures
from experiments.shared import results
from tda_jax.report import evidence as evidence_lib
from tda_jax.report import plots

ABOUT = (
  'Which sentences of the corpus support a claim, by the judge, among candidates that'
  ' were retrieved for it. Influence is by the decoder that was trained on the same'
  ' sentences: of those that support a claim, which did the model learn it from?'
)


def claim_of(search, one, count: int, scores=None) -> evidence_lib.Claim:
  """A trace as the page shows it.

  Args:
    count: of supporting sentences, and of refused ones.
    scores: [N] of a method for the claim; None: not known.
  """
  sentences = search.index.sentences
  below = None if scores is None else measures.below(scores)
  supports = set(one.supports)
  evidence = [
    evidence_lib.Sentence(
      int(i), sentences[i], why, None if below is None else float(below[i])
    )
    for i, why in zip(one.supports, one.reasons, strict=True)
  ]
  others = [
    (sentences[i], float(p))
    for i, p in zip(one.judged, one.probabilities, strict=True)
    if i not in supports
  ]
  others.sort(key=lambda pair: -pair[1])
  return evidence_lib.Claim(
    one.claim, evidence, others[:count], len(one.judged), len(one.leaves)
  )


def evidence(config, search, traces, scores, path: pathlib.Path) -> None:
  """Writes the page of the first claims."""
  first = next(iter(traces.values()))[: config.report.queries]
  method = next((m for m in ('ekfac', 'tracin') if m in scores), None)
  of = lambda q: scores[method][:, q] if method else None
  claims = [
    claim_of(search, one, config.report.evidence, of(q))
    for q, one in enumerate(first)
  ]
  title = f'Evidence: {results.name_of(config)}'
  print(f'evidence: {evidence_lib.write(path, title, ABOUT, claims)}')


def draw(config, rows, folder: pathlib.Path) -> list[str]:
  """F1 of every method."""
  folder.mkdir(exist_ok=True)
  bars = [
    plots.Bar(row['method'], (row['value'], row['low'], row['high']), None)
    for row in rows
    if row['metric'] == 'f1'
  ]
  path = folder / f'{config.setting}_f1.png'
  title = f'F1: {results.name_of(config)}'
  return [plots.bars(bars, path, title=title, unit='F1, mean over claims')]
