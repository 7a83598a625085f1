"""Scores of a stage: known again, and joined by model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import config_dict

from experiments import scores, tasks
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
  args = (task, runs, tmp_path)
  made = scores.of_members(config, 'astra', settings, *args)
  again = scores.of_members(config, 'astra', settings, *args)
  np.testing.assert_array_equal(again, made)
  settings.precondition.damping = 0.2
  with pytest.raises(ValueError, match='damping is 0.1 there and 0.2 now'):
    scores.of_members(config, 'astra', settings, *args)


def test_trak_of_several_members_has_two_factors(tmp_path):
  t = tiny.classification()
  params = jax.tree.map(
    lambda x: jnp.stack([x, 0.5 * x, -x, 2 * x, 3 * x]), t.params
  )
  runs = Run(params, None, None, None, None)
  task = tasks.Task(t.problem, None, t.train, t.queries, None)
  config = config_dict.create(seed=0, setting='s', batch_size=4)
  settings = {'kind': 'trak', 'projection_dim': 8, 'ridge': 0.1, 'members': 4}
  args = (task, runs, tmp_path)
  products = scores.of_members(config, 'products', settings, *args)
  apart, facts = scores.by_model(config, 'trak', settings, *args)
  assert [f.shape for f in apart] == [(4, 11, 1), (4, 11, 4)]
  np.testing.assert_allclose(factors.alone(apart), products, rtol=1e-5)
  parts = [
    scores.facts(config, tmp_path, f'trak/{part}', 4)
    for part in ('slopes', 'kernel')
  ]
  assert [f['seconds'] for f in facts] == [
    slopes['seconds'] + kernel['seconds']
    for slopes, kernel in zip(*parts, strict=True)
  ]
  pairs, facts = scores.by_model(
    config, 'trak', {**settings, 'members': 2}, *args, variants=2
  )
  for pair, each in zip(pairs, apart, strict=True):
    each = each.astype(np.float64)
    np.testing.assert_array_equal(pair, (each[::2] + each[1::2]) / 2)
  assert len(facts) == 4
  (one,), _ = scores.by_model(config, 'one', {**settings, 'members': 1}, *args)
  np.testing.assert_array_equal(one, products[:1])
  more, facts = scores.by_model(
    config, 'more', {**settings, 'members': 9}, *args
  )
  assert len(more[0]) == len(facts) == 5  # all that there are


def test_trak_is_refused_before_its_kernel_is_made(tmp_path):
  t = tiny.classification()
  problem = t.problem._replace(measure=lambda z, example: -z[0])
  params = jax.tree.map(lambda x: jnp.stack([x, -x]), t.params)
  runs = Run(params, None, None, None, None)
  task = tasks.Task(problem, None, t.train, t.queries, None)
  config = config_dict.create(seed=0, setting='s', batch_size=4)
  settings = {'kind': 'trak', 'projection_dim': 8}
  with pytest.raises(ValueError, match='a function of the measure'):
    scores.by_model(config, 'trak', settings, task, runs, tmp_path)
  assert not [*tmp_path.rglob('kernel')]


def test_settings_of_an_experiment_are_not_a_methods():
  """`attribute` takes any config, those of efficient_ensembles too."""
  config = config_dict.create(seed=0)
  task = tasks.Task(None, None, None, None)
  settings = {'kind': 'grad_dot', 'models': 3, 'varied': 1, 'variants': 2}
  settings |= {'score_loss': 'own', 'without': ('own',)}
  _, _, about = scores._method(config, settings, task, None)
  assert about['config'] == {'kind': 'grad_dot'}
