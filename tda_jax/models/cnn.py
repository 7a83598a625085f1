"""Convolutional networks for images [B, height, width, channels].

None has batch norm: an output depends on its own example only, as attribution
needs.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
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
    for channels, padding in ((6, 'SAME'), (16, 'VALID')):
      x = nn.Conv(channels, (5, 5), padding=padding, kernel_init=_HE)(x)
      x = nn.avg_pool(self.activation(x), (2, 2), (2, 2))
    x = jnp.reshape(x, (x.shape[0], -1))
    for i, width in enumerate((120, 84)):
      x = self.activation(nn.Dense(width, kernel_init=_HE)(x))
      x = module.dropped(x, self.dropout, key, i)
    return nn.Dense(self.outputs, kernel_init=_HE)(x)


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
      use_bias=self.groups is None,  # a normalisation has its own
      kernel_init=_HE,
    )(x)
    if self.groups is not None:
      x = nn.GroupNorm(num_groups=self.groups)(x)
    return nn.relu(x)


class ResNet9(nn.Module):
  """The ResNet-9 of TRAK (Park et al. 2023) with its batch norm replaced."""

  outputs: int
  widths: tuple[int, int, int, int] = (64, 128, 256, 128)
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
    # Not jnp.max: its gradient compares x with the maximum, and where XLA
    # computes x twice with other rounding, no entry is equal (inf).
    x = nn.max_pool(x, x.shape[1:3])[:, 0, 0]
    return self.scale * nn.Dense(self.outputs, use_bias=False)(x)


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
    groups: of the group normalisation that stands for batch norm; must divide
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
