"""Convolutional networks for images [B, height, width, channels].

They have no batch norm: attribution needs outputs that depend on their own
example only.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tda_jax.models import module

_HE = nn.initializers.he_normal()


class LeNet(nn.Module):
  """LeNet-5: two convolutions with average pooling, three dense layers."""

  outputs: int
  activation: Callable = nn.relu
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, key=None):
    # Matrix products with patches, like in SmallCNN, and means of a reshape are
    # more than twice as fast as convolution and pooling on a CPU.
    for channels, inside in ((6, slice(None)), (16, slice(2, -2))):
      neighbours = patches(x, 5)[:, inside, inside]
      x = self.activation(nn.Dense(channels, kernel_init=_HE)(neighbours))
      x = halved(x)
    x = jnp.reshape(x, (x.shape[0], -1))
    for i, width in enumerate((120, 84)):
      x = self.activation(nn.Dense(width, kernel_init=_HE)(x))
      x = module.dropped(x, self.dropout, key, i)
    return nn.Dense(self.outputs, kernel_init=_HE)(x)


class SmallCNN(nn.Module):
  """3 x 3 convolutions with GELU and max pooling, then two dense layers."""

  outputs: int
  channels: tuple[int, ...] = (32, 64)
  width: int = 128
  kernel_init: Callable | None = None

  @nn.compact
  def __call__(self, x):
    init = self.kernel_init or _HE
    for channels in self.channels:
      # A matrix product with patches: where many models with different kernels
      # are trained together, XLA's grouped convolutions are ten times slower.
      x = nn.gelu(nn.Dense(channels, kernel_init=init)(patches(x)))
      x = nn.max_pool(x, (2, 2), (2, 2))
    x = jnp.reshape(x, (x.shape[0], -1))
    x = nn.gelu(nn.Dense(self.width, kernel_init=init)(x))
    return nn.Dense(self.outputs, kernel_init=init)(x)


class Block(nn.Module):
  """Convolution, normalisation over groups of channels, ReLU."""

  channels: int
  groups: int | None
  kernel: int = 3
  stride: int = 1
  padding: int = 1

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(
      self.channels,
      (self.kernel, self.kernel),
      strides=self.stride,
      padding=self.padding,
      use_bias=self.groups is None,  # the normalisation has a bias
      kernel_init=_HE,
    )(x)
    if self.groups is not None:
      x = nn.GroupNorm(num_groups=self.groups)(x)
    return nn.relu(x)


class ResNet9(nn.Module):
  """The ResNet-9 of TRAK, with group normalisation in place of batch norm.

  Source: Park et al. 2023, https://arxiv.org/abs/2303.14186
  """

  outputs: int
  widths: tuple[int, ...] = (64, 128, 256, 128)
  groups: int | None = 32
  scale: float = 0.2

  @nn.compact
  def __call__(self, x):
    a, b, c, d = self.widths
    x = Block(a, self.groups)(x)
    x = Block(b, self.groups, kernel=5, stride=2, padding=2)(x)
    x = x + Block(b, self.groups)(Block(b, self.groups)(x))
    x = nn.max_pool(Block(c, self.groups)(x), (2, 2), (2, 2))
    x = x + Block(c, self.groups)(Block(c, self.groups)(x))
    x = Block(d, self.groups, padding=0)(x)
    # Not jnp.max: its gradient compares x with the maximum, and if XLA computes x
    # twice with different rounding, no entry is equal and the gradient is inf.
    x = nn.max_pool(x, x.shape[1:3])[:, 0, 0]
    return self.scale * nn.Dense(self.outputs, use_bias=False)(x)


def halved(x: jax.Array) -> jax.Array:
  """Means over squares of 2 x 2 pixels; a remainder is cut, [B, H/2, W/2, C]."""
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return x.mean((2, 4))


def patches(x: jax.Array, size: int = 3) -> jax.Array:
  """The size x size neighbourhood of each pixel, zero-padded, [B, H, W, size²·I].

  A dense layer on these is a convolution of stride 1.
  """
  height, width = x.shape[1:3]
  before, after = (size - 1) // 2, size // 2
  x = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
  shifted = [
    x[:, i : i + height, j : j + width]
    for i in range(size)
    for j in range(size)
  ]
  return jnp.concatenate(shifted, -1)


def small(
  outputs: int,
  shape: Sequence[int] = (28, 28, 1),
  channels: Sequence[int] = (32, 64),
  width: int = 128,
  kernel_init: Callable | None = None,
) -> tuple[Callable, Callable]:
  """(init, apply) of SmallCNN: (params, x [B, *shape]) -> [B, outputs].

  The defaults are the CNN with 2 layers of Nguyen et al. 2023 (Bayesian TDA),
  https://arxiv.org/abs/2305.19765; that with 3 layers has channels (32, 64, 128)
  and width 256.

  Args:
    channels: of each convolution; each is followed by a halving of the image.
    kernel_init: of every kernel; None: He.

  Raises:
    ValueError: the images are too small for that number of halvings.
  """
  if min(shape[:2]) < 2 ** len(channels):
    raise ValueError(
      f'images of {shape[0]} x {shape[1]} cannot be halved {len(channels)}'
      ' times: give fewer channels or larger images'
    )
  model = SmallCNN(outputs, tuple(channels), width, kernel_init)
  return module.functions(model, shape)


def lenet(
  outputs: int,
  shape: Sequence[int] = (28, 28, 1),
  activation: Callable = nn.relu,
  dropout: float = 0.0,
) -> tuple[Callable, Callable]:
  """(init, apply) of LeNet-5: (params, x [B, *shape]) -> [B, outputs].

  61,706 parameters for 28 x 28 x 1 and 10 outputs.

  Args:
    dropout: share of the units of the two hidden dense layers that `apply` with
      a key leaves out.
  """
  module.check_dropout(dropout)
  return module.functions(LeNet(outputs, activation, dropout), shape)


def resnet9(
  outputs: int,
  shape: Sequence[int] = (32, 32, 3),
  widths: Sequence[int] = (64, 128, 256, 128),
  groups: int | None = 32,
  scale: float = 0.2,
) -> tuple[Callable, Callable]:
  """(init, apply) of ResNet-9: (params, x [B, *shape]) -> [B, outputs].

  2,272,192 weights of convolutions and the dense layer at the default widths.

  Args:
    widths: channels of the stem, the first and second residual stage and the
      last convolution.
    groups: of the group normalisation that replaces batch norm; must divide
      every width. None: no normalisation, convolutions have biases.
    scale: of the logits.

  Raises:
    ValueError: `groups` does not divide a width.
  """
  if groups is not None and any(width % groups for width in widths):
    raise ValueError(
      f'widths {tuple(widths)} are not all multiples of groups={groups}: give'
      ' a divisor of every width, or None for no normalisation'
    )
  model = ResNet9(outputs, tuple(widths), groups, scale)
  return module.functions(model, shape)
