"""The verdict on a claim: it holds, it does not, or the run could not tell.

A claim has the texts `expected` ('LDS difference above 0') and `observed` ('+0.012
[-0.003, +0.027]'), and whether it holds. Where it does not, the interval says
whether the run could tell: it is undecided if the interval reaches the threshold or
crosses it.
"""

import re
from typing import NamedTuple

HOLDS, UNDECIDED, DOES_NOT = 'holds', 'undecided', 'does not'
VERDICTS = (HOLDS, UNDECIDED, DOES_NOT)
OPEN = 'open'  # not computed

_NUMBER = r'[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?'
_VALUE = re.compile(rf'(?P<value>{_NUMBER})(?P<unit>%?)')
_LIMITS = re.compile(rf'\s*\[(?P<low>{_NUMBER})%?, (?P<high>{_NUMBER})%?\]')
_ERROR = re.compile(rf'\s*± (?P<error>{_NUMBER})')
_THRESHOLD = re.compile(
  rf'\b(?P<side>not significantly below|above|below|at least|at most)'
  rf' (?P<at>{_NUMBER})'
)


class Observed(NamedTuple):
  """What a claim's text says was measured."""

  value: float
  low: float | None
  high: float | None
  unit: str  # '%' or ''


def observed(claim: dict) -> Observed | None:
  """The number that a claim is about, with its interval; None if unreadable.

  Of a difference with its parts ('0.6 − 0.4 = +0.2 ± 0.1') the difference. An
  error is one standard error where the claim asks for 2 SE; the interval is then
  that of two.
  """
  text = str(claim['observed']).replace('−', '-').rpartition('= ')[2].strip()
  found = _VALUE.match(text)
  if not found:
    return None
  value, rest = float(found['value']), text[found.end() :]
  low = high = None
  if limits := _LIMITS.match(rest):
    low, high = float(limits['low']), float(limits['high'])
  elif error := _ERROR.match(rest):
    wide = float(error['error']) * (
      2 if '2 SE' in str(claim['expected']) else 1
    )
    low, high = value - wide, value + wide
  elif rest.strip():
    return None  # '200 against 50; at the end …'
  return Observed(value, low, high, found['unit'])


def verdict(claim: dict) -> str:
  """'holds', 'undecided' or 'does not' of one claim; 'open' where it has no answer.

  Whether it holds is the run's own judgement. Of those that do not, undecided
  are those whose interval, as written, is not wholly on the other side of the
  threshold, or not known; without an interval or a threshold the claim does not
  hold.
  """
  if claim['holds'] is None:
    return OPEN
  if claim['holds']:
    return HOLDS
  if re.search(r'(–|± nan|nan\])$', str(claim['observed']).strip()):
    return UNDECIDED  # its spread is not known
  seen = observed(claim)
  threshold = _THRESHOLD.search(str(claim['expected']))
  if seen is None or seen.low is None or seen.high is None or threshold is None:
    return DOES_NOT
  at = float(threshold['at'])
  if threshold['side'] not in ('below', 'at most'):
    return DOES_NOT if seen.high < at else UNDECIDED
  return DOES_NOT if seen.low > at else UNDECIDED
