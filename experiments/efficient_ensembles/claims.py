"""Claims of "Efficient Ensembles Improve TDA", computed from what was measured.

Intervals resample subsets and queries, the same for all ensembles. They do not
resample seconds, whose noise of a tenth is no saving. Savings are claimed against
naive ensembles that predict better than one model, and of which the cheap kind has
as many models: against others there is nothing to save, or no ensemble to save it.
"""

from typing import NamedTuple

import numpy as np

from experiments.shared.claim import claim, signed, spanned
from tda_jax.evaluation import bootstrap

PAPER = 'efficient ensembles paper, abstract'
COSTS = {'training': 's', 'serving': 's', 'storage': 'MB'}
SAVED = {'training': 0.8, 'serving': 0.6, 'storage': 0.8}  # up to, in the paper
CHEAP = ('dropout', 'forward', 'lora')  # the paper's
MASKS = ('dropout', 'forward')  # a variant costs no training and no storage
NOISE = 0.1  # of seconds
ANCHORS = {1: 0.11, 10: 0.33, 50: 0.45}  # dattri's bars, MLP on MNIST


class Saving(NamedTuple):
  """What a cheap ensemble saves at the LDS of a naive one.

  Attributes:
    models: of the naive ensemble whose LDS is the goal.
    saved: 1 − cost/cost, of the cheapest ensembles of both kinds that reach it;
      0 where no cheaper one of this kind does.
    by: (models, variants) of the cheap one, or None.
  """

  method: str
  kind: str
  models: int
  cost: str
  saved: bootstrap.Estimate
  by: tuple[int, int] | None


def savings(ensembles: dict) -> list[Saving]:
  """What each kind saves against each naive ensemble that beats one model."""
  out = []
  for (name, kind), of_kind in ensembles.items():
    if kind not in CHEAP or (name, 'naive') not in ensembles:
      continue
    if len({e.models for e in of_kind}) == 1:
      continue  # variants of one model alone: no choice of ensembles
    naive = ensembles[name, 'naive']
    out += [
      _saving(name, kind, goal, naive, of_kind, cost)
      for goal in _goals(naive, max(e.models for e in of_kind))
      for cost in COSTS
      if not np.isnan(getattr(goal, cost))
    ]
  return out


def _goals(naive, most: int) -> list:
  """The ensembles of at most `most` models that predict better than one."""
  single = _single(naive)
  if single is None:
    return []
  above = lambda e: bootstrap.difference(e.lds, single.lds).low > 0
  return [e for e in naive if 1 < e.models <= most and above(e)]


def _single(naive):
  """The one model of the naive ensembles; None if it was not measured."""
  return next((e for e in naive if e.models == 1), None)


def _saving(name, kind, goal, naive, of_kind, cost) -> Saving:
  def price(e):
    if kind == 'dropout' and cost == 'serving':
      # A masked model is scored as any other: other seconds are noise.
      return e.models * e.variants * goal.serving / goal.models
    return getattr(e, cost)

  def cheapest(costs, ensembles, of):
    """Cost of the cheapest that is as good as the goal; inf if none is."""
    values = np.stack([of(e.lds) for e in ensembles], -1)
    return np.where(values >= of(goal.lds)[..., None], costs, np.inf).min(-1)

  prices = np.array([price(e) for e in of_kind])
  of_naive = np.array([getattr(e, cost) for e in naive])

  def saved(of):
    share = cheapest(prices, of_kind, of) / cheapest(of_naive, naive, of)
    return np.maximum(1 - share, 0)

  value = saved(lambda lds: np.array(lds.value))
  resampled = saved(lambda lds: lds.resampled)
  by = None
  if value > 0:
    good = [e for e in of_kind if e.lds.value >= goal.lds.value]
    best = min(good, key=price)
    by = best.models, best.variants
  low, high = np.quantile(resampled, [0.025, 0.975])
  estimate = bootstrap.Estimate(
    float(value), float(low), float(high), resampled, goal.lds.drawn
  )
  return Saving(name, kind, goal.models, cost, estimate, by)


def saving_rows(of_kind: list[Saving]) -> list[dict]:
  return [
    {
      'method': f'{s.method}, {s.kind} as good as naive {s.models}',
      'metric': f'share of {s.cost} saved',
      'value': s.saved.value,
      'low': s.saved.low,
      'high': s.saved.high,
    }
    for s in of_kind
  ]


def control_rows(ensembles: dict) -> list[dict]:
  """The share of dropout's gain that fresh projections alone have."""
  out = []
  for name, of_kind in _controlled(ensembles).items():
    for naive, dropout, control in of_kind:
      gain = bootstrap.difference(dropout.lds, naive.lds)
      if gain.low <= 0:
        continue  # no gain that could be shared out
      share = bootstrap.ratio(
        bootstrap.difference(control.lds, naive.lds), gain
      )
      out.append(
        {
          'method': f'{name}, projections {_size(control)}',
          'metric': "share of dropout's gain",
          'value': share.value,
          'low': share.low,
          'high': share.high,
        }
      )
  return out


def computed(config, ensembles: dict, savings: list[Saving]) -> list[dict]:
  """All claims whose ensembles were measured."""
  out = [_saves(s) for s in _claimed(savings)]
  for name, cases in _controlled(ensembles).items():
    for _, dropout, control in cases:
      gap = bootstrap.difference(dropout.lds, control.lds)
      out.append(
        claim(
          f'{name}: masks add to fresh projections, {_size(dropout)}',
          'ours',
          'LDS difference above 0',
          signed(gap),
          gap.low > 0,
        )
      )
  return out + _anchors(config, ensembles) + _grows(ensembles)


def _saves(s: Saving) -> dict:
  by = 'no cheaper one' if s.by is None else f'{s.by[0]} x {s.by[1]}'
  cost = s.cost
  if s.kind in MASKS and cost == 'training':
    cost = 'training and storage'
  return claim(
    f'{s.method}: {s.kind} saves {cost} at the LDS of naive {s.models}',
    f'{PAPER}: up to {SAVED[s.cost]:.0%}',
    f'share saved above {NOISE:.0%}',
    f'{s.saved.value:.0%} [{s.saved.low:.0%}, {s.saved.high:.0%}] by {by}',
    s.saved.low > NOISE,
  )


def _claimed(of_kind: list[Saving]) -> list[Saving]:
  """The saving against the largest naive ensemble, by method, kind and cost.

  Of masks, training and storage are both the share of models that is saved: one
  claim.
  """
  last = {}
  for s in of_kind:
    if s.kind in MASKS and s.cost == 'storage':
      continue
    key = s.method, s.kind, s.cost
    if key not in last or s.models > last[key].models:
      last[key] = s
  return list(last.values())


def _controlled(ensembles: dict) -> dict:
  """Method -> (naive, dropout, projections) of equal size, D > 1."""
  out = {}
  for name, kind in ensembles:
    if kind != 'projections' or (name, 'dropout') not in ensembles:
      continue
    at = lambda kind, name=name: {e[:2]: e for e in ensembles[name, kind]}
    naive, dropout, control = at('naive'), at('dropout'), at('projections')
    out[name] = [
      (naive[i, 1], dropout[i, d], control[i, d])
      for i, d in control
      if d > 1 and (i, 1) in naive and (i, d) in dropout
    ]
  return out


def _anchors(config, ensembles) -> list[dict]:
  """TRAK of 1, 10 and 50 models in dattri's benchmark, with some room."""
  if not config.anchors or ('trak', 'naive') not in ensembles:
    return []
  return [
    claim(
      f'trak, naive {e.models}: reaches the LDS of dattri',
      "dattri's benchmark, MLP on MNIST (read off a chart)",
      f'at least {ANCHORS[e.models] - 0.05:.2f} (.05 below its bar)',
      spanned(*e.lds[:3], sign=''),
      e.lds.low >= ANCHORS[e.models] - 0.05,
    )
    for e in ensembles['trak', 'naive']
    if e.models in ANCHORS
  ]


def _grows(ensembles) -> list[dict]:
  """The largest naive ensemble against one model."""
  out = []
  for (name, kind), of_kind in ensembles.items():
    single = _single(of_kind) if kind == 'naive' else None
    if single is not None and len(of_kind) > 1:
      gap = bootstrap.difference(of_kind[-1].lds, single.lds)
      out.append(
        claim(
          f'{name}: {of_kind[-1].models} models predict better than one',
          'efficient ensembles paper, Fig. 1',
          'LDS difference above 0',
          signed(gap),
          gap.low > 0,
        )
      )
  return out


def _size(e) -> str:
  return f'{e.models} x {e.variants}'
