"""Readers on small files in the true formats."""

import gzip
import pathlib
import struct

import jax
import numpy as np
import pytest
from scipy import io

from tda_jax.data import images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 1], np.uint8)


def idx(array):
  sizes = struct.pack(f'>{array.ndim}i', *array.shape)
  return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


def idx_folder(folder, *, stem='train', compressed=True, pixels=PIXELS):
  for kind, array in (('images', pixels), ('labels', LABELS)):
    name = f'{stem}-{kind}-idx{array.ndim}-ubyte'
    content = idx(array)
    if compressed:
      (folder / f'{name}.gz').write_bytes(gzip.compress(content))
    else:
      (folder / name).write_bytes(content)
  return folder


def cifar_folder(folder):
  chw = RNG.integers(256, size=(6, 3, 32, 32), dtype=np.uint8)
  labels = np.array([0, 9, 4, 4, 2, 7], np.uint8)
  records = np.concatenate([labels[:, None], chw.reshape(6, -1)], 1)
  for i in (2, 1):
    part = records[3 * (i - 1) : 3 * i]
    (folder / f'data_batch_{i}.bin').write_bytes(part.tobytes())
  (folder / 'test_batch.bin').write_bytes(records[4:].tobytes())
  return chw, labels


@pytest.mark.parametrize('compressed', [True, False])
@pytest.mark.parametrize('part, stem', [('train', 'train'), ('test', 't10k')])
@pytest.mark.parametrize('read', [images.mnist, images.fashion_mnist])
def test_idx(tmp_path, read, part, stem, compressed):
  rows = read(idx_folder(tmp_path, stem=stem, compressed=compressed), part)
  assert rows['x'].shape == (5, 28, 28, 1) and rows['x'].dtype == np.float32
  np.testing.assert_allclose(rows['x'][..., 0] * 255, PIXELS, rtol=1e-6)
  np.testing.assert_array_equal(rows['y'], LABELS)
  assert rows['y'].dtype == np.int32


@pytest.mark.parametrize(
  'read, source',
  [
    (images.mnist, 'get MNIST from https://'),
    (images.fashion_mnist, 'Debian package dataset-fashion-mnist'),
    (images.cifar10, 'binary version of CIFAR-10 from https://'),
  ],
)
def test_absent_files_say_where_to_get_them(tmp_path, read, source):
  with pytest.raises(ValueError, match=source) as error:
    read(tmp_path)
  assert str(tmp_path) in str(error.value)


def test_unknown_part(tmp_path):
  with pytest.raises(ValueError, match=r"'dev': use one of \['test', 'train'"):
    images.mnist(tmp_path, 'dev')


@pytest.mark.parametrize(
  'content, message',
  [
    (idx(LABELS), r'not an idx file of 3 axes .*00000801, not 00000803'),
    (idx(PIXELS)[:-1], r'has 3935 bytes where its header says 3936'),
    (idx(PIXELS) + b'0', r'has 3937 bytes where its header says 3936'),
    (idx(PIXELS)[:9], r'has 9 bytes where its header says 16'),
    (b'', 'not an idx file'),
  ],
)
def test_damaged_idx(tmp_path, content, message):
  folder = idx_folder(tmp_path, compressed=False)
  (folder / 'train-images-idx3-ubyte').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    images.mnist(folder)


@pytest.mark.parametrize('damage', [lambda c: c[:-9], lambda c: b'no' + c[2:]])
def test_damaged_gzip(tmp_path, damage):
  file = idx_folder(tmp_path) / 'train-images-idx3-ubyte.gz'
  file.write_bytes(damage(file.read_bytes()))
  with pytest.raises(
    ValueError, match='not a whole gzip file .*: get it again'
  ):
    images.mnist(tmp_path)


def test_images_and_labels_of_different_length(tmp_path):
  folder = idx_folder(tmp_path, pixels=PIXELS[:4])
  with pytest.raises(ValueError, match='has 4 train images but 5 labels'):
    images.mnist(folder)


def test_cifar10(tmp_path):
  chw, labels = cifar_folder(tmp_path)
  rows = images.cifar10(tmp_path)
  assert rows['x'].shape == (6, 32, 32, 3)
  np.testing.assert_array_equal(rows['y'], labels)
  # Channels last: green of row 1, column 2 of the fifth image.
  assert rows['x'][4, 1, 2, 1] == np.float32(chw[4, 1, 1, 2]) / np.float32(255)
  np.testing.assert_array_equal(images.cifar10(tmp_path, 'test')['y'], [2, 7])


def test_damaged_cifar10(tmp_path):
  cifar_folder(tmp_path)
  file = tmp_path / 'data_batch_2.bin'
  whole = file.read_bytes()
  file.write_bytes(whole[:-5])
  with pytest.raises(
    ValueError, match='data_batch_2.bin has 9214 bytes, not a'
  ):
    images.cifar10(tmp_path)
  file.write_bytes(whole[:3073] + bytes([10]) + whole[3074:])
  with pytest.raises(ValueError, match='has label 10 in record 1'):
    images.cifar10(tmp_path)


@pytest.mark.slow
def test_mnist5k_is_the_real_thing():
  rows = images.mnist5k()
  assert rows['x'].shape == (5000, 28, 28, 1) and rows['x'].max() == 1
  np.testing.assert_array_equal(np.bincount(rows['y']), [500] * 10)
  again = images.mnist5k()
  np.testing.assert_array_equal(rows['x'], again['x'])


@pytest.mark.skipif(
  not pathlib.Path(images.FASHION_MNIST).exists(),
  reason='the Debian package dataset-fashion-mnist is not installed',
)
def test_fashion_mnist_of_the_debian_package():
  rows = images.fashion_mnist(part='test')
  np.testing.assert_array_equal(np.bincount(rows['y']), [1000] * 10)


def test_crop_and_flip_moves_and_mirrors():
  x = np.arange(1.0, 1 + 6 * 6 * 2, dtype=np.float32).reshape(6, 6, 2)
  keys = jax.random.split(jax.random.key(0), 40)
  augment = lambda key: images.crop_and_flip(key, {'x': x, 'y': 3}, 2)
  out = jax.jit(jax.vmap(augment))(keys)
  assert out['x'].shape == (40, 6, 6, 2)
  np.testing.assert_array_equal(out['y'], 3)
  padded = np.pad(x, ((2, 2), (2, 2), (0, 0)))
  windows = [padded[i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
  known = {w.tobytes(): i for i, w in enumerate(windows)}
  known |= {w[:, ::-1].tobytes(): 25 + i for i, w in enumerate(windows)}
  seen = {known[np.asarray(x).tobytes()] for x in out['x']}
  assert len(seen) > 15 and min(seen) < 25 <= max(seen)


def svhn_folder(folder, part='train'):
  x = RNG.integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
  y = np.array([[10], [1], [9], [10]])  # 10 is the digit 0
  content = {'X': x.transpose(1, 2, 3, 0), 'y': y}
  io.savemat(folder / f'{part}_32x32.mat', content)
  return x


@pytest.mark.parametrize('part', ['train', 'test'])
def test_svhn(tmp_path, part):
  x = svhn_folder(tmp_path, part)
  rows = images.svhn(tmp_path, part)
  np.testing.assert_allclose(rows['x'] * 255, x, rtol=1e-6)
  np.testing.assert_array_equal(rows['y'], [0, 1, 9, 0])


def test_svhn_that_is_not_there_or_damaged(tmp_path):
  with pytest.raises(ValueError, match='no train_32x32.mat .* get it from'):
    images.svhn(tmp_path)
  (tmp_path / 'train_32x32.mat').write_bytes(b'not a file of MATLAB' * 20)
  with pytest.raises(ValueError, match='not a whole MATLAB file of SVHN'):
    images.svhn(tmp_path)
  io.savemat(tmp_path / 'train_32x32.mat', {'other': np.zeros(3)})
  with pytest.raises(ValueError, match='not a whole MATLAB file of SVHN'):
    images.svhn(tmp_path)


@pytest.mark.parametrize('shape', [(8, 8), (28, 28, 1), (32, 32, 3)])
def test_photographs_are_random_pieces(shape):
  x = images.photographs(5, shape, seed=1)
  assert x.shape == (5, *shape) and 0 <= x.min() and x.max() <= 1
  assert len({float(one.sum()) for one in x}) == 5  # different ones
  np.testing.assert_array_equal(x, images.photographs(5, shape, seed=1))
  assert not np.array_equal(x, images.photographs(5, shape, seed=2))
  if shape[2:] == (3,):
    assert np.abs(x[..., 0] - x[..., 2]).max() > 0.1  # not grey
