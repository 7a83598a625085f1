"""Scores of a stage: known again, and joined by model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import config_dict

from experiments.shared import dampings, grammar, scored, scores, tasks
from tda_jax.evaluation import factors
from tda_jax.run import Run


def test_a_method_within_another_is_known_again(tmp_path):
  t = tiny.classification()
  params = jax.tree.map(lambda leaf: leaf[None], t.params)
  runs = Run(params, None, None, None, None)
  task = tasks.Task(t.problem, None, t.train, t.queries, None)
  config = config_dict.create(seed=0, setting='s', batch_size=4)
  precondition = {'kind': 'ekfac', 'damping': 0.1}
  settings = config_dict.create(
    kind='astra', damping=0.1, steps=4, precondition=precondition
  )
  of = lambda: scored.parse('astra', settings)
  args = (task, runs, tmp_path)
  made = scores.of_members(config, 'astra', of(), *args)
  again = scores.of_members(config, 'astra', of(), *args)
  np.testing.assert_array_equal(again, made)
  settings.precondition.damping = 0.2
  with pytest.raises(ValueError, match='damping is 0.1 there and 0.2 now'):
    scores.of_members(config, 'astra', of(), *args)


def test_trak_of_several_members_has_two_factors(tmp_path):
  t = tiny.classification()
  params = jax.tree.map(
    lambda x: jnp.stack([x, 0.5 * x, -x, 2 * x, 3 * x]), t.params
  )
  runs = Run(params, None, None, None, None)
  task = tasks.Task(t.problem, None, t.train, t.queries, None)
  config = config_dict.create(seed=0, setting='s', batch_size=4)
  settings = scored.parse(
    'trak', {'kind': 'trak', 'projection_dim': 8, 'ridge': 0.1, 'members': 4}
  )
  args = (task, runs, tmp_path)
  products = scores.of_members(config, 'products', settings, *args)
  apart, facts = scores.by_model(config, 'trak', settings, *args)
  assert [f.shape for f in apart] == [(4, 11, 1), (4, 11, 4)]
  np.testing.assert_allclose(factors.per_model(apart), products, rtol=1e-5)
  parts = [
    scores.facts(config, tmp_path, f'trak/{part}', 4)
    for part in ('slopes', 'kernel')
  ]
  assert [f['seconds'] for f in facts] == [
    slopes['seconds'] + kernel['seconds']
    for slopes, kernel in zip(*parts, strict=True)
  ]
  pairs, facts = scores.by_model(
    config, 'trak', settings._replace(members=2), *args, variants=2
  )
  for pair, each in zip(pairs, apart, strict=True):
    each = each.astype(np.float64)
    np.testing.assert_array_equal(pair, (each[::2] + each[1::2]) / 2)
  assert len(facts) == 4
  single = settings._replace(members=1)
  (one,), _ = scores.by_model(config, 'one', single, *args)
  np.testing.assert_array_equal(one, products[:1])
  more, facts = scores.by_model(
    config, 'more', settings._replace(members=9), *args
  )
  assert len(more[0]) == len(facts) == 5  # all that there are


def test_trak_is_refused_before_its_kernel_is_made(tmp_path):
  t = tiny.classification()
  problem = t.problem._replace(measure=lambda z, example: -z[0])
  params = jax.tree.map(lambda x: jnp.stack([x, -x]), t.params)
  runs = Run(params, None, None, None, None)
  task = tasks.Task(problem, None, t.train, t.queries, None)
  config = config_dict.create(seed=0, setting='s', batch_size=4)
  settings = scored.parse('trak', {'kind': 'trak', 'projection_dim': 8})
  with pytest.raises(ValueError, match='a function of the measure'):
    scores.by_model(config, 'trak', settings, task, runs, tmp_path)
  assert not [*tmp_path.rglob('kernel')]


def test_settings_of_an_experiment_are_not_a_methods():
  """`attribute` takes any config, those of efficient_ensembles too."""
  settings = {'kind': 'grad_dot', 'models': 3, 'varied': 1, 'variants': 2}
  settings |= {'score_loss': 'own', 'without': ['own'], 'curve': 'c'}
  of = scored.parse('m', settings)
  assert of.settings == {'kind': 'grad_dot'} and of.kind == 'grad_dot'
  assert (of.models, of.varied, of.variants) == (3, 1, 2)
  assert of.without == ('own',) and of.members is None
  assert settings['models'] == 3  # the config stays


def test_what_a_flag_writes_for_a_number_is_one_and_source_has_its_momentum():
  nested = {'kind': 'cg', 'damping': '0.5', 'precondition': {'damping': '1e-2'}}
  of = scored.parse('m', nested, momentum=0.9)
  assert of.settings['damping'] == 0.5
  assert of.settings['precondition'] == {'damping': 0.01}
  assert 'momentum' not in of.settings
  assert scored.parse('m', {'kind': 'source'}, 0.9).settings['momentum'] == 0.9
  given = {'kind': 'source', 'momentum': 0.1}
  assert scored.parse('m', given, 0.9).settings['momentum'] == 0.1


@pytest.mark.parametrize(
  'text, want',
  [
    ('exact', ('exact', None, 1.0)),
    ('dropout:10', ('dropout', '10', 1.0)),
    ('ablation=steps', ('ablation', 'steps', 1.0)),
    ('chosen:exact*10', ('chosen', 'exact', 10.0)),
    ('a:b=c', ('a', 'b=c', 1.0)),
    ('a:', ('a', '', 1.0)),
  ],
)
def test_the_grammar_of_a_configs_texts(text, want):
  assert grammar.term(text, factors=True) == want
  if '*' not in text:
    assert grammar.terms(f'{text}, b,') == [want, ('b', None, 1.0)]


def test_a_factor_that_is_no_number_is_a_sentence():
  with pytest.raises(ValueError, match=r'a\*b: give a number after the star'):
    grammar.term('a*b', factors=True)
  with pytest.raises(ValueError, match="'smoke[*]2' has a factor, which only"):
    grammar.terms('smoke*2')
  assert grammar.names('a, b') == ['a', 'b']
  with pytest.raises(ValueError, match="'a,b:2' gives 'b' an argument"):
    grammar.names('a,b:2')
  assert grammar.terms(None) == grammar.terms('') == []


def test_a_chosen_damping_is_resolved_wherever_it_stands():
  of = scored.parse(
    'm',
    {
      'kind': 'astra',
      'damping': 'chosen:exact*10',
      'precondition': {'kind': 'ekfac', 'damping': 'chosen:ekfac'},
    },
  )
  assert {*scored.references(of.settings)} == {'exact', 'ekfac'}
  found = dampings.resolved(of, {'exact': 0.5, 'ekfac': 2.0}).settings
  assert (found['damping'], found['precondition']['damping']) == (5.0, 2.0)
  with pytest.raises(ValueError, match="no entry 'ekfac', it has .'exact'"):
    dampings.resolved(of, {'exact': 0.5})
