"""The vision transformer against PyTorch's, on a file of random weights."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tda_jax.models import vit

FILE = pathlib.Path(__file__).parent / 'data' / 'random_vit.safetensors'
KNOWN = FILE.with_suffix('.npz')  # made by scripts/random_vit.py


def changed(folder, **changes):
  """The file with some tensors replaced; None: removed."""
  numpy = pytest.importorskip('safetensors.numpy')
  tensors = {**numpy.load_file(FILE), **changes}
  path = folder / 'model.safetensors'
  numpy.save_file({n: x for n, x in tensors.items() if x is not None}, path)
  return path


def test_logits_are_those_of_pytorch():
  pytest.importorskip('safetensors')
  params, sizes = vit.read(FILE, heads=2)
  assert sizes == vit.Sizes(12, 3, 4, 16, 2, 2, 24)
  _, apply = vit.vit(5, sizes)
  known = np.load(KNOWN)
  got = jax.jit(apply)(params, known['x'])
  np.testing.assert_allclose(got, known['logits'], rtol=1e-4, atol=1e-5)
  other = vit.vit(5, sizes._replace(heads=4))[1](params, known['x'])
  assert np.abs(other - known['logits']).max() > 1e-2


def test_a_model_without_a_classifier_has_no_head(tmp_path):
  """Its names lack the prefix, and it has a pooler, as -in21k."""
  numpy = pytest.importorskip('safetensors.numpy')
  tensors = {
    name.removeprefix('vit.'): x
    for name, x in numpy.load_file(FILE).items()
    if not name.startswith('classifier')
  }
  tensors['pooler.dense.weight'] = np.ones((16, 16), np.float32)
  tensors['pooler.dense.bias'] = np.ones(16, np.float32)
  numpy.save_file(tensors, tmp_path / 'm.safetensors')
  params, _ = vit.read(tmp_path / 'm.safetensors', heads=2)
  whole, _ = vit.read(FILE, heads=2)
  del whole['head']
  jax.tree.map(np.testing.assert_array_equal, params, whole)


QUERY = 'vit.encoder.layer.1.attention.attention.query.weight'
POSITIONS = 'vit.embeddings.position_embeddings'


@pytest.mark.parametrize(
  'name, value, message',
  [
    (QUERY, None, f'has no tensor {QUERY.removeprefix("vit.")}: give'),
    ('lora.a', np.ones(3), 'has an unknown tensor lora.a: give'),
    (QUERY, np.ones((16, 8)), 'query.weight has shape [16, 8], which does not'),
    (POSITIONS, None, 'has no embeddings.position_embeddings and so is no'),
  ],
)
def test_other_files_get_one_sentence(tmp_path, name, value, message):
  path = changed(tmp_path, **{name: value})
  with pytest.raises(ValueError, match=re.escape(message)):
    vit.read(path, heads=2)


def test_no_file_and_no_such_sizes(tmp_path):
  pytest.importorskip('safetensors')
  with pytest.raises(ValueError, match='give the path of a model.safetensors'):
    vit.read(tmp_path / 'absent')
  with pytest.raises(ValueError, match='width=16 is no multiple of heads=12'):
    vit.read(FILE)
  with pytest.raises(ValueError, match='side=10 is no multiple of patch=4'):
    vit.vit(2, vit.Sizes(10, 1, 4, 8, 2, 1, 8))


def test_rows_are_apart():
  init, apply = vit.vit(3, vit.Sizes(8, 1, 4, 8, 2, 1, 8))
  params = init(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
  alone = jnp.concatenate([apply(params, row[None]) for row in x])
  np.testing.assert_allclose(apply(params, x), alone, rtol=1e-4, atol=1e-6)
