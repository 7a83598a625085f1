"""Claims of "Training Data Attribution under Limited Access", from what was
measured.

LDS is compared resample by resample, for the mean over the methods that both
proxies have; flips in pairs over queries. Proxies are compared with a control of
their own hyperparameters, since these alone change the LDS; a pair of which that
is not so has no claim.
"""

import numpy as np

from experiments.limited_access import proxies
from experiments.limited_access.proxies import RANDOM, TARGET, Key
from experiments.shared import claim as claims
from experiments.shared.findings import Finding
from tda_jax.evaluation import bootstrap

PAPER = 'limited-access paper (Zhang et al. 2025)'
FLIP = 'flip_rate'


def computed(
  config, findings: dict[Key, Finding], flipped: dict, wrong
) -> list:
  """All claims whose proxies were measured.

  Args:
    findings: (proxy, method), and RANDOM -> Finding.
    flipped: their labels -> which queries flipped, [Q'].
    wrong: (proxy, method) -> result row of the AUC of wrong labels.
  """
  return [
    *_access(config, findings),
    *_hyperparameters(config, findings),
    *_distillation(config, findings),
    *_unseen(config, findings),
    *_detection(config, wrong),
    *_brittle(flipped),
  ]


def gap(findings: dict[Key, Finding], a: str, b: str, only=None):
  """Mean over methods of LDS of proxy a − of proxy b; None if none is shared.

  Args:
    b: or 'random'.
    only: the one method to compare.
  """
  gaps = []
  for name in _methods(findings, a):
    other = findings.get(RANDOM if b == 'random' else (b, name))
    if other is not None and only in (None, name):
      own = findings[a, name].ensemble
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
    'method': name,
    'metric': FLIP,
    'value': rate,
    'low': low,
    'high': high,
    'n': len(flips),
  }


def _access(config, findings):
  """The target's access is better than a proxy's, of the same hyperparameters."""
  out = []
  for control, proxy in config.controlled:
    if not proxies.controlled(config, control, proxy):
      continue  # they differ in more, or in nothing
    claim = f'{control} > {proxy}'
    both = gap(findings, control, proxy)
    out.append(_lds_claim(f'{claim}, mean of methods', both))
    for name in _methods(findings, control):
      only = gap(findings, control, proxy, name)
      out.append(_lds_claim(f'{claim}, {name}', only))
  return _measured(out)


def _hyperparameters(config, findings):
  """What a proxy's hyperparameters alone give, with all of the target's access."""
  return _measured(
    _lds_claim(
      f'hyperparameters alone: {control} > {TARGET}',
      gap(findings, control, TARGET),
      'ours',
    )
    for control in sorted(proxies.controls(config))
  )


def _distillation(config, findings):
  return _measured(
    _lds_claim(f'distillation helps: {a} > {b}', gap(findings, a, b))
    for a, b in config.distilled
    if proxies.same_but(config, a, b, 'training.distillation')
  )


def _unseen(config, findings):
  return _measured(
    _lds_claim(f'{name} stays above random', gap(findings, name, 'random'))
    for name in config.unseen
  )


def _detection(config, wrong):
  """Proxies that were trained on the rows find wrong labels above chance."""
  out = []
  for key, row in wrong.items():
    if key != RANDOM and key[0] not in config.unseen:
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


def _lds_claim(claim, difference, source=PAPER):
  """The claim, or None where it was not measured."""
  if difference is None:
    return None
  d = difference
  observed = claims.spanned(d.value, d.low, d.high)
  return claims.claim(
    claim, source, 'LDS difference above 0', observed, d.low > 0
  )


def _measured(findings):
  return [claim for claim in findings if claim is not None]


def _methods(findings, proxy):
  return [method for of, method in findings if of == proxy]
