"""Self-influence is the diagonal of all scores; AUC against scikit-learn."""

import jax
import numpy as np
import pytest
import tiny
from sklearn import metrics

from tda_jax import scoring, trees
from tda_jax.evaluation import detection
from tda_jax.inverses import dense, ekfac
from tda_jax.methods import (
  gradients,
  influence,
  method,
  representer,
  tracin,
  trak,
)
from tda_jax.run import Run

T = tiny.classification()
METHODS = {
  'grad_dot': gradients.grad_dot(),
  'grad_cos': gradients.grad_cos(),
  'dense': influence.influence(dense.dense(damping=0.1)),
  'ekfac': influence.influence(ekfac.ekfac(damping=0.1)),
  'trak': trak.trak(6, ridge=0.1),
  'representer': representer.representer(l2=0.1),
}


@pytest.mark.parametrize('name', METHODS)
def test_self_influence_is_the_diagonal(name):
  """In blocks of 4 of 11 rows, the last one padded."""
  run = Run(T.params, None, None, None)
  args = METHODS[name], T.problem, run, T.train
  found = scoring.self_influence(*args, batch_size=4)
  whole = method.attribute(*args, T.train)
  assert found.shape == (11,)
  assert (METHODS[name].self_influence is None) == (name == 'dense')
  np.testing.assert_allclose(found, np.diag(whole), 1e-3, 1e-6)


def test_self_influence_over_checkpoints():
  args = tracin.tracin(), T.problem, tiny.run(T.params), T.train
  found = scoring.self_influence(*args)
  whole = method.attribute(*args, T.train)
  np.testing.assert_allclose(found, np.diag(whole), 1e-3, 1e-6)


@pytest.mark.parametrize('model', ['conv', 'scan'])
@pytest.mark.parametrize('name', ['grad_dot', 'ekfac'])
def test_self_influence_of_convolutions_and_scanned_layers(model, name):
  t = tiny.model(model)
  run = Run(t.params, None, None, None)
  args = METHODS[name], t.problem, run, t.train
  whole = method.attribute(*args, t.train)
  found = scoring.self_influence(*args)
  np.testing.assert_allclose(found, np.diag(whole), 1e-3, 1e-6)


@pytest.mark.parametrize('name', ['grad_dot', 'representer'])  # no key
def test_self_influence_of_members(name):
  params = [tiny.mlp_init((5, 4, 3), jax.random.key(i)) for i in range(2)]
  stack = jax.tree.map(lambda *x: np.stack(x), *params)
  runs = Run(stack, None, None, None)
  of = lambda m, run: scoring.self_influence(
    m, T.problem, run, T.train, batch_size=5
  )
  one = METHODS[name]
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
  scores = scoring.self_influence(
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


def test_class_detection_by_hand():
  scores = np.array([[9, 0, 1, 5], [8, 1, 1, 5], [7, 2, 1, 0], [6, 3, 1, 0]])
  labels, of_queries = np.array([0, 1, 0, 0]), np.array([0, 1, 1, 0])
  of = lambda **args: detection.class_detection(
    scores, labels, of_queries, **args
  ).tolist()
  # Query 2: all four rows tied, one of its class; query 3: two, one of its.
  assert of() == [1, 0, 1 / 4, 1 / 2]
  assert of(k=2) == [1 / 2, 0, 1 / 4, 1 / 2]
  assert of(k=3) == [2 / 3, 1 / 3, 1 / 4, (1 + 1) / 3]
  assert of(k=4) == [3 / 4, 1 / 4, 1 / 4, 3 / 4]
  assert of(queries=of_queries == [0, 0, 1, 1]) == [1, 1 / 4]
  assert of(queries=[3, 0]) == [1 / 2, 1]


def test_tied_scores_are_the_mean_over_their_orders():
  rng = np.random.default_rng(0)
  scores = rng.integers(4, size=(20, 6))
  labels, of_queries = rng.integers(3, size=20), rng.integers(3, size=6)
  of = lambda s: detection.class_detection(s, labels, of_queries, k=7)
  broken = [of(scores + rng.random(scores.shape)) for _ in range(2000)]
  np.testing.assert_allclose(of(scores), np.mean(broken, 0), atol=0.02)


@pytest.mark.parametrize('k', [1, 5])
def test_class_detection_is_at_chance(k):
  rng = np.random.default_rng(0)
  labels = rng.choice(3, 60, p=[0.5, 0.3, 0.2])
  of_queries = rng.integers(3, size=3000)
  chance = (labels == of_queries[:, None]).mean(1)
  scores = rng.normal(size=(60, 3000))
  found = detection.class_detection(scores, labels, of_queries, k=k)
  assert abs((found - chance).mean()) < 3 * 0.5 / 3000**0.5
  constant = np.full_like(scores, 0.1)
  np.testing.assert_allclose(
    detection.class_detection(constant, labels, of_queries, k=k), chance
  )
  right = 1.0 * (labels[:, None] == of_queries)
  assert (detection.class_detection(right, labels, of_queries) == 1).all()


def test_average_precision():
  flagged = np.array([1, 0, 1, 0, 0], bool)
  scores = np.array([[5, 1, 0], [4, 5, 0], [3, 2, 0], [2, 4, 0], [1, 3, 0]])
  found = detection.average_precision(scores, flagged)
  by_hand = [(1 + 2 / 3) / 2, (1 / 4 + 2 / 5) / 2, 2 / 5]
  np.testing.assert_allclose(found, by_hand)
  mask = np.array([False, True, False])
  assert detection.average_precision(scores, flagged, queries=mask) == found[1]


@pytest.mark.parametrize('values', [2, 5, 1000])
def test_average_precision_is_sklearns(values):
  rng = np.random.default_rng(0)
  scores = rng.integers(values, size=(50, 30)) / 7
  flagged = rng.random(50) < 0.2
  np.testing.assert_allclose(
    detection.average_precision(scores, flagged),
    [metrics.average_precision_score(flagged, one) for one in scores.T],
  )


def test_average_precision_of_random_scores():
  rng = np.random.default_rng(0)
  for count in (1, 5, 20):
    flagged = np.arange(60) < count
    found = detection.average_precision(rng.normal(size=(60, 3000)), flagged)
    chance = detection.random_precision(flagged)
    assert abs(found.mean() - chance) < 3 * found.std() / 3000**0.5
    assert 0 < chance - count / 60 < 0.08
  assert detection.random_precision(np.ones(9)) == 1


def test_mislabelled_rows_are_found():
  flagged = np.arange(50) % 10 == 3
  curve = detection.detection_curve(flagged * 1.0, flagged)
  np.testing.assert_allclose(curve, np.minimum(np.arange(1, 51) / 5, 1))
  best, error = detection.mislabel_area(flagged * 1.0, flagged)
  assert best == pytest.approx(1 - 5 / 100 - 1 / (2 * 5 * 50)) and error == 0
  worst, _ = detection.mislabel_area(flagged * -1.0, flagged)
  assert worst == pytest.approx(5 / 100)


def test_tied_rows_are_found_in_their_order():
  flagged = np.array([0, 1, 0, 1], bool)
  close = np.array([0.0, 1e-5, 0, 1e-5])  # less apart than Quanda's bonus
  assert detection.detection_curve(close, flagged).tolist() == [0.5, 1, 1, 1]
  same = detection.detection_curve(np.zeros(4), flagged)
  assert same.tolist() == [0, 0.5, 0.5, 1]


def test_mislabel_area_is_at_chance_and_goes_with_the_auc():
  flagged = np.arange(80) < 16
  rng, areas = np.random.default_rng(0), []
  for _ in range(300):
    scores = rng.normal(size=80)
    area, error = detection.mislabel_area(scores, flagged)
    value, of_auc = detection.auc(scores, flagged)
    first = flagged[scores.argmax()] / (2 * 16 * 80)
    assert area == pytest.approx(16 / 160 + 0.8 * value - first)
    assert error == pytest.approx(0.8 * of_auc)
    areas.append(area)
  chance = 0.5 - 1 / (2 * 80**2)
  assert abs(np.mean(areas) - chance) < 3 * np.std(areas) / 300**0.5


def test_bad_input_of_detection():
  scores, labels, of_queries = np.zeros((4, 3)), np.zeros(4), np.zeros(3)
  flagged = np.arange(4) < 2
  with pytest.raises(ValueError, match=r'give \[N, Q\], \[N\] and \[Q\]'):
    detection.class_detection(scores, of_queries, labels)
  with pytest.raises(ValueError, match='k=5 of 4 rows'):
    detection.class_detection(scores, labels, of_queries, k=5)
  none, short = np.zeros(3, bool), np.ones(2, bool)
  for queries, message in (
    (none, 'no query is left'),
    ([], 'no query is left'),
    (short, 'a mask of 2 queries for scores of 3'),
  ):
    with pytest.raises(ValueError, match=message):
      detection.class_detection(scores, labels, of_queries, queries=queries)
    with pytest.raises(ValueError, match=message):
      detection.average_precision(scores, flagged, queries=queries)
  with pytest.raises(ValueError, match='4 of 4 rows are flagged'):
    detection.average_precision(scores, np.ones(4))
