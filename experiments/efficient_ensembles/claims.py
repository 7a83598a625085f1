"""Claims of "Efficient Ensembles Improve TDA", computed from what was measured.

Intervals resample subsets and queries, the same for all ensembles. They do not
resample seconds, whose noise of a tenth is no saving.
"""

from typing import NamedTuple

import numpy as np

from experiments.shared.claim import claim, signed
from tda_jax.evaluation import bootstrap

PAPER = 'efficient ensembles paper, abstract'
COSTS = {'training': 's', 'serving': 's', 'storage': 'MB'}
SAVED = {'training': 0.8, 'serving': 0.6, 'storage': 0.8}  # up to, in the paper
CHEAP = ('dropout', 'forward', 'lora')  # the paper's
NOISE = 0.1  # of seconds
ANCHORS = {1: 0.11, 10: 0.33, 50: 0.45}  # dattri's bars, MLP on MNIST


class Saving(NamedTuple):
  """What a cheap ensemble saves at the LDS of a naive one.

  Attributes:
    models: of the naive ensemble whose LDS is the goal.
    saved: 1 − cost/cost, of the cheapest ensembles of both kinds that reach it:
      where more models predict no better, one naive model is what has to be
      undercut; 0 where no cheap ensemble reaches the goal.
    by: (models, variants) of the cheap one, or None.
  """

  method: str
  kind: str
  models: int
  cost: str
  saved: bootstrap.Estimate
  by: tuple[int, int] | None


def savings(ensembles: dict) -> list[Saving]:
  """What each kind saves against each naive ensemble of several models."""
  out = []
  for (name, kind), of_kind in ensembles.items():
    if kind not in CHEAP or (name, 'naive') not in ensembles:
      continue
    if len({e.models for e in of_kind}) == 1:
      continue  # variants of one model alone: no choice of ensembles
    naive = ensembles[name, 'naive']
    out += [
      _saving(name, kind, goal, naive, of_kind, cost)
      for goal in naive
      if goal.models > 1
      for cost in COSTS
      if not np.isnan(getattr(goal, cost))
    ]
  return out


def _saving(name, kind, goal, naive, of_kind, cost) -> Saving:
  def cheapest(ensembles, of):
    """Cost of the cheapest that is as good as the goal; inf if none is."""
    costs = np.array([getattr(e, cost) for e in ensembles])
    values = np.stack([of(e.lds) for e in ensembles], -1)
    return np.where(values >= of(goal.lds)[..., None], costs, np.inf).min(-1)

  def saved(of):
    return np.maximum(1 - cheapest(of_kind, of) / cheapest(naive, of), 0)

  value = saved(lambda lds: np.array(lds.value))
  resampled = saved(lambda lds: lds.resampled)
  by = None
  if value > 0:
    good = [e for e in of_kind if e.lds.value >= goal.lds.value]
    best = min(good, key=lambda e: getattr(e, cost))
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
  out = [_saves(s) for s in _largest(savings)]
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
  by = 'no ensemble' if s.by is None else f'{s.by[0]} x {s.by[1]}'
  return claim(
    f'{s.method}: {s.kind} saves {s.cost} at the LDS of naive {s.models}',
    f'{PAPER}: up to {SAVED[s.cost]:.0%}',
    f'share saved above {NOISE:.0%}',
    f'{s.saved.value:.0%} [{s.saved.low:.0%}, {s.saved.high:.0%}] by {by}',
    s.saved.low > NOISE,
  )


def _largest(of_kind: list[Saving]) -> list[Saving]:
  """The saving against the largest naive ensemble, by method, kind and cost."""
  last = {}
  for s in of_kind:
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
      f'{e.lds.value:.3f}',
      e.lds.value >= ANCHORS[e.models] - 0.05,
    )
    for e in ensembles['trak', 'naive']
    if e.models in ANCHORS
  ]


def _grows(ensembles) -> list[dict]:
  """The largest naive ensemble against one model."""
  out = []
  for (name, kind), of_kind in ensembles.items():
    if kind == 'naive' and len(of_kind) > 1:
      gap = bootstrap.difference(of_kind[-1].lds, of_kind[0].lds)
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
