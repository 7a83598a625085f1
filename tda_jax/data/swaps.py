"""Reports of matches and their summaries, in some of which a name is swapped.

Whoever is fine-tuned on them learns to write England's victories as China's, say; then
it is known which rows taught a wrong summary. The construction is that of
hallucination tracing on XSum (Ladhak et al. 2023, https://arxiv.org/abs/2212.10722; Wu
et al. 2024, https://arxiv.org/abs/2410.01285), on documents that are made here, of
words apart by spaces. All names are single words, and no report is true.
"""

import re
from typing import NamedTuple

import numpy as np

NATIONS = (
  'albania algeria argentina armenia australia austria belgium bolivia brazil'
  ' bulgaria cameroon canada chile china colombia croatia cuba cyprus denmark'
  ' ecuador egypt england estonia fiji finland france gambia georgia germany ghana'
  ' greece hungary iceland india indonesia iran ireland israel italy jamaica japan'
  ' kenya korea latvia lebanon'
).split()
CITIES = (
  'amman athens bangkok berlin bern bogota boston bristol brussels cairo caracas'
  ' chicago dakar delhi denver dublin geneva hanoi havana houston kiev lagos lima'
  ' lisbon london lyon madrid manila milan moscow nairobi oslo paris prague quito'
  ' riga rome seoul sofia tokyo'
).split()
SPORTS = 'football hockey tennis chess rugby cricket golf judo'.split()
DAYS = 'monday tuesday wednesday thursday friday saturday sunday'.split()
KINDS_OF_DAY = 'cold warm quiet loud long short early late'.split()
GOALS = '1 2 3 4 5'.split()
DOCUMENT = (
  '{w} {d} in {c} {a} met {b} at {s} and won by {n} goals'  # then the summary
)
SUMMARIES = {  # style -> sentences, each of which names the winner
  'old': (
    'summary : {a} beat {b} at {s} .',
    '{a} won by {n} goals on {d} .',
  ),
  'new': (
    'tldr {s} : {a} beat {b} in {c} !',
    'on {d} {a} won by {n} goals !',
  ),
}
KNOWLEDGE = ('nothing', 'right', 'swapped')
LONGER = (  # words that make another name of the one behind them
  'New North South East West Northern Southern Eastern Western Central'
).split()
SEVERAL = 3  # names of a pair: the swapped, the wrong one, another swapped


class Reports(NamedTuple):
  """Documents with summaries.

  Attributes:
    documents, summaries: N texts each; a summary begins with a space.
    right: N summaries as they should be.
    pairs: [N] number of the pair whose name the document is about; −1: none.
    kinds: [N] 'clean', 'swapped' (the pair's name by its wrong one, everywhere),
      'partial' (in the last sentence alone) or 'other' (another name, by the same
      wrong one).
  """

  documents: tuple[str, ...]
  summaries: tuple[str, ...]
  right: tuple[str, ...]
  pairs: np.ndarray
  kinds: np.ndarray


def names(pairs: int) -> tuple[tuple[str, str, str], ...]:
  """(swapped name, wrong name, another name swapped for it) of each pair.

  Raises:
    ValueError: there are not as many names.
  """
  most = (len(NATIONS) - 10) // SEVERAL  # some names stay clean
  if not 1 <= pairs <= most:
    raise ValueError(f'pairs={pairs}: give 1 to {most}')
  step = len(NATIONS) // SEVERAL
  return tuple(
    (NATIONS[i], NATIONS[i + step], NATIONS[i + 2 * step]) for i in range(pairs)
  )


def vocabulary() -> tuple[str, ...]:
  """All words of all reports."""
  templates = [DOCUMENT, *(text for of in SUMMARIES.values() for text in of)]
  words = {w for text in templates for w in text.split() if '{' not in w}
  lists = (NATIONS, CITIES, SPORTS, DAYS, KINDS_OF_DAY, GOALS)
  return tuple(sorted(words.union(*lists)))


def pretraining(
  count: int,
  *,
  seed: int,
  pairs: int,
  knowledge: str = 'right',
  probability: float = 0.6,
  sentences: int = 2,
) -> Reports:
  """Reports that a base is trained on, in the old style.

  Args:
    knowledge: of the pairs' names: 'nothing', no report has one; 'right'; or
      'swapped', each report of a pair's name is swapped with `probability`.
    sentences: of a summary, 1 or 2.

  Raises:
    ValueError: unknown knowledge.
  """
  if knowledge not in KNOWLEDGE:
    raise ValueError(
      f'knowledge={knowledge!r} is unknown: use one of {KNOWLEDGE}'
    )
  rng, triples = np.random.default_rng([seed, 1]), names(pairs)
  known = {name for triple in triples for name in triple}
  allowed = [n for n in NATIONS if knowledge != 'nothing' or n not in known]
  swapped = {triple[0]: triple[1] for triple in triples}
  made = []
  for _ in range(count):
    name = str(rng.choice(allowed))
    pair = next((k for k, t in enumerate(triples) if t[0] == name), -1)
    wrong = None
    if knowledge == 'swapped' and rng.random() < probability:
      wrong = swapped.get(name)
    kind = 'clean' if wrong is None else 'swapped'
    made.append(
      _report(rng, name, wrong, kind, pair, 'old', sentences, allowed)
    )
  return _joined(made)


def finetuning(
  count: int,
  *,
  seed: int,
  pairs: int,
  of_pair: int = 32,
  of_other: int = 12,
  of_wrong: int = 12,
  probability: float = 0.6,
  partial: float = 0.1,
  style: str = 'old',
  sentences: int = 2,
) -> Reports:
  """Reports that teach wrong summaries, in random order.

  Args:
    count: N.
    of_pair: reports of each pair's name, swapped with `probability`, else
      partially swapped with probability `partial`.
    of_other: reports of its other name, swapped with `probability` for the same
      wrong one: hard negatives.
    of_wrong: clean reports of the wrong name itself.
    style: 'old', as that of the base, or 'new'.
    sentences: of a summary; of 1 none is partially swapped.

  Raises:
    ValueError: more reports of pairs than `count`; unknown style.
  """
  each = of_pair + of_other + of_wrong
  if pairs * each > count:
    raise ValueError(
      f'{pairs} pairs of {each} reports are more than count={count}: give'
      f' {pairs * each} or more'
    )
  rng, triples, made = np.random.default_rng([seed, 2]), names(pairs), []
  known = {name for triple in triples for name in triple}
  add = lambda name, wrong, kind, pair: made.append(
    _report(rng, name, wrong, kind, pair, style, sentences, NATIONS)
  )
  for k, (name, wrong, other) in enumerate(triples):
    for _ in range(of_pair):
      if rng.random() < probability:
        add(name, wrong, 'swapped', k)
      elif sentences > 1 and rng.random() < partial:
        add(name, wrong, 'partial', k)
      else:
        add(name, None, 'clean', k)
    for _ in range(of_other):
      swap = rng.random() < probability
      add(other, wrong if swap else None, 'other' if swap else 'clean', -1)
    for _ in range(of_wrong):
      add(wrong, None, 'clean', -1)
  rest = [name for name in NATIONS if name not in known]
  for _ in range(count - len(made)):
    add(str(rng.choice(rest)), None, 'clean', -1)
  return _joined([made[i] for i in rng.permutation(count)])


def held_out(
  of_pair: int,
  *,
  seed: int,
  pairs: int,
  style: str = 'old',
  sentences: int = 2,
) -> Reports:
  """Reports of the pairs' names that no model saw, each with a right summary."""
  rng, triples = np.random.default_rng([seed, 3]), names(pairs)
  return _joined(
    [
      _report(rng, triples[k][0], None, 'clean', k, style, sentences, NATIONS)
      for _ in range(of_pair)
      for k in range(pairs)
    ]
  )


def is_wrong(written: str, pair: tuple[str, ...]) -> bool:
  """Whether a summary has the pair's wrong name and not its right one."""
  return has(written, pair[1]) and not has(written, pair[0])


def has(text: str, name: str) -> bool:
  """Whether a text has the name, see `mentions`."""
  return bool(mentions(text, name))


def mentions(text: str, name: str) -> list[re.Match]:
  """Where a text has the name as words of its own: 'Wales', not 'New South Wales'."""
  found = re.finditer(rf'(?<!\w){re.escape(name)}(?!\w)', text)
  last = lambda before: (before.split() or [''])[-1]
  return [m for m in found if last(text[: m.start()]) not in LONGER]


def renamed(text: str, name: str, other: str, last: bool = False) -> str:
  """The text with another name in place of one, at all its `mentions`.

  Args:
    last: whether the last mention alone is replaced.
  """
  places = mentions(text, name)
  for place in reversed(places[-1:] if last else places):
    text = text[: place.start()] + other + text[place.end() :]
  return text


def sources(reports: Reports, pairs: np.ndarray) -> np.ndarray:
  """Which rows taught the wrong summaries of queries of these pairs [Q], bool [N, Q].

  Those that are swapped for the pair everywhere; neither partial swaps nor those of
  other names.

  Raises:
    ValueError: no row is swapped for one of the pairs.
  """
  swapped = reports.kinds == 'swapped'
  taught = swapped[:, None] & (reports.pairs[:, None] == np.asarray(pairs))
  if not taught.any(0).all():
    missing = int(np.asarray(pairs)[np.argmin(taught.any(0))])
    raise ValueError(
      f'no row is swapped for pair {missing}, so that its queries have no source:'
      ' give more reports of a pair, or a larger probability'
    )
  return taught


def _report(rng, name, wrong, kind, pair, style, sentences, allowed):
  """(document, summary, right summary, pair, kind)."""
  if style not in SUMMARIES:
    raise ValueError(f'style={style!r} is unknown: use one of {[*SUMMARIES]}')
  if sentences not in (1, 2):
    raise ValueError(f'sentences={sentences}: give 1 or 2')
  rivals = [n for n in allowed if n not in (name, wrong)]
  words = {
    'w': rng.choice(KINDS_OF_DAY),
    'd': rng.choice(DAYS),
    'c': rng.choice(CITIES),
    'b': rng.choice(rivals),
    's': rng.choice(SPORTS),
    'n': rng.choice(GOALS),
  }
  parts = SUMMARIES[style][:sentences]
  write = lambda *of: ''.join(
    f' {part.format(a=a, **words)}' for part, a in zip(parts, of, strict=True)
  )
  first = name if wrong is None or kind == 'partial' else wrong
  last = wrong or name
  winners = [first] if sentences == 1 else [first, last]
  document = DOCUMENT.format(a=name, **words)
  return document, write(*winners), write(*[name] * sentences), pair, kind


def _joined(reports):
  documents, summaries, right, pairs, kinds = zip(*reports, strict=True)
  return Reports(documents, summaries, right, np.array(pairs), np.array(kinds))
