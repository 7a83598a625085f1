import numpy as np
import pytest

from tda_jax.data import prepare, tables

ROWS = {'x': np.arange(20.0).reshape(10, 2), 'y': np.arange(10)}


def test_split_is_a_pure_function_of_the_seed():
  (a, b), (i, j) = prepare.split(ROWS, 3, 6, 2)
  order = np.random.default_rng(3).permutation(10)
  np.testing.assert_array_equal(np.concatenate([i, j]), order[:8])
  np.testing.assert_array_equal(a['y'], i)
  np.testing.assert_array_equal(b['x'], ROWS['x'][j])
  other = prepare.split(ROWS, 4, 6, 2)[1][0]
  assert not np.array_equal(i, other)


@pytest.mark.parametrize('sizes', [(8, 3), (0, 3), (5, -1)])
def test_split_of_too_few_rows(sizes):
  with pytest.raises(ValueError, match='cannot split 10 rows into parts of'):
    prepare.split(ROWS, 0, *sizes)


def test_digits_setting():
  (train, queries), (index, _) = prepare.split(tables.digits(), 0, 1000, 200)
  raw = train['x']
  train, queries = prepare.standardise(train, queries)
  assert train['x'].shape == (1000, 64) and queries['x'].shape == (200, 64)
  assert train['x'].dtype == np.float32
  np.testing.assert_array_equal(
    index[:3], np.random.default_rng(0).permutation(1797)[:3]
  )
  constant = raw.std(0) == 0
  assert constant.any()  # corner pixels: the guard is needed
  np.testing.assert_array_equal(train['x'][:, constant], 0)
  np.testing.assert_allclose(train['x'].mean(0), 0, atol=1e-6)
  np.testing.assert_allclose(train['x'][:, ~constant].std(0), 1, rtol=1e-5)


def test_others_are_scaled_by_train_statistics_target_too():
  train = {'x': np.array([[1.0], [3.0]]), 'y': np.array([10.0, 30.0])}
  queries = {'x': np.array([[5.0]]), 'y': np.array([40.0])}
  train, queries = prepare.standardise(train, queries, target=True)
  np.testing.assert_allclose(train['y'], [-1, 1])
  np.testing.assert_allclose(queries['x'], [[3]])
  np.testing.assert_allclose(queries['y'], [2])
  assert queries['y'].dtype == np.float32


def test_target_is_left_alone_unless_asked():
  (out,) = prepare.standardise(ROWS)
  assert out['y'] is ROWS['y']


def test_standardise_channels():
  x = np.random.default_rng(0).normal((5, 50), (2, 9), (30, 4, 4, 2))
  (out,) = prepare.standardise({'x': x, 'y': x}, axes=(0, 1, 2))
  np.testing.assert_allclose(out['x'].mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(out['x'].std((0, 1, 2)), 1, rtol=1e-5)
  assert abs(out['x'].mean(0)).max() > 0.1  # not pixel by pixel


def test_relabel():
  rows = {'x': np.zeros(2000), 'y': np.full(2000, 10, np.int32)}
  noisy, chosen = prepare.relabel(rows, 0.3, 0, 10)
  changed = np.flatnonzero(noisy['y'] != 10)
  np.testing.assert_array_equal(chosen, changed)  # 10 is not among 0..9
  assert len(chosen) == 600 and noisy['y'].dtype == np.int32
  counts = np.bincount(noisy['y'][chosen], minlength=10)
  assert counts.min() > 30 and len(counts) == 10
  np.testing.assert_array_equal(rows['y'], 10)  # the original is kept
  again, same = prepare.relabel(rows, 0.3, 0, 10)
  np.testing.assert_array_equal(again['y'], noisy['y'])
  assert not np.array_equal(prepare.relabel(rows, 0.3, 1, 10)[1], same)


def test_wrong_labels_are_of_other_classes():
  rows = {'y': np.arange(3000) % 10}
  noisy, chosen = prepare.relabel(rows, 0.5, 0, 10, wrong=True)
  np.testing.assert_array_equal(chosen, np.flatnonzero(noisy['y'] != rows['y']))
  assert len(chosen) == 1500
  away = (noisy['y'] - rows['y'])[chosen] % 10
  assert np.bincount(away)[1:].min() > 100  # every other class


def test_relabel_no_more_than_all():
  with pytest.raises(ValueError, match='label noise 1.5: give a fraction'):
    prepare.relabel(ROWS, 1.5, 0, 10)


def labelled():
  y = np.random.default_rng(1).permutation(np.arange(60) % 4)
  return {'x': np.arange(60.0)[:, None], 'y': y}


def test_balanced_parts_are_nested_and_share_their_others():
  rows = labelled()
  found = {n: prepare.balanced(rows, 3, n, 12) for n in (2, 5)}
  for n, ((train, others), (i, j)) in found.items():
    np.testing.assert_array_equal(np.bincount(train['y']), [n] * 4)
    np.testing.assert_array_equal(train['x'], rows['x'][i])
    np.testing.assert_array_equal(others['x'], rows['x'][j])
    assert len(j) == 12 and not {*i} & {*j}
  small, large = found[2][1], found[5][1]
  assert {*small[0]} < {*large[0]}
  np.testing.assert_array_equal(small[1], large[1])
  other = prepare.balanced(rows, 4, 2)
  assert {*other[1][0]} != {*small[0]} and len(other[1][1]) == 0
  with pytest.raises(ValueError, match='per_class=16: give 1 to 15'):
    prepare.balanced(rows, 3, 16)
  with pytest.raises(ValueError, match='55 other rows of 52'):
    prepare.balanced(rows, 3, 2, 55)


def test_of_classes():
  rows = labelled()
  some, index = prepare.of_classes(rows, 2)
  assert {*some['y']} == {0, 1} and len(index) == 30
  np.testing.assert_array_equal(some['x'], rows['x'][index])
  with pytest.raises(ValueError, match='5 classes of 4'):
    prepare.of_classes(rows, 5)
