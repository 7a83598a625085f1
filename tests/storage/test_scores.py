import concurrent.futures
import multiprocessing

import jax.numpy as jnp
import numpy as np
import pytest

from tda_jax.storage import scores

ATTRIBUTES = {'method': 'influence', 'damping': 0.003, 'seeds': [1, 2]}
VALUES = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)


def make(path):
  return scores.create(path, VALUES.shape, 4, ATTRIBUTES)


def fill(store, blocks):
  for block in blocks:
    scores.write(store, 4 * block, VALUES[4 * block : 4 * block + 4])


def contents(path):
  return {
    str(file.relative_to(path)): file.read_bytes()
    for file in path.rglob('*')
    if file.is_file()
  }


def test_round_trip(tmp_path):
  store = make(tmp_path / 's')
  assert np.isnan(scores.read(store)).all()
  fill(store, [2, 0])
  np.testing.assert_array_equal(scores.done(store), [True, False, True])
  found = scores.read(scores.open(tmp_path / 's'))
  np.testing.assert_array_equal(found[:4], VALUES[:4])
  np.testing.assert_array_equal(found[8:], VALUES[8:])
  assert np.isnan(found[4:8]).all()
  assert scores.attributes(store) == ATTRIBUTES


def test_resumed_store_has_the_same_bytes(tmp_path):
  fill(make(tmp_path / 'whole'), [0, 1, 2])
  store = make(tmp_path / 'cut')
  fill(store, [0])
  # Killed amid block 1: its chunk is there in part, its marker is not.
  store.array[4:6].write(np.full((2, 3), 7, np.float32)).result()
  again = make(tmp_path / 'cut')
  assert np.isnan(scores.read(again)[4:]).all()
  fill(again, np.flatnonzero(~scores.done(again)))
  assert contents(tmp_path / 'cut') == contents(tmp_path / 'whole')
  np.testing.assert_array_equal(scores.read(again), VALUES)


def test_another_run_is_refused_and_kept(tmp_path):
  fill(make(tmp_path / 's'), [0])
  before = contents(tmp_path / 's')
  other = {**ATTRIBUTES, 'damping': 0.01}
  with pytest.raises(ValueError, match='damping is 0.003 there and 0.01 now'):
    scores.create(tmp_path / 's', VALUES.shape, 4, other)
  with pytest.raises(ValueError, match=r'shape is \[11, 3\] there and \[12'):
    scores.create(tmp_path / 's', (12, 3), 4, ATTRIBUTES)
  assert contents(tmp_path / 's') == before
  again = scores.create(tmp_path / 's', VALUES.shape, 5, ATTRIBUTES)
  assert again.rows_per_block == 4


def test_a_block_that_was_not_written_has_no_marker(tmp_path):
  class Full:
    def __getitem__(self, rows):
      raise OSError('no space left')

  store = make(tmp_path / 's')
  with pytest.raises(OSError):
    scores.write(store._replace(array=Full()), 0, VALUES[:4])
  assert not scores.done(store).any()


@pytest.mark.parametrize(
  'start, block, message',
  [
    (2, VALUES[2:6], 'write whole blocks'),
    (4, VALUES[4:6], 'write whole blocks'),
    (0, VALUES[:4, :2], 'write whole blocks'),
    (0, np.full((4, 3), np.nan), 'not finite'),
    (8, VALUES[8:], 'written already'),
  ],
)
def test_bad_blocks(tmp_path, start, block, message):
  store = make(tmp_path / 's')
  fill(store, [2])
  with pytest.raises(ValueError, match=message):
    scores.write(store, start, block)
  np.testing.assert_array_equal(scores.done(store), [False, False, True])


def test_absent_damaged_or_empty(tmp_path):
  with pytest.raises(ValueError, match='no score store at .*run the stage'):
    scores.open(tmp_path / 's')
  with pytest.raises(ValueError, match='at least one row and one query'):
    scores.create(tmp_path / 's', (3, 0), 4, {})
  make(tmp_path / 's')
  file = tmp_path / 's' / 'zarr.json'
  file.write_bytes(file.read_bytes()[:50])
  with pytest.raises(
    ValueError, match='cannot be read: delete .*zarr.json and run'
  ):
    make(tmp_path / 's')


@pytest.mark.parametrize(
  'damage',
  [
    lambda chunk, marker: chunk.unlink(),
    lambda chunk, marker: chunk.write_bytes(chunk.read_bytes()[:20]),
    lambda chunk, marker: chunk.write_bytes(b''),
    lambda chunk, marker: marker.write_bytes(b''),
    lambda chunk, marker: marker.write_bytes(marker.read_bytes()[::-1]),
    lambda chunk, marker: marker.write_bytes(other(marker).read_bytes()),
    lambda chunk, marker: chunk.write_bytes(other(chunk.parent).read_bytes()),
    lambda chunk, marker: [
      mine.write_bytes(of.read_bytes())
      for mine, of in ((chunk, other(chunk.parent)), (marker, other(marker)))
    ],
  ],
)
def test_a_damaged_block_is_not_done_and_written_again(tmp_path, damage):
  fill(make(tmp_path / 'whole'), [0, 1, 2])
  store = make(tmp_path / 's')
  fill(store, [0, 1, 2])
  damage(tmp_path / 's' / 'c' / '1' / '0', tmp_path / 's' / 'done' / '1')
  again = make(tmp_path / 's')
  np.testing.assert_array_equal(scores.done(again), [True, False, True])
  assert np.isnan(scores.read(again)[4:8]).all()
  fill(again, [1])
  assert contents(tmp_path / 's') == contents(tmp_path / 'whole')
  with pytest.raises(ValueError, match='written already, by another process'):
    fill(again, [1])


def other(path):
  """What block 0 has where block 1 has `path`."""
  return path.with_name('0') / ('0' if path.is_dir() else '')


def test_every_bit_of_a_chunk_counts(tmp_path):
  store = make(tmp_path / 's')
  fill(store, [0, 1, 2])
  chunk = tmp_path / 's' / 'c' / '2' / '0'
  whole = chunk.read_bytes()
  for i in range(8 * len(whole)):
    data = bytearray(whole)
    data[i // 8] ^= 1 << i % 8
    chunk.write_bytes(data)
    found = scores.read(make(tmp_path / 's'))
    assert np.isnan(found[8:]).all() or (found == VALUES).all()
  fill(store, [2])  # a part of a chunk, into which tensorstore writes
  assert chunk.read_bytes() == whole


def test_blocks_outlive_lost_metadata_only_of_the_same_run(tmp_path):
  fill(make(tmp_path / 's'), [0, 2])
  (tmp_path / 's' / 'zarr.json').unlink()
  np.testing.assert_array_equal(
    scores.done(make(tmp_path / 's')), [True, False, True]
  )
  (tmp_path / 's' / 'zarr.json').unlink()
  other = {**ATTRIBUTES, 'damping': 0.01}
  store = scores.create(tmp_path / 's', VALUES.shape, 4, other)
  assert not scores.done(store).any()


def test_zarr_metadata_with_any_byte_changed_is_never_believed(tmp_path):
  fill(make(tmp_path / 's'), [0, 1, 2])
  file = tmp_path / 's' / 'zarr.json'
  whole = file.read_bytes()
  for i in range(len(whole)):
    data = bytearray(whole)
    data[i] ^= 1
    file.write_bytes(data)
    try:
      found = scores.read(make(tmp_path / 's'))
    except ValueError as error:
      assert 'delete' in str(error)
    else:
      assert ((found == VALUES) | np.isnan(found)).all()


def test_forgotten_blocks_are_not_done(tmp_path):
  store = make(tmp_path / 's')
  fill(store, [0, 1])
  scores.forget(store)
  assert not scores.done(store).any()


def write_every_other(path, first):
  fill(make(path), range(first, 3, 2))


def test_two_processes_write_their_own_blocks(tmp_path):
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
    list(pool.map(write_every_other, [tmp_path / 's'] * 2, [0, 1]))
  np.testing.assert_array_equal(scores.read(make(tmp_path / 's')), VALUES)


def test_blocks_may_be_smaller_where_none_is_done(tmp_path):
  assert scores.create(tmp_path / 's', (10, 2), 8, {}).rows_per_block == 8
  store = scores.create(tmp_path / 's', (10, 2), 3, {})
  assert store.rows_per_block == 3
  scores.write(store, 0, np.ones((3, 2)))
  store = scores.create(tmp_path / 's', (10, 2), 2, {})
  assert store.rows_per_block == 3
  np.testing.assert_array_equal(scores.read(store)[:3], 1)


def test_scores_of_members_are_an_array_that_is_read(tmp_path):
  stores = []
  for e in range(2):
    store = scores.create(tmp_path / str(e), VALUES.shape, 4, ATTRIBUTES)
    for first in range(0, len(VALUES), 4):
      scores.write(store, first, (e + 1) * VALUES[first : first + 4])
    stores.append(store)
  found, want = scores.Scores(stores), np.stack([VALUES, 2 * VALUES])
  assert found.shape == want.shape and len(found) == 2 and found.ndim == 3
  for index in (
    *(0, -1, [1, 0], slice(1), ..., (1, 3), (0, slice(3, 9), 2)),
    *((1, slice(8, None)), (1, slice(5, 2)), (0, slice(None, None, 2))),
    (slice(None), 0),
  ):
    np.testing.assert_array_equal(found[index], want[index])
  np.testing.assert_array_equal(found.mean(0), want.mean(0))
  np.testing.assert_array_equal(2 * found - want, want)
  np.testing.assert_array_equal(np.max(found, 1), want.max(1))
  np.testing.assert_array_equal([*found], want)
  with pytest.raises(AttributeError, match='have no .sort.: np.asarray'):
    found.sort()
  for index in ((0, slice(2, 7), [0, 1]), (), True):
    np.testing.assert_array_equal(found[index], want[index])
  np.testing.assert_array_equal(jnp.asarray(found), want)
  assert want[0, 0, 0] in found
  with pytest.raises(TypeError):
    found *= 2
  with pytest.raises(IndexError, match='member 5 of 2: give 0 to 1'):
    found[5]
  with pytest.raises(ValueError, match='ambiguous'):
    bool(found)
  (tmp_path / '1' / 'done' / '2').unlink()
  np.testing.assert_array_equal(found[1, :8], want[1, :8])
  with pytest.raises(ValueError, match='are not whole any more'):
    found.mean(0)


def test_some_rows_are_read_without_the_blocks_of_others(tmp_path):
  store = make(tmp_path / 's')
  fill(store, [1])
  np.testing.assert_array_equal(scores.read(store, 5, 7), VALUES[5:7])
  assert np.isnan(scores.read(store, 3, 5)[0]).all()
