"""Rules that the values of settings must fit, with their words."""

import difflib
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
  """What a value must be, and the words that say so.

  Attributes:
    words: what to give, as 'a whole number from 1'.
    fits: value -> whether it is such a one.
    known: names to choose from, if the rule has any.
  """

  words: str
  fits: Callable[[Any], bool]
  known: tuple[str, ...] = ()

  def check(self, path: str, value: Any) -> None:
    """Raises ValueError, one sentence, unless the value fits."""
    if self.fits(value):
      return
    near = difflib.get_close_matches(str(value), self.known, 1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    raise ValueError(f'{path}={value!r}: give {self.words}{hint}')


def whole(least: int, most: int | None = None) -> Rule:
  """A whole number, no bool, from `least` to `most`."""
  top = '' if most is None else f' to {most}'
  return Rule(
    f'a whole number from {least}{top}',
    lambda v: (
      isinstance(v, int)
      and not isinstance(v, bool)
      and least <= v
      and (most is None or v <= most)
    ),
  )


def number(
  above: float = -math.inf,
  below: float = math.inf,
  least: float = -math.inf,
  most: float = math.inf,
) -> Rule:
  """A finite number within these; `above` and `below` are not of them."""
  low = f'above {above:g}' if math.isfinite(above) else ''
  low = f'from {least:g}' if math.isfinite(least) else low
  high = f'below {below:g}' if math.isfinite(below) else ''
  high = f'to {most:g}' if math.isfinite(most) else high
  between = {('from', 'below'): ' to ', ('from', 'to'): ' '}.get(
    (low[:4], high.partition(' ')[0]), ' and '
  )
  return Rule(
    f'a number {between.join(filter(None, (low, high)))}',
    lambda v: (
      isinstance(v, (int, float))
      and not isinstance(v, bool)
      and above < v < below
      and least <= v <= most
    ),
  )


def choice(*known: str) -> Rule:
  """One of these names."""
  words = ', '.join(repr(k) for k in known)
  return Rule(f'one of {words}', lambda v: v in known, known)


def several(rule: Rule, least: int = 1, most: int | None = None) -> Rule:
  """A tuple of what fits `rule`, of `least` to `most` of them."""
  count = {0: 'a tuple', 1: 'a tuple of at least one'}.get(
    least, f'a tuple of {"" if most == least else "at least "}{least}'
  )
  return Rule(
    f'{count}, each {rule.words}',
    lambda v: (
      isinstance(v, (tuple, list))
      and least <= len(v)
      and (most is None or len(v) <= most)
      and all(map(rule.fits, v))
    ),
  )


def either(*rules: Rule) -> Rule:
  """What fits one of the rules."""
  return Rule(
    ' or '.join(rule.words for rule in rules),
    lambda v: any(rule.fits(v) for rule in rules),
    tuple(name for rule in rules for name in rule.known),
  )


def nothing() -> Rule:
  return Rule('None', lambda v: v is None)


text = Rule('a text', lambda v: isinstance(v, str))
flag = Rule('True or False', lambda v: isinstance(v, bool))
name = Rule(
  'a name of letters, digits, ".", "-" and "_" that begins with a letter or a'
  ' digit',
  lambda v: isinstance(v, str) and bool(re.fullmatch(r'[A-Za-z0-9][\w.-]*', v)),
)
share = number(least=0, most=1)
open_share = number(above=0, below=1)
