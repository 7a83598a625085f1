"""Worlds change what they say and nothing else."""

import numpy as np
import pytest

from tda_jax.data import worlds

RNG = np.random.default_rng(0)
ROWS = {
  'x': RNG.normal(size=(60, 8, 6, 3)).astype(np.float32),
  'y': np.arange(60, dtype=np.int32) % 5,
}
GREY = {**ROWS, 'x': ROWS['x'][..., 0]}


@pytest.fixture(autouse=True)
def rows_stay_as_they_are():
  before = {name: leaf.copy() for name, leaf in ROWS.items()}
  yield
  for name, leaf in before.items():
    np.testing.assert_array_equal(ROWS[name], leaf)


@pytest.mark.parametrize('groups', [1, 2, 3, 5])
def test_groups_are_balanced_and_the_classes_kept(groups):
  new, (labels, group) = worlds.grouped(ROWS, 5, groups, seed=0)
  np.testing.assert_array_equal(labels, ROWS['y'])
  np.testing.assert_array_equal(new['y'], group[labels])
  assert new['x'] is ROWS['x'] and new['y'].dtype == np.int32
  sizes = np.bincount(group, minlength=groups)
  assert len(sizes) == groups and sizes.min() >= 1 and np.ptp(sizes) <= 1


def test_groups_are_random_and_those_of_the_queries():
  of = lambda seed, rows=ROWS: worlds.grouped(rows, 5, 2, seed)[1][1].tolist()
  few = {name: leaf[:2] for name, leaf in ROWS.items()}
  assert of(0) == of(0, few)
  assert len({tuple(of(seed)) for seed in range(20)}) > 5


@pytest.mark.parametrize('rows, value', [(ROWS, [1.0, 2, 3]), (GREY, 7.0)])
def test_a_shortcut_on_a_share_of_one_class(rows, value):
  new, mask = worlds.shortcut(
    rows, 2, 0.75, 0, size=3, corner=(1, 2), value=value
  )
  assert mask.dtype == bool and mask.sum() == 9
  assert (rows['y'][mask] == 2).all() and new['y'] is rows['y']
  assert (new['x'][mask, 1:4, 2:5] == value).all()
  assert new['x'].dtype == np.float32
  changed = new['x'] != rows['x']
  inside = np.zeros(changed.shape, bool)
  inside[mask, 1:4, 2:5] = True
  np.testing.assert_array_equal(changed, inside)
  again = worlds.shortcut(rows, 2, 0.75, 0, size=3, corner=(1, 2), value=value)
  np.testing.assert_array_equal(again[1], mask)
  other = worlds.shortcut(rows, 2, 0.75, 1, size=3, value=value)[1]
  assert (other != mask).any()
  queries = worlds.patched(rows, size=3, corner=(1, 2), value=value)
  np.testing.assert_array_equal(queries['x'][mask], new['x'][mask])
  assert (queries['x'][:, 1:4, 2:5] == value).all()
  assert ((queries['x'] != rows['x']).reshape(60, -1).any(1)).all()


def test_foreign_rows_are_mixed_in():
  foreign = {'x': np.zeros((20, 8, 6, 3)), 'y': np.arange(20)}
  foreign['x'][:, 0, 0, 0] = np.arange(20)
  new, mask = worlds.mixed(ROWS, foreign, 3, seed=0)
  assert mask.shape == (80,) and mask.dtype == bool and mask.sum() == 20
  np.testing.assert_array_equal(new['x'][~mask], ROWS['x'])
  np.testing.assert_array_equal(new['y'][~mask], ROWS['y'])
  np.testing.assert_array_equal(new['x'][mask][:, 0, 0, 0], np.arange(20))
  assert (new['y'][mask] == 3).all()
  assert (new['x'].dtype, new['y'].dtype) == (np.float32, np.int32)
  np.testing.assert_array_equal(foreign['y'], np.arange(20))
  assert 2 < mask[:40].sum() < 18  # not appended
  assert (worlds.mixed(ROWS, foreign, 3, seed=1)[1] != mask).any()


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: worlds.grouped(ROWS, 5, 6, 0), '6 groups of 5 classes'),
    (lambda: worlds.grouped(ROWS, 4, 2, 0), 'from 0 to 4, and classes .* to 3'),
    (lambda: shortcut(label=9), 'of the 0 rows of class 9'),
    (lambda: shortcut(share=0.01), 'rounded to none'),
    (lambda: shortcut(share=1.1), 'share up to 1'),
    (lambda: shortcut(size=7), 'not within images of 8 × 6'),
    (lambda: shortcut(corner=(-1, 0)), 'not within'),
    (lambda: shortcut(size=0), 'a patch of 0 pixels'),
    (lambda: shortcut(value=[1, 2]), 'one for each channel'),
    (
      lambda: worlds.patched({'x': np.zeros((3, 4))}, size=1, value=0.0),
      r'is for images \[N, H, W\]',
    ),
    (lambda: worlds.mixed(ROWS, GREY, 0, 0), 'the same size, channels'),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def shortcut(label=2, share=0.5, size=2, value=1.0, corner=(0, 0)):
  return worlds.shortcut(
    ROWS, label, share, 0, size=size, value=value, corner=corner
  )
