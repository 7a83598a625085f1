"""What models answer: against numpy, for every ready problem."""

import jax.numpy as jnp
import numpy as np
import pytest

import tda_jax as tda
from tda_jax.evaluation import predictions
from tda_jax.run import Run

RNG = np.random.default_rng(0)
Q = 6


def linear(params, x):
  return x @ params['w']


def of(make, outputs, y, squeeze=False):
  """Predictions of a linear model of E members, of one output or several."""
  w = RNG.normal(size=(3, 4, outputs)).astype(np.float32)
  x = RNG.normal(size=(Q, 4)).astype(np.float32)
  apply = (lambda p, x: linear(p, x)[:, 0]) if squeeze else linear
  run = Run({'w': jnp.asarray(w)}, None, None, None, None)
  rows = {'x': x, 'y': y}
  return predictions.of_models(make(apply), run, rows), x @ w, rows


def test_classes_wrong_first_then_the_least_sure():
  y = np.array([0, 1, 2, 0, 1, 2])
  found, logits, rows = of(tda.classification, 3, y)
  each = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(found.chances, each.mean(0), rtol=1e-5)
  predicted = each.mean(0).argmax(1)
  np.testing.assert_array_equal(found.labels, predicted)
  np.testing.assert_array_equal(found.wrong, predicted != y)
  np.testing.assert_allclose(found.per_model, (each.argmax(-1) == y).mean(1))
  order = predictions.order(found)
  assert 0 < found.wrong.sum() < Q
  key = [(not found.wrong[q], found.chances[q].max()) for q in order]
  assert key == sorted(key)
  which = order[:2]
  asked = predictions.with_predicted_labels(rows, found, which)
  np.testing.assert_array_equal(asked['x'], rows['x'][which])
  np.testing.assert_array_equal(asked['y'], predicted[which])
  assert asked['y'].dtype == rows['y'].dtype and (asked['y'] != y[which]).all()


@pytest.mark.parametrize('squeeze', [True, False])
def test_one_logit_and_several_labels(squeeze):
  y = np.array([0, 1, 0, 1, 1, 0])
  found, logits, _ = of(tda.binary, 1, y.astype(np.float32), squeeze)
  ones = (1 / (1 + np.exp(-logits[..., 0]))).mean(0)
  np.testing.assert_allclose(found.chances[:, 1], ones, rtol=1e-5)
  np.testing.assert_array_equal(found.wrong, (ones > 0.5) != y)
  several = np.stack([y, 1 - y], 1)
  found, logits, _ = of(tda.multilabel, 2, several)
  ones = (1 / (1 + np.exp(-logits))).mean(0)
  np.testing.assert_array_equal(found.labels, ones > 0.5)
  np.testing.assert_array_equal(found.wrong, ((ones > 0.5) != several).any(1))
  sure = np.maximum(ones, 1 - ones).prod(1)
  np.testing.assert_allclose(found.sure, sure, rtol=1e-5)


@pytest.mark.parametrize('y', [RNG.normal(size=Q), np.array([0.0, 1] * 3)])
def test_numbers_largest_errors_first(y):
  found, outputs, _ = of(tda.regression, 1, y.astype(np.float32), True)
  error = np.abs(outputs[..., 0].mean(0) - y)
  np.testing.assert_allclose(found.error, error, rtol=1e-4)
  np.testing.assert_array_equal(predictions.order(found), np.argsort(-error))
  alone = np.abs(outputs[..., 0] - y).mean(1)
  np.testing.assert_allclose(found.per_model, alone, rtol=1e-4)
  assert found.wrong is None and found.chances is None


def test_a_loss_that_is_no_probability_gives_none():
  hinge = lambda o, e: jnp.maximum(0, 1 - o[e['y']])
  make = lambda apply: tda.classification(apply)._replace(loss=hinge)
  found, logits, _ = of(make, 3, np.arange(Q) % 3)
  assert found.chances is None and found.wrong is not None
  run = Run({'w': jnp.ones((1, 4, 3))}, None, None, None, None)
  problem = tda.classification(linear)
  assert predictions.of_models(problem, run, {'x': np.ones((2, 4))}) is None
