"""Scores of other libraries: files, orientation, sign."""

import sys

import numpy as np
import pytest
import tensorstore as ts

from tda_jax.storage import foreign

SCORES = np.arange(6, dtype=np.float32).reshape(3, 2)


def zarr(path, driver):
  spec = {
    'driver': driver,
    'kvstore': {'driver': 'file', 'path': str(path)},
    'create': True,
    'dtype': 'float32',
  }
  ts.open(spec, shape=SCORES.shape).result().write(SCORES).result()


def test_every_kind_of_file_is_read(tmp_path):
  np.save(tmp_path / 's.npy', SCORES)
  np.savez(tmp_path / 'one.npz', scores=SCORES)
  np.savez(tmp_path / 'two.npz', a=SCORES, b=0 * SCORES)
  zarr(tmp_path / 'two.zarr', 'zarr')
  zarr(tmp_path / 'three.zarr', 'zarr3')
  for name in ('s.npy', 'one.npz', 'two.npz:a', 'two.zarr', 'three.zarr'):
    np.testing.assert_array_equal(foreign.read(tmp_path / name), SCORES)


def test_a_tensor_of_torch(tmp_path):
  torch = pytest.importorskip('torch')
  torch.save(torch.tensor(SCORES, dtype=torch.bfloat16), tmp_path / 's.pt')
  np.testing.assert_array_equal(foreign.read(tmp_path / 's.pt'), SCORES)


def test_without_torch_there_is_a_way(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  (tmp_path / 's.pt').write_bytes(b'0')
  with pytest.raises(ValueError, match='needs torch: install it, or save'):
    foreign.read(tmp_path / 's.pt')


@pytest.mark.parametrize(
  'name, message',
  [
    ('none.npy', 'there is no .*none.npy'),
    ('s.csv', 'no kind that is known: save the scores as one of .npy'),
    ('cut.npy', 'cut.npy cannot be read'),
    ('cut.npz', 'cut.npz cannot be read'),
    ('empty.zarr', 'empty.zarr cannot be read'),
    ('two.npz', r"has the arrays \['a', 'b'\]: write .*two.npz:NAME"),
    ('two.npz:c', "no array 'c'"),
    ('nan.npy', '1 scores that are not finite'),
    ('text.npy', 'give an array of numbers'),
  ],
)
def test_what_cannot_be_read(tmp_path, name, message):
  (tmp_path / 's.csv').write_text('0')
  (tmp_path / 'empty.zarr').mkdir()
  np.save(tmp_path / 's.npy', SCORES)
  np.savez(tmp_path / 'two.npz', a=SCORES, b=SCORES)
  np.save(tmp_path / 'nan.npy', np.where(SCORES == 1, np.nan, SCORES))
  np.save(tmp_path / 'text.npy', np.array(['a']))
  for whole, cut in (('s.npy', 'cut.npy'), ('two.npz', 'cut.npz')):
    content = (tmp_path / whole).read_bytes()
    (tmp_path / cut).write_bytes(content[: len(content) - 10])
  with pytest.raises(ValueError, match=message):
    foreign.read(tmp_path / name)


def test_orientation_and_sign():
  np.testing.assert_array_equal(
    foreign.oriented(SCORES, 'rows_by_queries', 'supports', 3, 2), SCORES
  )
  np.testing.assert_array_equal(
    foreign.oriented(SCORES.T, 'queries_by_rows', 'harms', 3, 2), -SCORES
  )


@pytest.mark.parametrize(
  'orientation, sign, rows, message',
  [
    ('queries_by_rows', 'supports', 3, 'say rows_by_queries'),
    ('rows_by_queries', 'supports', 4, r'are \(4, 2\): score these rows'),
    ('rows', 'supports', 3, "'rows' is unknown: say one of"),
    ('rows_by_queries', '+', 3, r"'\+' is unknown: say one of supports"),
  ],
)
def test_what_does_not_fit(orientation, sign, rows, message):
  with pytest.raises(ValueError, match=message):
    foreign.oriented(SCORES, orientation, sign, rows, 2)


def test_a_sign_that_looks_wrong_is_told():
  labels, asked = np.array([0, 0, 1, 1]), np.arange(40) % 2
  scores = (labels[:, None] == asked) + 0.1
  assert foreign.suspicion(scores, labels, asked) is None
  assert '100% of the queries' in foreign.suspicion(-scores, labels, asked)
  rng = np.random.default_rng(0)
  random = [rng.normal(size=scores.shape) for _ in range(50)]
  told = sum(foreign.suspicion(s, labels, asked) is not None for s in random)
  assert told <= 1
  # Nothing can be said where all rows are of one class.
  assert foreign.suspicion(-scores, 0 * labels, 0 * asked) is None


def test_self_influence_has_a_sign():
  own = np.array([2.0, 1.0, -0.1])
  np.testing.assert_array_equal(foreign.checked_self_influence(own, 3), own)
  with pytest.raises(ValueError, match='67% .* negative.*give minus'):
    foreign.checked_self_influence(-own, 3)
  with pytest.raises(ValueError, match='give one a row'):
    foreign.checked_self_influence(own[:2], 3)


@pytest.mark.parametrize('driver', ['zarr', 'zarr3'])
def test_a_half_written_zarr_is_refused(tmp_path, driver):
  path = tmp_path / 's.zarr'
  metadata = {
    'zarr': {'chunks': [1, 4], 'dtype': '<f4'},
    'zarr3': {
      'data_type': 'float32',
      'chunk_grid': {
        'name': 'regular', 'configuration': {'chunk_shape': [1, 4]}
      },
    },
  }[driver]  # fmt: skip
  store = ts.open({
      'driver': driver, 'create': True,
      'kvstore': {'driver': 'file', 'path': str(path)},
      'metadata': {'shape': [5, 4], 'fill_value': 0.0, **metadata},
  }).result()  # fmt: skip
  for i in range(2):
    store[i].write(np.ones(4, np.float32)).result()
  with pytest.raises(ValueError, match='the first that is missing is of row 2'):
    foreign.read(path)
  for i in range(2, 5):
    store[i].write(np.ones(4, np.float32)).result()
  np.testing.assert_array_equal(foreign.read(path), np.ones((5, 4)))


@pytest.mark.parametrize('axis, name', [(0, 'rows'), (1, 'columns')])
def test_lines_of_zeros_were_never_written(tmp_path, axis, name):
  scores = np.ones((4, 3))
  np.moveaxis(scores, axis, 0)[2] = 0
  np.save(tmp_path / 's.npy', scores)
  with pytest.raises(ValueError, match=f'has 1 {name} of zeros, .* number 2'):
    foreign.read(tmp_path / 's.npy')
  np.testing.assert_array_equal(
    foreign.read(tmp_path / 's.npy', zeros=True), scores
  )
