"""Self-influence is the diagonal of all scores; AUC against scikit-learn."""

import jax
import numpy as np
import pytest
import tiny
from sklearn import metrics

from tda_jax import trees
from tda_jax.evaluation import detection
from tda_jax.inverses import dense, ekfac
from tda_jax.methods import gradients, influence, method, trak
from tda_jax.training.fit import Run

T = tiny.classification()
METHODS = {
  'grad_dot': gradients.grad_dot(),
  'dense': influence.influence(dense.dense(damping=0.1)),
  'ekfac': influence.influence(ekfac.ekfac(damping=0.1)),
  'trak': trak.trak(6, ridge=0.1),
}


@pytest.mark.parametrize('name', METHODS)
def test_self_influence_is_the_diagonal(name):
  """In blocks of 4 of 11 rows, the last one padded."""
  run = Run(T.params, None, None, None)
  args = METHODS[name], T.problem, run, T.train
  found = detection.self_influence(*args, at_once=4)
  whole = method.attribute(*args, T.train)
  assert found.shape == (11,)
  np.testing.assert_allclose(found, np.diag(whole), 1e-3, 1e-6)


def test_self_influence_of_members():
  params = [tiny.mlp_init((5, 4, 3), jax.random.key(i)) for i in range(2)]
  stack = jax.tree.map(lambda *x: np.stack(x), *params)
  runs = Run(stack, None, None, None)
  of = lambda m, run: detection.self_influence(
    m, T.problem, run, T.train, at_once=5
  )
  one = gradients.grad_dot()
  single = [of(one, Run(trees.row(stack, e), None, None, None)) for e in (0, 1)]
  together = of(method.ensemble(one), runs)
  np.testing.assert_allclose(together, np.mean(single, 0), 1e-4, 1e-6)


def test_a_wrong_label_is_found():
  """Rows of two far classes, one label of each exchanged."""
  rng = np.random.default_rng(0)
  y = np.arange(20) % 2
  x = np.where(y[:, None] == 1, 3.0, -3.0) + rng.normal(size=(20, 5))
  params = {'layer0': {'w': np.ones((5, 1)) * [-1, 1], 'b': np.zeros(2)}}
  flipped = np.isin(np.arange(20), [4, 9])
  train = {'x': x.astype(np.float32), 'y': np.where(flipped, 1 - y, y)}
  problem = T.problem
  scores = detection.self_influence(
    gradients.grad_dot(), problem, Run(params, None, None, None), train
  )
  assert detection.auc(scores, flipped) == (1.0, 0.0)
  assert detection.auc(-scores, flipped)[0] == 0


def test_auc_is_sklearns_and_its_error_that_of_resampling():
  rng = np.random.default_rng(0)
  flagged = np.arange(300) < 60
  scores = (rng.normal(size=300) + flagged).round(1)  # with ties
  value, error = detection.auc(scores, flagged)
  assert value == metrics.roc_auc_score(flagged, scores)
  drawn = []
  for _ in range(400):
    i = np.r_[rng.integers(0, 60, 60), rng.integers(60, 300, 240)]
    drawn.append(metrics.roc_auc_score(flagged[i], scores[i]))
  assert error == pytest.approx(np.std(drawn), rel=0.15)


@pytest.mark.parametrize('flagged', [[1, 0, 0, 0], [0, 1, 1, 1]])
def test_a_group_of_one_has_no_error(flagged):
  value, error = detection.auc(np.array([2.0, 1, 3, 0]), np.array(flagged))
  assert 0 < value < 1 and np.isnan(error)


@pytest.mark.parametrize(
  'scores, flagged, message',
  [
    (np.zeros(3), np.zeros(4, bool), 'one of each a row'),
    (np.zeros(3), np.ones(3, bool), '3 of 3 rows are flagged'),
    (np.array([0, np.nan]), np.array([0, 1]), 'not finite'),
  ],
)
def test_bad_input(scores, flagged, message):
  with pytest.raises(ValueError, match=message):
    detection.auc(scores, flagged)
