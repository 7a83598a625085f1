"""Transformers for token ids [B, T]; id 0 is padding."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from tda_jax.models import module


class Block(nn.Module):
  """Attention and a perceptron, each of a normalised x and added to it.

  `attention_bias` adds biases to queries, keys and values. `real` [B, T] marks
  tokens that are no padding; None: all.
  """

  heads: int
  hidden: int
  dropout: float = 0.0
  attention_bias: bool = False
  exact_gelu: bool = False
  epsilon: float = 1e-6  # of the norms

  @nn.compact
  def __call__(self, x, real, key=None, place=0):
    width = x.shape[-1]
    y = nn.LayerNorm(self.epsilon)(x)
    q, k, v = (
      jnp.reshape(
        nn.Dense(width, use_bias=self.attention_bias, name=name)(y),
        (*y.shape[:2], self.heads, -1),
      )
      for name in ('query', 'key', 'value')
    )
    similarity = jnp.einsum('bshd,bthd->bhst', q, k) / q.shape[-1] ** 0.5
    if real is not None:
      similarity = jnp.where(real[:, None, None], similarity, -1e9)
    y = jnp.einsum('bhst,bthd->bshd', nn.softmax(similarity), v)
    y = nn.Dense(width, name='out')(jnp.reshape(y, x.shape))
    x = x + module.dropped(y, self.dropout, key, place)
    y = nn.Dense(self.hidden)(nn.LayerNorm(self.epsilon)(x))
    y = nn.gelu(y, approximate=not self.exact_gelu)
    y = nn.Dense(width)(y)
    return x + module.dropped(y, self.dropout, key, place + 1)


class Transformer(nn.Module):
  """An encoder with learned positions, which classifies the mean over tokens."""

  vocabulary: int
  outputs: int
  width: int
  heads: int
  blocks: int
  hidden: int
  dropout: float = 0.0

  @nn.compact
  def __call__(self, ids, key=None):
    real = ids > 0
    positions = self.param(
      'positions', nn.initializers.normal(0.02), (ids.shape[1], self.width)
    )
    x = nn.Embed(self.vocabulary, self.width)(ids) + positions
    x = module.dropped(x, self.dropout, key, 0)
    for i in range(self.blocks):
      block = Block(self.heads, self.hidden, self.dropout)
      x = block(x, real, key, 1 + 2 * i)
    x = nn.LayerNorm()(x) * real[..., None]
    count = jnp.maximum(jnp.sum(real, 1, keepdims=True), 1)
    return nn.Dense(self.outputs)(jnp.sum(x, 1) / count)


def transformer(
  vocabulary: int,
  outputs: int,
  length: int,
  *,
  width: int = 64,
  heads: int = 4,
  blocks: int = 2,
  hidden: int = 128,
  dropout: float = 0.0,
) -> tuple[Callable, Callable]:
  """(init, apply) of an encoder: (params, ids [B, length]) -> [B, outputs].

  Pre-norm (Xiong et al. 2020, https://arxiv.org/abs/2002.04745). Outputs do not
  depend on the content of padding positions; a row must have at least one token
  that is no padding.

  Args:
    vocabulary: ids, 0 (padding) among them.
    length: T of all inputs.
    heads: of attention; must divide `width`.
    hidden: width of the blocks' perceptrons.
    dropout: share of the embedding and of each addition to it that `apply` with
      a key leaves out.

  Raises:
    ValueError: `heads` does not divide `width`; bad dropout.
  """
  module.check_dropout(dropout)
  if width % heads:
    raise ValueError(
      f'width={width} is no multiple of heads={heads}: make it one'
    )
  model = Transformer(
    vocabulary, outputs, width, heads, blocks, hidden, dropout
  )
  return module.functions(model, (length,), jnp.int32)
