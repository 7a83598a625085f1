"""Representer points and similarity of representations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods import representer, similarity


def attribute(method, t, **kwargs):
  return method_lib.attribute(
    method, t.problem, t.params, t.train, t.queries, **kwargs
  )


def hidden(t, rows):
  layer = t.params['layer0']
  x = np.asarray(rows['x'], np.float64)
  return np.tanh(x @ np.asarray(layer['w']) + np.asarray(layer['b']))


def test_terms_add_to_the_prediction_at_a_stationary_point():
  """Ridge on the last layer of a fixed network: stationary in closed form."""
  l2, n = 0.2, 11
  t = tiny.regression(l2=l2)
  h = np.c_[hidden(t, t.train), np.ones(n)]
  y = np.asarray(t.train['y'], np.float64)
  w = np.linalg.solve(2 * h.T @ h / n + l2 * np.eye(5), 2 * h.T @ y / n)
  params = {**t.params, 'layer1': {'w': w[:-1], 'b': w[-1]}}
  t = t._replace(
    params=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params),
    # So that the score is the term in the output itself.
    problem=t.problem._replace(measure=lambda z, example: z[0]),
  )
  scores = attribute(representer.representer(), t)
  want = np.c_[hidden(t, t.queries), np.ones(4)] @ w
  np.testing.assert_allclose(scores.sum(0), want[:, 0], atol=1e-5)
  named = attribute(representer.representer(layer='layer1/w'), t)
  np.testing.assert_array_equal(scores, named)


def test_is_the_formula_of_the_paper():
  t = tiny.classification()
  scores = attribute(representer.representer(l2=0.5), t)
  h = [np.c_[hidden(t, r), np.ones(len(r['y']))] for r in (t.train, t.queries)]
  z = [jax.vmap(t.problem.outputs, (None, 0))(t.params, r) for r in
       (t.train, t.queries)]  # fmt: skip
  alpha = -jax.vmap(jax.grad(t.problem.loss))(z[0], t.train) / (0.5 * 11)
  slope = jax.vmap(jax.grad(t.problem.measure))(z[1], t.queries)
  want = (h[0] @ h[1].T) * np.asarray(alpha @ slope.T)
  np.testing.assert_allclose(scores, want, atol=1e-5 * np.abs(want).max())


def test_representer_errors():
  t = tiny.classification()
  with pytest.raises(ValueError, match='divides by l2=0.0'):
    attribute(representer.representer(), t)
  with pytest.raises(
    ValueError, match="'head' is no layer that is a product.*'layer1/w'"
  ):
    attribute(representer.representer(l2=1.0, layer='head'), t)


@pytest.mark.parametrize('kind', similarity.KINDS)
def test_similarity_of_hidden_units(kind):
  t = tiny.classification()
  scores = attribute(similarity.similarity('layer1/w', kind), t)
  a, b = hidden(t, t.train), hidden(t, t.queries)
  unit = lambda h: h / np.linalg.norm(h, axis=1, keepdims=True)
  want = {
    'cosine': unit(a) @ unit(b).T,
    'dot': a @ b.T,
    'euclidean': -np.linalg.norm(a[:, None] - b[None], axis=-1),
  }[kind]
  np.testing.assert_allclose(scores, want, atol=1e-5)


def scanned():
  def apply(params, x):
    x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params['mid'])
    return x.mean(1) @ params['out']

  keys = jax.random.split(jax.random.key(0), 3)
  params = {
    'mid': jax.random.normal(keys[0], (2, 4, 4)),
    'out': jax.random.normal(keys[1], (4, 3)),
  }
  x = np.asarray(jax.random.normal(keys[2], (6, 5, 4)))
  rows = {'x': x, 'y': np.arange(6) % 3}
  return tiny.Tiny(problem_lib.classification(apply), params, rows, rows)


def test_positions_and_scanned_steps_are_pooled():
  t = scanned()
  first = np.asarray(t.train['x'], np.float64)
  second = np.tanh(first @ np.asarray(t.params['mid'][0], np.float64))
  flat = np.concatenate([first.reshape(6, -1), second.reshape(6, -1)], 1)
  mean = np.concatenate([first.mean(1), second.mean(1)], 1)
  for pool, h in (('flat', flat), ('mean', mean)):
    got = attribute(similarity.similarity('mid', 'dot', pool), t, batch_size=4)
    np.testing.assert_allclose(got, h @ h.T, atol=1e-4)


def test_similarity_errors():
  t = tiny.classification()
  with pytest.raises(ValueError, match=r"'fc'.*\['layer0/w', 'layer1/w'\]"):
    attribute(similarity.similarity('fc'), t)
  with pytest.raises(ValueError, match="kind='l1' is unknown"):
    similarity.similarity('fc', 'l1')
  with pytest.raises(ValueError, match="pool='max' is unknown"):
    similarity.similarity('fc', pool='max')
