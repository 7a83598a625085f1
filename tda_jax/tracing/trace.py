"""A claim traced to its evidence: candidates, then a judge."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tda_jax.tracing import candidates as candidates_lib
from tda_jax.tracing import matching
from tda_jax.tracing.candidates import Search
from tda_jax.tracing.judges import judge as judge_lib
from tda_jax.tracing.judges.judge import Judge, Usage


class Trace(NamedTuple):
  """What a claim was traced to.

  Attributes:
    claim: its text.
    supports: numbers of the sentences that support it, the surest first.
    reasons: why, of each.
    judged: numbers of the sentences that the judge was asked of, [J].
    probabilities: that they support the claim, [J].
    leaves: numbers of the leaves that were visited.
    usage: calls and tokens that the judge took.
    seconds: all of it, and the judge's alone.
  """

  claim: str
  supports: np.ndarray
  reasons: tuple[str, ...]
  judged: np.ndarray
  probabilities: np.ndarray
  leaves: np.ndarray
  usage: Usage
  seconds: tuple[float, float]


def trace(
  of: Search,
  claims: Sequence[str],
  judge: Judge,
  *,
  way: str = 'fused',
  budget: int | None = 50,
  threshold: float = 0.5,
  fuzz: int = matching.FUZZ,
  seed: int = 0,
) -> list[Trace]:
  """Traces claims one after another.

  Args:
    of: `candidates.search` of an index.
    judge: see `judges.judge`. Give one that keeps its answers (`judges.kept.kept`,
      or an endpoint's with a folder): then a call that was killed, or whose budget
      ended, goes on where it was.
    way, budget, fuzz, seed: see `candidates.candidates`; the budget is the most
      sentences judged a claim.
    threshold: a sentence supports from this probability on.

  Raises:
    ValueError: see `candidates.candidates`; what the judge raises; a threshold
      outside 0 to 1; claims that are no list of texts.
  """
  if not 0 <= threshold <= 1:
    raise ValueError(f'threshold={threshold}: give a probability from 0 to 1')
  if isinstance(claims, str) or not all(isinstance(c, str) for c in claims):
    raise ValueError('claims: give a list of texts')
  settings = {'way': way, 'budget': budget, 'fuzz': fuzz, 'seed': seed}
  return [_traced(of, claim, judge, threshold, settings) for claim in claims]


def _traced(of, claim, judge, threshold, settings):
  begun, before = time.monotonic(), judge.usage()
  chosen = candidates_lib.candidates(of, claim, **settings)
  texts = [of.index.sentences[i] for i in chosen.rows]
  starts = range(0, len(texts), judge.batch)
  batches = [(claim, texts[i : i + judge.batch]) for i in starts]
  asked = time.monotonic()
  answers = judge_lib.answers(judge, batches) if batches else []
  ended = time.monotonic()
  likely = np.concatenate([np.zeros(0), *answers])
  order = np.argsort(-likely, kind='stable')
  order = order[likely[order] >= threshold]
  reasons = tuple(_reason(of, chosen, int(i), likely[i]) for i in order)
  usage = Usage(*(a - b for a, b in zip(judge.usage(), before, strict=True)))
  return Trace(
    claim,
    chosen.rows[order],
    reasons,
    chosen.rows,
    likely,
    chosen.leaves,
    usage,
    (ended - begun, ended - asked),
  )


def _reason(of, chosen, place, probability):
  """Why a candidate was looked at, and what the judge said."""
  row = chosen.rows[place]
  leaf = of.index.leaf[row]
  label = {*of.index.labels[leaf]}
  shared = [word for word in chosen.words if word in label]
  words = f' ({", ".join(shared)})' if shared else ''
  return (
    f'candidate {place + 1} of {len(chosen.rows)}, of leaf {leaf}{words}; judged'
    f' to support with probability {probability:.3f}'
  )
