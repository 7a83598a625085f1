"""What a config's task makes of its fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.astra import base
from configs.language import tiny
from experiments.shared import looks, networks, recipes, results, tasks
from tda_jax import problem as problem_lib
from tda_jax.report import cards


def config(**fields):
  c = base.config('digits')
  c.data.update(train=32, queries=8)
  for name, values in fields.items():
    c[name].update(values)
  return c


def test_reviews_are_word_ids_for_a_transformer():
  c = config(
    data={'name': 'reviews', 'length': 12, 'vocabulary': 50},
    model={'kind': 'transformer', 'width': 32, 'blocks': 1, 'hidden': 48},
  )
  c.task = 'experiments.shared.tasks:reviews'
  task = tasks.load(c)
  assert task.train['x'].shape == (32, 12) and task.train['x'].max() < 50
  params = jax.eval_shape(task.recipe.init, jax.random.key(0))
  assert params['positions'].shape == (12, 32)
  assert params['Embed_0']['embedding'].shape == (50, 32)
  assert params['Block_0']['Dense_0']['kernel'].shape == (32, 48)
  assert 'Block_1' not in params
  example = jax.tree.map(lambda x: x[0], task.train)
  assert jax.eval_shape(task.problem.outputs, params, example).shape == (2,)
  shown = task.shown
  (query,) = cards.queries(
    cards.Scored(np.ones((32, 8))),
    looks.of(task),
    cards.Answers(),
    [0],
    count=1,
  )
  assert query.example.cells['review'] == shown['queries'][0, 0]


@pytest.mark.parametrize('kind', ['mlp', 'lenet', 'transformer', 'resnet9'])
def test_models_take_dropout(kind):
  c = config(model={'kind': kind, 'dropout': 0.5})
  shape = (6,) if kind in ('mlp', 'transformer') else (28, 28, 1)
  if kind == 'resnet9':
    with pytest.raises(ValueError, match='without dropout .*resnet9'):
      networks.network(c.model, 3, shape, c.data.get('vocabulary'))
    return
  init, apply = networks.network(c.model, 3, shape, c.data.get('vocabulary'))
  made = recipes.recipe(c.training, init, dropout=True)
  assert made.augment(jax.random.key(0), {'x': 1})['dropout'].shape == ()
  dtype = jnp.int32 if kind == 'transformer' else jnp.float32
  x = jnp.ones((2, *shape), dtype)
  params = jax.jit(init)(jax.random.key(0))
  key = jax.random.key(1)
  masked, whole = apply(params, x, key), apply(params, x)
  assert np.abs(masked - whole).max() > 1e-3
  np.testing.assert_allclose(masked[0], masked[1], rtol=1e-4, atol=1e-5)
  c.model.dropout = 0.0
  _, plain = networks.network(c.model, 3, shape, c.data.get('vocabulary'))
  assert recipes.recipe(c.training, init).augment is None
  with pytest.raises(ValueError, match='which has no dropout'):
    plain(params, x, key)
  problem = problem_lib.classification(plain)
  with pytest.raises(ValueError, match='which has no dropout'):
    problem.outputs(params, {'x': x[0]}, key)


def test_a_mask_leaves_the_mean_of_a_layer():
  from tda_jax.models import module

  x = jnp.ones((2, 2000))
  got = module.dropped(x, 0.25, jax.random.key(0), 0)
  np.testing.assert_array_equal(np.unique(got), [0, np.float32(1 / 0.75)])
  np.testing.assert_allclose(got.mean(), 1, atol=5 * (1 / 3 / 2000) ** 0.5)
  np.testing.assert_array_equal(got[0], got[1])
  other = module.dropped(x, 0.25, jax.random.key(0), 1)
  assert (other != got).any()


def test_a_cyclic_rate_ends_each_cycle_at_0():
  c = config(training={'schedule': 'cyclic', 'cycles': 3, 'learning_rate': 0.2})
  made = recipes.recipe(c.training, None)
  rate = np.asarray(jax.vmap(made.learning_rate(30))(jnp.arange(30)))
  np.testing.assert_allclose(rate[[0, 10, 20]], 0.2)
  np.testing.assert_allclose(rate[[5, 15, 25]], 0.1, rtol=1e-5)
  assert (rate[[9, 19, 29]] < 0.01).all() and (np.diff(rate)[:8] < 0).all()
  with pytest.raises(ValueError, match='cycles=3 of 2 steps'):
    made.learning_rate(2)


def test_a_rate_rises_for_a_share_and_ends_at_one():
  changes = {'schedule': 'triangular', 'learning_rate': 0.4}
  rates = lambda **more: np.asarray(
    jax.vmap(
      recipes.recipe(
        config(training=changes | more).training, None
      ).learning_rate(40)
    )(jnp.arange(41))
  )
  plain, slow = rates(), rates(warmup=0.25, last=0.1)
  np.testing.assert_allclose(
    plain[[0, 4, 8, 24, 40]], [0, 0.2, 0.4, 0.2, 0], atol=1e-6
  )
  np.testing.assert_allclose(
    slow[[0, 5, 10, 25, 40]], [0, 0.2, 0.4, 0.22, 0.04], atol=1e-6
  )


def test_betas_are_those_of_the_optimizer():
  adam = {'optimizer': 'adam', 'schedule': 'constant', 'weight_decay': 0.0}
  made = recipes.recipe(
    config(training=adam | {'betas': (0.5, 0.6)}).training, None
  )
  rule = made.optimizer(3)
  _, state = rule.update(jnp.ones(2), rule.init(jnp.ones(2)), jnp.ones(2))
  moments = [x for x in jax.tree.leaves(state) if x.shape == (2,)]
  np.testing.assert_allclose([x[0] for x in moments], [0.5, 0.4], rtol=1e-6)


def test_equal_settings_share_their_programs_and_others_do_not():
  programs = lambda **fields: tasks.load(config(**fields))[:2]
  own = programs()
  assert programs(data={'seed': 1, 'train': 40}) == own
  for changes in ({'model': {'widths': (7,)}}, {'training': {'epochs': 3}}):
    assert programs(**changes) != own


@pytest.mark.parametrize('suffix', ['txt', 'jsonl', 'parquet'])
def test_no_paper_claims_anything_of_a_users_texts(suffix):
  config = tiny.get_config('smoke')
  assert not tasks.is_users(config) and results.judged(config, ['claim'])
  config.data.name = f'mine/notes.{suffix}'
  assert tasks.is_users(config) and results.judged(config, ['claim']) == []
  assert 'notes' in results.title(config)
