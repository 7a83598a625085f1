"""The transformer: padding, coverage of its layers, adapters, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import cg
from tda_jax.layers import find as layers
from tda_jax.methods import gradients, influence
from tda_jax.methods import method as method_lib
from tda_jax.models import lora, transformer

SIZES = {'width': 4, 'heads': 2, 'blocks': 1, 'hidden': 5}
IDS = np.array([[2, 3, 4, 0, 0], [5, 2, 1, 6, 2], [3, 0, 0, 0, 0]], np.int32)
INIT, APPLY = transformer.transformer(7, 3, 5, dropout=0.4, **SIZES)
KEYS = jax.random.split(jax.random.key(0), 4)


def params():
  made = jax.jit(INIT)(KEYS[0])
  noise = lambda x: x + 0.2 * jax.random.normal(KEYS[1], x.shape)
  return jax.tree.map(noise, made)  # no bias at 0, no scale at 1


def model() -> tiny.Tiny:
  rows = {'x': IDS, 'y': np.array([0, 2, 1])}
  return tiny.Tiny(problem_lib.classification(APPLY), params(), rows, rows)


def test_outputs_are_of_the_tokens_alone():
  values = params()
  together = jax.jit(APPLY)(values, IDS)
  assert together.shape == (3, 3)
  alone = jnp.concatenate([APPLY(values, row[None]) for row in IDS])
  np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
  # What the embedding of padding and the positions behind the text are is none
  # of the outputs' business.
  other = jax.tree.map(lambda x: x, values)
  embedding = other['Embed_0']['embedding']
  other['Embed_0']['embedding'] = embedding.at[0].set(9.0)
  other['positions'] = other['positions'].at[3:].set(5.0)
  got = APPLY(other, IDS)
  np.testing.assert_allclose(got[0], together[0], rtol=1e-4, atol=1e-5)
  assert not np.allclose(got[1], together[1], atol=1e-2)


def test_order_of_words_matters():
  values = params()
  turned = np.array([[4, 3, 2, 0, 0]], np.int32)
  apart = APPLY(values, turned) - APPLY(values, IDS[:1])
  assert np.abs(apart).max() > 1e-3


def test_number_of_parameters():
  count = trees.size(jax.eval_shape(INIT, KEYS[0]))
  block = 4 * 4 * 4 + 4 + (4 * 5 + 5) + (5 * 4 + 4) + 2 * 8
  assert count == 7 * 4 + 5 * 4 + block + 8 + (4 * 3 + 3)


def test_layers_hold_every_parameter():
  t = model()
  example = rows_lib.take(t.train, 0)
  found = layers.find(t.problem.outputs, t.params, example)
  covered = layers.coverage(found, t.params)
  assert sum(row.parameters for row in covered) == trees.size(t.params)
  left = {row.name for row in covered if row.kind == 'leaf'}
  assert all('LayerNorm' in name or name == 'positions' for name in left)
  assert found['Embed_0/embedding'].kind == 'embed'
  assert not {row.kind for row in covered} - {'leaf', 'dense', 'embed'}


def assert_scores(method, t, system):
  got = method_lib.attribute(
    method, t.problem, t.params, t.train, t.queries, batch_size=2
  )
  g = tiny.gradients(t.problem.loss, t, t.train)
  m = tiny.gradients(t.problem.measure, t, t.queries)
  want = -g @ np.linalg.solve(system, m.T) / len(g)
  np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


def test_grad_dot_is_the_dense_formula():
  t = model()
  assert_scores(gradients.grad_dot(), t, np.eye(trees.size(t.params)))


@pytest.mark.slow
def test_influence_on_adapters_with_a_mask_is_the_dense_formula():
  t = model()
  targets = ('*/query/kernel', '*/value/kernel')
  adapters = lora.init(KEYS[2], t.params, 2, targets)
  adapters = jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(KEYS[3], x.shape), adapters
  )
  masked = problem_lib.bound(t.problem, KEYS[1])
  problem = problem_lib.bound(lora.adapted(masked, 2.0), t.params)
  example = rows_lib.take(t.train, 0)
  merged = lora.merge(t.params, adapters, 2.0)
  want = masked.outputs(merged, example)
  np.testing.assert_allclose(
    problem.outputs(adapters, example), want, rtol=1e-4, atol=1e-5
  )
  assert not np.allclose(t.problem.outputs(merged, example), want, atol=1e-2)
  t = t._replace(problem=problem, params=adapters)
  system = tiny.dense_ggn(t, t.train) + 0.1 * np.eye(trees.size(adapters))
  solver = cg.cg(0.1, tolerance=1e-6, max_steps=2000)
  assert_scores(influence.influence(solver), t, system)


@pytest.mark.slow
def test_adapters_train_with_dropout():
  t = model()
  adapters = lora.init(KEYS[2], t.params, 2, '*/value/kernel')
  problem = problem_lib.bound(lora.adapted(t.problem), t.params)
  dropping = rows_lib.with_dropout()
  rows = jax.tree.map(jnp.asarray, t.train)
  examples = jax.vmap(dropping)(KEYS[:3], rows)
  got = problem_lib.losses(problem, adapters, examples)
  want = problem_lib.losses(t.problem, t.params, examples)
  np.testing.assert_allclose(got, want, rtol=1e-4)
  plain = problem_lib.losses(t.problem, t.params, rows)
  assert np.abs(got - plain).min() > 1e-3


def test_a_mask_is_the_same_for_all_examples():
  values = params()
  whole = APPLY(values, IDS, KEYS[1])
  alone = jnp.concatenate([APPLY(values, row[None], KEYS[1]) for row in IDS])
  np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-5)
  assert np.abs(whole - APPLY(values, IDS)).max() > 1e-2
  assert np.abs(whole - APPLY(values, IDS, KEYS[2])).max() > 1e-2


def test_bad_sizes():
  with pytest.raises(ValueError, match='width=6 is no multiple of heads=4'):
    transformer.transformer(7, 3, 5, width=6, heads=4)
  with pytest.raises(ValueError, match='dropout=1'):
    transformer.transformer(7, 3, 5, dropout=1.0)
