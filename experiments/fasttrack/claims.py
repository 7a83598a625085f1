"""Claims of FASTTRACK, computed from what was measured.

Differences and ratios are of F1, with a 95% bootstrap interval over claims.
"""

from typing import NamedTuple

from experiments.shared.claim import claim, signed, spanned
from tda_jax.evaluation import bootstrap

PAPER = 'FASTTRACK paper, abstract'
OURS = 'ours'
GRADIENTS = ('tracin', 'grad_dot', 'grad_cos', 'trak', 'ekfac')
NAMES = ('fasttrack', 'fasttrack, unseen words')
LARGE = 100_000  # sentences
LEAST = {'fasttrack': 0.85, 'fasttrack, unseen words': 0.75}


class Costs(NamedTuple):
  """What tracing and TracIn took.

  Attributes:
    sentences, claims, checkpoints: N, Q, C.
    judged: sentences a claim, J.
    query: seconds a claim; without_judge: of them before the judge.
    index, judge: seconds, once, of the index, and of the judge: its training, and
      the index, calibration and threshold of its own corpus.
    tracin: seconds of TracIn for all claims; None: it was not scored.
    calls, tokens: of the judge.
  """

  sentences: int
  claims: int
  checkpoints: int
  judged: float
  query: float
  without_judge: float
  index: float
  judge: float
  tracin: float | None
  calls: int
  tokens: int

  @property
  def once(self) -> float:
    """Seconds before the first claim: of the index and of the judge."""
    return self.index + self.judge

  @property
  def ratio(self) -> float:
    """TracIn's seconds, mostly gradients of all sentences, over those of one claim.

    Index and judge apart.
    """
    return (self.tracin or 0.0) / self.query

  @property
  def until(self) -> float:
    """The claims up to which TracIn is slower, all counted; 0: it never is."""
    return max(((self.tracin or 0.0) - self.once) / self.query, 0.0)

  @property
  def sizes(self) -> str:
    """N, C, J and Q."""
    return (
      f'N = {self.sentences:,}, C = {self.checkpoints}, J = {self.judged:.0f}, Q ='
      f' {self.claims}'
    )


def computed(
  values: dict, by_way: dict, rows: list[dict], costs: Costs
) -> list[dict]:
  """All claims whose methods were measured.

  Args:
    values: method -> metric -> [Q].
    by_way: way of the controls -> metric -> [their claims].
    rows: result rows.
  """
  f1 = {name: bootstrap.of_queries(of['f1']) for name, of in values.items()}
  ours = f1['fasttrack']
  of = {(row['method'], row['metric']): row['value'] for row in rows}
  out = []
  for name in NAMES:
    if name in f1:
      out.append(_at_least(f'{name}: F1', OURS, f1[name], LEAST[name]))
  for other, times in (('bm25', 2.0), ('embedding', 1.25)):
    out.append(_times(f'F1 over that of {other}', OURS, ours, f1[other], times))
  best = max((n for n in f1 if n not in NAMES), key=lambda n: f1[n].value)
  name = f'F1 over that of the best baseline ({best})'
  out.append(_times(name, PAPER, ours, f1[best], 2.0))
  gradients = [name for name in GRADIENTS if name in f1]
  if gradients:
    best = max(gradients, key=lambda n: f1[n].value)
    name = f'F1 over that of the best gradient method ({best})'
    out.append(_times(name, PAPER, ours, f1[best], 2.0))
  recall = bootstrap.of_queries(values['fasttrack']['candidate recall'])
  share = costs.judged / costs.sentences
  out.append(
    claim(
      'candidates have the evidence',
      OURS,
      'recall at least 0.95 with at most 10% judged',
      f'{spanned(*recall[:3], sign="")}, {share:.1%} judged',
      recall.low >= 0.95 and share <= 0.1,
    )
  )
  predicted = of[('fasttrack', 'f1, predicted')]
  out.append(
    claim(
      'F1 follows from candidate recall and the errors of the judge',
      OURS,
      'predicted within 0.05 of observed',
      f'{predicted:.3f} predicted, {ours.value:.3f} observed',
      abs(predicted - ours.value) <= 0.05,
    )
  )
  out += _controls(by_way)
  return [*out, *_speed(costs)]


def _large(costs: Costs) -> list[dict]:
  """Whether a large corpus is indexed and searched in minutes; none of a small one."""
  if costs.sentences < LARGE:
    return []
  minutes = costs.index / 60
  search = costs.without_judge * 100 / 60
  return [
    claim(
      'the index of a large corpus',
      OURS,
      'at most 15 minutes',
      f'{minutes:.1f} minutes for {costs.sentences:,} sentences',
      minutes <= 15,
    ),
    claim(
      '100 claims in a large corpus, without the judge',
      OURS,
      'at most 5 minutes',
      f'{search:.1f} minutes',
      search <= 5,
    ),
  ]


def _speed(costs: Costs) -> list[dict]:
  """How much faster than TracIn, of one claim and of all; none without TracIn."""
  if costs.tracin is None:
    return _large(costs)
  amortised = costs.tracin / (costs.once + costs.claims * costs.query)
  return [
    claim(
      'faster than TracIn, one claim',
      f'{PAPER}: 33 times',
      'at least 33 times',
      f'{costs.ratio:.1f} times ({costs.sizes})',
      costs.ratio >= 33,
    ),
    claim(
      'faster than TracIn, all claims, index and training of the judge counted',
      OURS,
      'at least 1 time',
      f'{amortised:.3f} times ({costs.sizes})',
      amortised >= 1,
    ),
  ]


def _controls(by_way) -> list[dict]:
  """Whether clusters are worth their judgements: the control the paper lacks."""
  if not {'keywords', 'embedding'} <= {*by_way}:
    return []
  one, other = (
    bootstrap.of_queries(by_way[way]['f1']) for way in ('keywords', 'embedding')
  )
  more = bootstrap.difference(one, other)
  return [
    claim(
      'clusters by keywords have a higher F1 than a shortlist by embedding, all'
      f' sentences of {len(by_way["keywords"]["f1"])} claims judged',
      OURS,
      'difference above 0',
      signed(more),
      more.low > 0,
    )
  ]


def _at_least(name, source, estimate, least):
  return claim(
    name,
    source,
    f'at least {least}',
    spanned(*estimate[:3], sign=''),
    estimate.low >= least,  # else undecided, or it does not
  )


def _times(name, source, better, other, times):
  if other.value <= 0:
    return claim(name, source, f'at least {times}', 'over 0', better.value > 0)
  return _at_least(name, source, bootstrap.ratio(better, other), times)
