"""The lines that gather many like claims, with their verdicts."""

import re
from typing import NamedTuple

from tda_jax.report.verdicts import (
  DOES_NOT,
  HOLDS,
  UNDECIDED,
  VERDICTS,
  observed,
  verdict,
)


class Line(NamedTuple):
  """Like claims of some settings, as one line of a table."""

  settings: list[str]
  ours: str
  verdict: str


def lines(claims: dict[str, list[dict]]) -> list[Line]:
  """Setting -> its like claims, as few lines.

  Settings whose claims all have the same verdict share a line; one whose claims
  differ has its own, with counts.
  """
  alike = {name: {} for name in VERDICTS}
  mixed = []
  for setting, every in claims.items():
    found = {verdict(claim) for claim in every}
    if len(found) == 1:
      alike[found.pop()][setting] = every
    else:
      mixed.append(_line({setting: every}))
  groups = {name: _line(of) for name, of in alike.items() if of}
  first = [groups.pop(HOLDS)] if HOLDS in groups else []
  return [*first, *mixed, *groups.values()]


def counted(claims: list[dict]) -> str:
  """'5 hold, 2 undecided'; the verdict itself where all have one."""
  counts = {name: 0 for name in VERDICTS}
  for claim in claims:
    counts[verdict(claim)] += 1
  some = {name: count for name, count in counts.items() if count}
  if len(some) == 1:
    (name,) = some
    every = f' (all {len(claims)})' if len(claims) > 1 else ''
    return f'**{name}**{every}' if name == DOES_NOT else f'{name}{every}'
  plural = {HOLDS: 'hold', UNDECIDED: 'undecided', DOES_NOT: 'do not'}
  told = lambda name, count: name if count == 1 else plural[name]
  return ', '.join(f'{n} {told(name, n)}' for name, n in some.items())


def span(claims: list[dict]) -> str:
  """What was observed: of many, the smallest and the largest."""
  if len(claims) == 1:
    return shown(claims[0])
  read = [(observed(claim), claim) for claim in claims]
  if any(seen is None for seen, _ in read):
    texts = list(dict.fromkeys(str(c['observed']) for c in claims))
    return f'e.g. {texts[0]}' if len(texts) > 1 else texts[0]
  read.sort(key=lambda pair: pair[0].value)
  ends = [shown(read[i][1]) for i in (0, -1)]
  return ends[0] if ends[0] == ends[1] else f'{ends[0]} to {ends[1]}'


def shown(claim: dict) -> str:
  """The observed number with its interval; the text itself if unreadable."""
  seen = observed(claim)
  if seen is None or seen.low is None:
    return str(claim['observed'])
  if seen.unit:
    return (
      f'{seen.value:g}{seen.unit} [{seen.low:g}{seen.unit},'
      f' {seen.high:g}{seen.unit}]'
    )
  # A difference has its sign; a share or an AUC has none.
  sign = '+' if re.search(r'= |^[+-]', str(claim['observed'])) else ''
  form = f'{sign}.3f' if '.' in str(claim['observed']) else f'{sign}.0f'
  return f'{seen.value:{form}} [{seen.low:{form}}, {seen.high:{form}}]'


def _line(claims: dict[str, list[dict]]) -> Line:
  every = [claim for of in claims.values() for claim in of]
  return Line(list(claims), span(every), counted(every))
