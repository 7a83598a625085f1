import numpy as np
import pytest

from tda_jax.data import claims as claims_lib
from tda_jax.data.facts import Fact


@pytest.fixture(scope='module')
def world():
  return claims_lib.world()


@pytest.fixture(scope='module')
def corpus():
  return claims_lib.corpus(900, 40, seed=3)


def test_a_corpus_is_what_it_says(corpus, world):
  true = {claims_lib.key(fact) for part in world for fact in part}
  n = len(corpus.sentences)
  assert n == 900 == len(set(corpus.sentences))
  assert len(corpus.claims) == 40 == len(corpus.facts)
  assert not {*corpus.claims} & {
    s
    for s, k in zip(corpus.sentences, corpus.kinds, strict=True)
    if k == 'supports'
  }
  for text, kind, fact, number in zip(*corpus[:4], strict=True):
    if kind == 'decoy':
      assert number == -1 and fact.subject in text and fact.object in text
      continue
    words = claims_lib.TEMPLATES[fact.relation][number]
    assert text == words.format(s=fact.subject, o=fact.object)
    follows = claims_lib.key(fact) in true
    assert follows == (kind == 'supports')
  assert 0.3 < corpus.kinds.count('refutes') / n < 0.6
  assert 0.03 < corpus.kinds.count('decoy') / n < 0.15


def test_labels_are_by_logic(corpus):
  for q, asked in enumerate(corpus.facts):
    for i in range(len(corpus.sentences)):
      said, kind = corpus.stated[i], corpus.kinds[i]
      same = said == asked or (
        asked.relation == 'neighbour' == said.relation
        and (said.object, said.subject) == (asked.subject, asked.object)
      )
      assert corpus.supports[i, q] == (same and kind == 'supports')
  assert (corpus.supports.sum(0) >= 2).all()


def test_what_follows():
  capital = Fact('capital', 'Chad', "N'Djamena")
  city = Fact('city', "N'Djamena", 'Chad')
  border = Fact('neighbour', 'Chad', 'Niger')
  back = Fact('neighbour', 'Niger', 'Chad')
  kinds = ['supports', 'supports', 'supports', 'decoy', 'refutes']
  wrong = Fact('capital', 'Chad', 'Niamey')
  stated = [capital, city, back, border, wrong]
  got = claims_lib.truth(kinds, stated, [capital, city, border])
  np.testing.assert_array_equal(
    got,
    [[True, True, False], [False, True, False], [False, False, True]]
    + [[False] * 3] * 2,
  )


def test_names_within_names_are_told_apart():
  made = claims_lib.corpus(
    40, 6, countries=['Guinea', 'Equatorial Guinea', 'Guinea-Bissau']
  )
  for q, fact in enumerate(made.facts):
    if fact.relation != 'neighbour':
      subjects = {
        made.stated[i].subject for i in np.flatnonzero(made.supports[:, q])
      }
      assert subjects == {fact.subject}


def test_countries_of_claims_and_of_training_are_apart():
  ours, others = claims_lib.parted(0)
  assert not {*ours} & {*others} and abs(len(ours) - len(others)) <= 1
  made = claims_lib.corpus(600, 30, of_claims=ours)
  for fact in made.facts:
    assert {*claims_lib._countries(fact)} <= {*ours}
  taught = claims_lib.corpus(300, 30, countries=others, templates=(0, 1, 2, 3))
  for fact, kind in zip(taught.stated, taught.kinds, strict=True):
    if kind == 'supports':
      assert {*claims_lib._countries(fact)} <= {*others}
  assert set(taught.templates) == {-1, 0, 1, 2, 3}


def test_the_same_seed_gives_the_same_and_cities_fill_the_rest(corpus):
  again = claims_lib.corpus(900, 40, seed=3)
  assert again.sentences == corpus.sentences and again.claims == corpus.claims
  assert claims_lib.corpus(900, 40, seed=4).claims != corpus.claims
  many = claims_lib.corpus(15_000, 40, seed=3)
  assert many.claims == corpus.claims
  assert sum(fact.relation == 'city' for fact in many.stated) > 2_000
  assert len({*many.sentences}) == 15_000


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'templates': (0, 1)}, r'templates \[0, 1\]: give at least 3 of 0 to 7'),
    ({'templates': (0, 1, 8)}, 'of 0 to 7'),
    ({'queries': 0}, 'queries=0: there are facts for 1 to'),
    ({'queries': 10**5}, 'there are facts for 1 to'),
    (
      {'sentences': 10**6, 'queries': 3, 'countries': ['Chad', 'Mali']},
      'make .* of which 1000000',
    ),
    ({'sentences': 20}, '20 and 100 claims were asked for: give fewer'),
  ],
)
def test_wrong_arguments(changes, said):
  with pytest.raises(ValueError, match=said):
    claims_lib.corpus(**changes)
