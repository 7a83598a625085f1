import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.layers import find as layers
from tda_jax.models import cnn, mlp

SMALL = {'widths': (4, 8, 8, 8), 'shape': (16, 16, 3)}
MODELS = {
  'mlp': (lambda: mlp.mlp((7, 6), 3, (4, 2)), (4, 2)),
  'lenet': (lambda: cnn.lenet(3), (28, 28, 1)),
  'small': (lambda: cnn.small(3, (9, 8, 1), (4, 5), 6), (9, 8, 1)),
  'resnet9': (lambda: cnn.resnet9(3, groups=2, **SMALL), (16, 16, 3)),
  'resnet9 bare': (lambda: cnn.resnet9(3, groups=None, **SMALL), (16, 16, 3)),
}


def sizes(init):
  return trees.size(jax.eval_shape(init, jax.random.key(0)))


@pytest.mark.parametrize('name', MODELS)
def test_outputs_depend_on_their_own_example_only(name):
  make, shape = MODELS[name]
  init, apply = make()
  init, apply = jax.jit(init), jax.jit(apply)
  params = init(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (3, *shape))
  together = apply(params, x)
  assert together.shape == (3, 3)
  alone = jnp.concatenate([apply(params, row[None]) for row in x])
  np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
  assert np.abs(together[0] - together[1]).max() > 1e-3
  other = init(jax.random.key(1))
  assert not np.allclose(apply(other, x), together)


@pytest.mark.parametrize(
  'model, count',
  [
    (lambda: mlp.mlp((128, 64), 10, (64,)), 17_226),
    (lambda: mlp.mlp((128, 64), 10, (28, 28, 1)), 109_386),
    (lambda: cnn.lenet(10), 61_706),
    (lambda: cnn.small(10), 421_642),  # torch's: 320 + 18,496 + 401,536 + 1,290
    # 2,272,192 of convolutions and the dense layer, and scale and bias of 1,344
    # normalised channels.
    (lambda: cnn.resnet9(10), 2_272_192 + 2 * 1_344),
    (lambda: cnn.resnet9(10, groups=None), 2_272_192 + 1_344),
  ],
)
def test_number_of_parameters(model, count):
  assert sizes(model()[0]) == count


def test_mlp_is_what_its_name_says():
  init, apply = mlp.mlp((7, 6), 3, (4,), activation=jnp.tanh)
  params = jax.jit(init)(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (5, 4))
  layers = [params[f'Dense_{i}'] for i in range(3)]
  expected = x
  for i, layer in enumerate(layers):
    expected = expected @ layer['kernel'] + layer['bias']
    expected = jnp.tanh(expected) if i < 2 else expected
  np.testing.assert_allclose(apply(params, x), expected, rtol=1e-5)


def test_mlp_initialisation():
  params = jax.jit(mlp.mlp((400,), 10, (300,))[0])(jax.random.key(0))
  np.testing.assert_allclose(
    params['Dense_0']['kernel'].std(), (2 / 300) ** 0.5, rtol=0.02
  )
  np.testing.assert_array_equal(params['Dense_0']['bias'], 0)
  ones = mlp.mlp((4,), 2, (3,), kernel_init=nn.initializers.ones)[0]
  np.testing.assert_array_equal(
    jax.jit(ones)(jax.random.key(0))['Dense_1']['kernel'], 1
  )


def test_resnet9_follows_trak():
  """Strides and paddings: sizes at 32 x 32, and the scale of the logits."""
  module = cnn.ResNet9(10, (4, 8, 8, 4), 2)
  x = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  _, found = jax.eval_shape(
    lambda v: module.apply(v, x, capture_intermediates=True), variables
  )
  found = found['intermediates']
  heights = [found[f'Block_{i}']['__call__'][0].shape[1] for i in range(8)]
  assert heights == [32, 16, 16, 16, 16, 8, 8, 6]
  assert 'bias' not in variables['params']['Dense_0']
  assert 'bias' not in variables['params']['Block_0']['Conv_0']

  outputs = []
  for scale in (0.2, 1.0):
    init, apply = map(jax.jit, cnn.resnet9(3, groups=2, scale=scale, **SMALL))
    x = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    outputs.append(apply(init(jax.random.key(0)), x))
  np.testing.assert_allclose(outputs[0], 0.2 * outputs[1], rtol=1e-5)


def test_patches_make_a_convolution():
  x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
  for size in (3, 5):
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 4))
    want = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip
    got = cnn.patches(x, size) @ kernel.reshape(-1, 4)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_small_images_are_refused():
  with pytest.raises(ValueError, match='images of 6 x 8 cannot be halved 3'):
    cnn.small(3, (6, 8, 1), (4, 4, 4))


def test_groups_must_divide_the_widths():
  with pytest.raises(ValueError, match='not all multiples of groups=3'):
    cnn.resnet9(10, groups=3)


@pytest.mark.parametrize('name', MODELS)
def test_layers_are_found(name):
  """Kronecker blocks hold all weights; a normalisation's own are diagonal."""
  make, shape = MODELS[name]
  init, apply = make()
  params = jax.eval_shape(init, jax.random.key(0))
  example = {'x': jnp.zeros(shape), 'y': jnp.zeros((), jnp.int32)}
  outputs = problem_lib.classification(apply).outputs
  found = layers.coverage(layers.find(outputs, params, example), params)
  left = {row.name for row in found if row.kind == 'leaf'}
  assert sum(row.parameters for row in found) == trees.size(params)
  assert all('GroupNorm' in name for name in left)
  assert bool(left) == (name == 'resnet9')


def test_lenet_is_two_convolutions_and_three_dense_layers():
  init, apply = cnn.lenet(10)
  params = jax.jit(init)(jax.random.key(0))
  x = h = jax.random.normal(jax.random.key(1), (3, 28, 28, 1))
  dense = [params[f'Dense_{i}'] for i in range(5)]
  for layer, padding in zip(dense[:2], ('SAME', 'VALID'), strict=True):
    kernel = layer['kernel'].reshape(5, 5, h.shape[-1], -1)
    h = jax.lax.conv_general_dilated(
      h, kernel, (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    h = nn.avg_pool(nn.relu(h + layer['bias']), (2, 2), (2, 2))
  h = h.reshape(3, -1)
  for i, layer in enumerate(dense[2:]):
    h = h @ layer['kernel'] + layer['bias']
    h = nn.relu(h) if i < 2 else h
  np.testing.assert_allclose(apply(params, x), h, rtol=1e-4, atol=1e-5)
