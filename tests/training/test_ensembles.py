"""Members made of a few trained models, and training with what is frozen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import retraining
from tda_jax.models import mlp
from tda_jax.problem import bound, classification
from tda_jax.training import ensembles, members
from tda_jax.training.fit import Member, Minibatch, Recipe, minibatch

KEYS = jax.random.split(jax.random.key(3), 2)
INIT, APPLY = mlp.mlp((8,), 3, (4,), dropout=0.3)
PROBLEM = classification(APPLY)


@functools.cache
def recipe(augment=None, epochs=3):
  rate = lambda total: optax.constant_schedule(0.1)
  return Recipe(INIT, lambda total: optax.sgd(0.1), rate, 5, epochs, augment)


DROPPING = rows_lib.with_dropout()


def rows(n=13):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(n, 4)).astype(np.float32)
  return {'x': x, 'y': rng.integers(0, 3, n)}


def trained(**kwargs):
  made = recipe(kwargs.pop('augment', None))
  return members.train(PROBLEM, made, rows(), KEYS, **kwargs)


def near(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-5), a, b)


def test_masked_members_are_sub_networks_model_by_model():
  run = trained(checkpoints=2)
  many = ensembles.masked(run, 3, jax.random.key(1))
  assert trees.count(many.params) == 6 == len(many.frozen) == len(many.keys)
  near(trees.row(many.params, 4), trees.row(run.params, 1))
  near(trees.row(many.checkpoints, 2), trees.row(run.checkpoints, 0))
  assert many.steps is run.steps
  copies = ensembles.repeated(run, 3)
  near(copies.params, many.params)
  assert copies.frozen is None
  data = np.asarray(jax.random.key_data(many.frozen))
  assert len({tuple(key) for key in data}) == 6
  found = retraining.measures(PROBLEM, many.params, rows(), many.frozen)
  for e in (1, 4):
    own = bound(PROBLEM, many.frozen[e])
    params = jax.tree.map(lambda x, e=e: x[e][None], many.params)
    near(found[e], retraining.measures(own, params, rows())[0])
  assert np.abs(found[0] - found[1]).max() > 1e-3
  with pytest.raises(ValueError, match='something frozen already'):
    ensembles.masked(many, 2, jax.random.key(1))
  with pytest.raises(ValueError, match='masks=0'):
    ensembles.masked(run, 0, jax.random.key(1))


def test_last_checkpoints_are_members():
  run = trained(checkpoints=3)._replace(frozen=KEYS)
  many = ensembles.last_checkpoints(run, 2)
  assert trees.count(many.params) == 4 and many.keys is None
  last = jax.tree.map(lambda x: x[0, 1], run.checkpoints)
  near(trees.row(many.params, 0), last)
  near(trees.row(many.params, 3), trees.row(run.params, 1))
  data = jax.random.key_data(many.frozen)
  near(data[1], jax.random.key_data(KEYS[0]))
  near(data[2], jax.random.key_data(KEYS[1]))
  with pytest.raises(ValueError, match='last 4 of 3 checkpoints'):
    ensembles.last_checkpoints(run, 4)
  with pytest.raises(ValueError, match='last 1 of 0 checkpoints'):
    ensembles.last_checkpoints(run._replace(checkpoints=None), 1)
  for a, b in zip(
    *(
      jax.tree.leaves(m.params)
      for m in (many, ensembles.last_checkpoints(run._replace(steps=None), 2))
    ),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_frozen_members_train_each_with_its_own(tmp_path):
  masks = jax.random.split(jax.random.key(5), 2)
  run = trained(frozen=masks, directory=tmp_path)
  for e in range(2):
    own = bound(PROBLEM, masks[e])
    one = members.train(own, recipe(), rows(), KEYS[e : e + 1])
    near(trees.row(run.params, e), trees.row(one.params, 0))
  assert run.frozen is masks
  assert not np.allclose(run.params['Dense_0']['kernel'],
                         trained().params['Dense_0']['kernel'], atol=1e-3)  # fmt: skip
  with pytest.raises(ValueError, match='another run.*frozen'):
    trained(frozen=masks[::-1], directory=tmp_path)
  with pytest.raises(ValueError, match='for each of the 2 members'):
    trained(frozen=masks[:1])


def test_dropout_draws_a_mask_for_each_example():
  batch = minibatch_of(recipe(DROPPING), Member(KEYS[0]))
  masks = np.asarray(jax.random.key_data(batch.examples['dropout']))
  assert len({tuple(key) for key in masks}) == 5
  params = INIT(KEYS[0])
  example = trees.row(batch.examples, 2)
  outputs = PROBLEM.outputs(params, example)
  alone = APPLY(params, example['x'][None], example['dropout'])[0]
  near(outputs, alone)
  # An example's own mask goes before the model's: it is there in training only.
  near(bound(PROBLEM, KEYS[1]).outputs(params, example), alone)
  assert not np.allclose(outputs, APPLY(params, example['x'][None])[0])


def test_dropout_follows_another_augmentation():
  noise = lambda key, e: {**e, 'x': e['x'] + jax.random.normal(key, (4,))}
  both = rows_lib.with_dropout(noise)
  one = both(KEYS[0], {'x': jnp.zeros(4), 'y': 0})
  assert np.abs(one['x']).min() > 0 and one['y'] == 0
  assert one['dropout'].dtype == KEYS.dtype


def minibatch_of(made, member) -> Minibatch:
  index = jnp.arange(15).reshape(3, 5) % 13
  data = jax.tree.map(jnp.asarray, rows())
  return minibatch(made, data, member, index, 13, 1, 0)


def test_a_removed_row_is_augmented_too():
  batch = minibatch_of(recipe(DROPPING), Member(KEYS[0], removed=jnp.array(7)))
  assert batch.examples['dropout'].shape == (6,)
  plain = minibatch_of(recipe(DROPPING), Member(KEYS[0]))
  data = jax.random.key_data
  near(data(batch.examples['dropout'])[:5], data(plain.examples['dropout']))


def test_training_with_dropout_is_reproducible_and_not_without():
  run, again = trained(augment=DROPPING), trained(augment=DROPPING)
  near(run.params, again.params)
  plain = trained()
  change = run.params['Dense_0']['kernel'] - plain.params['Dense_0']['kernel']
  assert np.abs(change).max() > 1e-3
