"""How much must be judged, and what the clusters are worth: curves and controls."""

import numpy as np

from experiments.fasttrack import measures
from tda_jax.tracing import candidates, trace

LISTS = ('embedding', 'bm25', 'fused', 'inside')  # ways that have a budget
CONTROLS = ('keywords', 'random', 'embedding')


def probabilities(supports: np.ndarray, traces) -> np.ndarray:
  """[N, Q], NaN where a sentence was not judged."""
  out = np.full((len(supports), len(traces)), np.nan)
  for q, one in enumerate(traces):
    out[one.judged, q] = one.probabilities
  return out


def curve(config, task, search, judged, likely: np.ndarray) -> list[dict]:
  """Recall of candidates, and F1, against how many sentences are judged.

  F1 is of the way of the config, and of a shortlist by embedding: the control.

  Args:
    judged: the first judge.
    likely: its probabilities by the way of the config, [N, Q].
  """
  own, supports, out = config.tracing, task.known['supports'], []
  claims = task.known['claims']
  most = max(own.budgets)
  by_way = {own.way: likely}
  if own.way != 'embedding':
    settings = {'way': 'embedding', 'budget': most, 'fuzz': own.fuzz}
    made = trace.trace(search, claims, judged.judge, **settings)
    by_way['embedding'] = probabilities(supports, made)
  for way in LISTS:
    seen = np.zeros(supports.shape, int)  # place among the candidates, from 1
    for q, claim in enumerate(claims):
      settings = {'way': way, 'budget': most, 'fuzz': own.fuzz}
      rows = candidates.candidates(search, claim, **settings).rows
      seen[rows, q] = np.arange(1, len(rows) + 1)
    for budget in own.budgets:
      within = (seen > 0) & (seen <= budget)
      of = {'candidate recall': (within & supports).sum(0) / supports.sum(0)}
      if way in by_way:
        p = np.where(within, by_way[way], np.nan)
        sets = measures.of_evidence(p, supports, judged.threshold)
        of |= {n: sets[n] for n in ('precision', 'recall', 'f1')}
      out += measures.rows(f'{way} {budget}, judged', of)
  return out


def controls(config, task, search, judged) -> tuple[list[dict], dict]:
  """(rows, sets [Q] by way) of the first claims, of which all sentences are judged.

  `random` judges as many sentences, of random leaves, as `keywords` does;
  `embedding` the largest of the budgets.
  """
  own = config.tracing
  claims = task.known['claims'][: own.controls]
  if not claims:
    return [], {}
  supports = task.known['supports'][:, : len(claims)]
  made = trace.trace(
    search, claims, judged.judge, way='everything', budget=None
  )
  whole = probabilities(supports, made)
  ways = {'everything': np.ones_like(supports)}
  ways |= {way: np.zeros_like(supports) for way in CONTROLS}
  for q, claim in enumerate(claims):
    hit = candidates.candidates(search, claim, way='keywords', fuzz=own.fuzz)
    ways['keywords'][hit.rows, q] = True
    drawn = candidates.candidates(
      search, claim, way='random', budget=max(len(hit.rows), 1)
    )
    ways['random'][drawn.rows, q] = True
    near = candidates.candidates(
      search, claim, way='embedding', budget=max(own.budgets)
    )
    ways['embedding'][near.rows, q] = True
  out, by_way = [], {}
  for way, seen in ways.items():
    p = np.where(seen, whole, np.nan)
    by_way[way] = measures.of_evidence(p, supports, judged.threshold)
    out += measures.rows(f'{way}, judged, {len(claims)} claims', by_way[way])
  wrong, _ = measures.errors(whole, supports, judged.threshold)
  out.append(measures.row('fasttrack', 'false positives, all sentences', wrong))
  return out, by_way
