"""Claims of "Training Data Attribution under Limited Access", from what was
measured.

LDS is compared resample by resample, for the mean over the methods that both
proxies have; flips in pairs over queries.
"""

from itertools import pairwise

import numpy as np

from experiments import claims
from experiments.findings import Finding
from experiments.mislabelled import METRIC
from tda_jax.evaluation import bootstrap

PAPER = 'limited-access paper (Zhang et al. 2025)'
FLIP = 'flip_rate'


def computed(config, found: dict[str, Finding], flipped: dict, rows) -> list:
  """All claims whose proxies were measured.

  Args:
    found: 'PROXY/METHOD' and 'random' -> Finding.
    flipped: the same names -> which queries flipped, [Q'].
    rows: of results.json, with the AUCs.
  """
  return [
    *_falls(config, found),
    *_distillation(config, found),
    *_unseen(config, found),
    *_detection(config, rows),
    *_brittle(flipped),
  ]


def gap(found: dict[str, Finding], a: str, b: str, only=None):
  """Mean over methods of LDS of proxy a − of proxy b; None if none is shared.

  Args:
    b: or 'random'.
    only: the one method to compare.
  """
  gaps = []
  for name in _methods(found, a):
    other = found.get('random' if b == 'random' else f'{b}/{name}')
    if other is not None and only in (None, name):
      own = found[f'{a}/{name}'].ensemble
      gaps.append(bootstrap.difference(own, other.ensemble))
  if not gaps:
    return None
  return bootstrap.estimate(
    np.mean([g.value for g in gaps]),
    np.mean([g.resampled for g in gaps], 0),
    gaps[0].drawn,
  )


def flip_row(name: str, flips: np.ndarray) -> dict:
  """Result row of a flip rate, with Wilson's interval over queries."""
  rate, low, high = bootstrap.wilson(flips)
  return {
      'method': name, 'metric': FLIP, 'value': rate, 'low': low, 'high': high,
      'n': len(flips),
  }  # fmt: skip


def _falls(config, found):
  """LDS falls with the distance of the proxy, step by step and in all."""
  steps = dict.fromkeys(
    pair for chain in config.falls for pair in pairwise(chain)
  )
  out = [
    _lds_claim(f'{a} > {b}, mean of methods', gap(found, a, b))
    for a, b in steps
  ]
  ends = dict.fromkeys((chain[1], chain[-1]) for chain in config.falls)
  for a, b in ends:
    for name in _methods(found, a):
      out.append(_lds_claim(f'{a} > {b}, {name}', gap(found, a, b, name)))
  return _measured(out)


def _distillation(config, found):
  return _measured(
    _lds_claim(f'distillation helps: {a} > {b}', gap(found, a, b))
    for a, b in config.distilled
  )


def _unseen(config, found):
  return _measured(
    _lds_claim(f'{name} stays above random', gap(found, name, 'random'))
    for name in config.unseen
  )


def _detection(config, rows):
  """Of the proxies that were trained on the rows: above chance."""
  out = []
  for row in rows:
    seen = row['method'].split('/')[0] not in (*config.unseen, 'random')
    if row['metric'] == METRIC and seen:
      claim = f'{row["method"]} finds wrong labels'
      observed = claims.spanned(row['value'], row['low'], row['high'], '')
      holds = row['low'] > 0.5
      out.append(claims.claim(claim, PAPER, 'AUC above 0.5', observed, holds))
  return out


def _brittle(flipped):
  if 'random' not in flipped:
    return []
  out = []
  for name, flips in flipped.items():
    if name == 'random':
      continue
    apart = flips.astype(float) - flipped['random']
    mean, low, high, *_ = bootstrap.of_queries(apart)
    out.append(
      claims.claim(
        f'removing the top of {name} flips more than random rows',
        PAPER,
        'difference of flip rates above 0',
        claims.spanned(mean, low, high),
        low > 0,
      )
    )
  return out


def _lds_claim(claim, difference):
  """The claim, or None where it was not measured."""
  if difference is None:
    return None
  d = difference
  observed = claims.spanned(d.value, d.low, d.high)
  return claims.claim(
    claim, PAPER, 'LDS difference above 0', observed, d.low > 0
  )


def _measured(found):
  return [claim for claim in found if claim is not None]


def _methods(found, proxy):
  return [n.split('/')[1] for n in found if n.startswith(f'{proxy}/')]
