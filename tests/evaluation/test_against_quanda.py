"""Our metrics have the values of the package quanda on the same scores.

The values in quanda.npz were made with quanda itself, by
scripts/quanda_fixtures.py. Differences are its float32 and what is documented: which of tied scores is among
the first k is left to torch there, self-influence has 1e-4 · index added, and
Kendall's correlation of a constant is NaN.
"""

import pathlib

import numpy as np
import pytest
from scipy import special

from tda_jax.evaluation import detection, lds, retrieval, sanity

GIVEN = dict(np.load(pathlib.Path(__file__).with_name('quanda.npz')))
RANDOM, TIES, CONSTANTS = range(3)
PREDICTED = GIVEN['logits'].argmax(1)
RIGHT = PREDICTED == GIVEN['query_labels']
FOREIGN = PREDICTED == 0  # predicted to be of the label of flagged rows
FOOLED = FOREIGN & (GIVEN['query_labels'] != 0)


def of_each(metric, *args, **kwargs):
  """Of each of the three score matrices."""
  return [metric(scores, *args, **kwargs) for scores in GIVEN['scores']]


def close(found, name):
  np.testing.assert_allclose(found, GIVEN[f'quanda_{name}'], atol=2e-6)


def without_ties(found, name, queries=None):
  """Equal where no scores are tied; elsewhere between all orders of them."""
  theirs = GIVEN[f'quanda_{name}']
  assert theirs.shape == np.shape(found)
  queries = np.arange(len(RIGHT)) if queries is None else queries
  clear = np.arange(len(RIGHT))[queries] % 3 != 0  # not constant
  np.testing.assert_allclose(found[RANDOM], theirs[RANDOM], atol=1e-6)
  np.testing.assert_allclose(
    found[CONSTANTS][clear], theirs[CONSTANTS][clear], atol=1e-6
  )
  assert clear.any() and not clear.all()


def correlated(found, name):
  """Of constant scores theirs is 0 for Spearman and NaN for Kendall."""
  theirs = GIVEN[f'quanda_{name}']
  constant = np.zeros(theirs.shape, bool)
  constant[CONSTANTS, ::3] = True
  np.testing.assert_array_equal(
    np.isnan(theirs), constant & name.endswith('kendall')
  )
  np.testing.assert_allclose(found, np.nan_to_num(theirs), atol=2e-6)


def test_what_was_measured():
  assert GIVEN['version'] == '0.5.0'
  scores = GIVEN['scores']
  assert (scores[CONSTANTS, :, ::3] == scores[CONSTANTS, 0, ::3]).all()
  assert len(np.unique(scores[RANDOM])) == scores[RANDOM].size
  assert 0 < RIGHT.sum() < len(RIGHT) and 0 < FOOLED.sum() < FOREIGN.sum()


@pytest.mark.parametrize('k', [1, 5])
@pytest.mark.parametrize('queries', [None, RIGHT])
@pytest.mark.parametrize('classes', ['labels', 'subclasses'])
def test_class_and_subclass_detection(k, queries, classes):
  labels, of_queries = GIVEN[classes], GIVEN[f'query_{classes}']
  found = of_each(
    detection.class_detection, labels, of_queries, k=k, queries=queries
  )
  kind = 'class' if classes == 'labels' else 'subclass'
  name = f'{kind}_detection{"" if queries is None else "_predicted"}_{k}'
  without_ties(found, name, queries)
  # With ties theirs is one of the orders whose mean ours is.
  worst, best = (
    detection.class_detection(
      GIVEN['scores'][TIES] + sign * 0.5 * (labels[:, None] == of_queries),
      labels, of_queries, k=k, queries=queries,
    ) for sign in (-1, 1)
  )  # fmt: skip
  theirs = GIVEN[f'quanda_{name}'][TIES]
  for one in (theirs, found[TIES]):
    assert (worst - 1e-6 <= one).all() and (one <= best + 1e-6).all()


def test_shortcut_detection():
  close(
    of_each(detection.average_precision, GIVEN['flagged'], queries=FOOLED),
    'shortcut',
  )


@pytest.mark.parametrize(
  'name, queries', [('mixed', None), ('mixed_predicted', FOREIGN)]
)
def test_mixed_datasets(name, queries):
  close(
    of_each(detection.average_precision, GIVEN['flagged'], queries=queries),
    name,
  )


def test_mislabelling_detection():
  distinct, tied = GIVEN['self_influence']
  # Its bonus ranks the last of tied rows first.
  ours = [(distinct, GIVEN['flagged']), (tied[::-1], GIVEN['flagged'][::-1])]
  close([detection.detection_curve(*one) for one in ours], 'found_curve')
  close([detection.mislabel_area(*one)[0] for one in ours], 'mislabel_area')
  in_order = detection.mislabel_area(tied, GIVEN['flagged'])[0]
  assert abs(in_order - GIVEN['quanda_mislabel_area'][1]) > 0.01


@pytest.mark.parametrize('k', [1, 5])
def test_top_k_cardinality(k):
  found = of_each(sanity.top_k_cardinality, k)
  theirs = GIVEN[f'quanda_cardinality_{k}']
  assert found[RANDOM] == pytest.approx(theirs[RANDOM])
  clear = np.arange(len(RIGHT)) % 3 != 0
  assert sanity.top_k_cardinality(GIVEN['scores'][CONSTANTS], k) <= (
    sanity.top_k_cardinality(GIVEN['scores'][CONSTANTS][:, clear], k)
  )


@pytest.mark.parametrize('kind', ['spearman', 'kendall'])
def test_model_randomisation(kind):
  found = of_each(sanity.randomisation, GIVEN['randomised'], kind)
  correlated(found, f'randomisation_{kind}')


@pytest.mark.parametrize('kind', ['spearman', 'kendall'])
def test_linear_datamodeling(kind):
  logits, labels = GIVEN['subset_logits'], GIVEN['query_labels']
  own = labels[:, None] == np.arange(logits.shape[-1])
  others = np.where(own, -np.inf, logits)
  outcomes = logits[:, own] - special.logsumexp(others, axis=-1)
  found = of_each(lds.lds, outcomes, GIVEN['subsets'], kind)
  correlated(found, f'lds_{kind}')


@pytest.mark.parametrize('k', [1, 5])
def test_tracing(k):
  relevant = GIVEN['relevant']
  some = relevant.any(0)
  cut = lambda metric, *args: np.array(
    [metric(s[:, some], relevant[:, some], *args) for s in GIVEN['scores']]
  )
  for found, name in (
    (cut(retrieval.hits, k), f'hits_{k}'),
    (cut(retrieval.reciprocal_rank), 'reciprocal_rank'),
  ):
    theirs = GIVEN[f'quanda_{name}'][:, some]
    np.testing.assert_allclose(found[RANDOM], theirs[RANDOM], rtol=1e-6)
    assert (found <= theirs + 1e-6).all()  # ties are not in our favour
