"""Vision transformers, and reading their weights from files.

Source: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tda_jax.models import module, weights
from tda_jax.models.transformer import Block
from tda_jax.trees import PyTree

# Our names -> Hugging Face's names, in a block and elsewhere.
_BLOCK = {
  'LayerNorm_0': 'layernorm_before',
  'query': 'attention.attention.query',
  'key': 'attention.attention.key',
  'value': 'attention.attention.value',
  'out': 'attention.output.dense',
  'LayerNorm_1': 'layernorm_after',
  'Dense_0': 'intermediate.dense',
  'Dense_1': 'output.dense',
}
_REST = {
  'patches': 'embeddings.patch_embeddings.projection',
  'token': 'embeddings.cls_token',
  'positions': 'embeddings.position_embeddings',
  'norm': 'layernorm',
  'head': 'classifier',
}
_UNUSED = ('pooler.dense.weight', 'pooler.dense.bias')  # of no classifier


class Sizes(NamedTuple):
  """The sizes of a vision transformer; defaults are ViT-B/16.

  Attributes:
    side: of the images, in pixels; a multiple of `patch`.
    channels: of the images.
    patch: side of a patch, in pixels.
    width: of the tokens; a multiple of `heads`.
    heads: of attention.
    blocks: number of them.
    hidden: width of the blocks' perceptrons.
  """

  side: int = 224
  channels: int = 3
  patch: int = 16
  width: int = 768
  heads: int = 12
  blocks: int = 12
  hidden: int = 3072


class Vit(nn.Module):
  """A vision transformer that classifies the class token."""

  outputs: int
  sizes: Sizes

  @nn.compact
  def __call__(self, x):
    s = self.sizes
    count = s.side // s.patch
    x = jnp.reshape(x, (-1, count, s.patch, count, s.patch, s.channels))
    x = jnp.reshape(jnp.swapaxes(x, 2, 3), (len(x), count**2, -1))
    x = nn.Dense(s.width, name='patches')(x)
    small = nn.initializers.normal(0.02)
    token = self.param('token', small, (s.width,))
    token = jnp.broadcast_to(token, (len(x), 1, s.width))
    positions = self.param('positions', small, (count**2 + 1, s.width))
    x = jnp.concatenate([token, x], 1) + positions
    for i in range(s.blocks):
      block = Block(
        s.heads,
        s.hidden,
        attention_bias=True,
        exact_gelu=True,
        epsilon=1e-12,
        name=f'Block_{i}',
      )
      x = block(x, None)
    x = nn.LayerNorm(epsilon=1e-12, name='norm')(x[:, 0])
    return nn.Dense(self.outputs, name='head')(x)


def vit(outputs: int, sizes: Sizes) -> tuple[Callable, Callable]:
  """(init, apply): (params, x [B, side, side, channels]) -> [B, outputs].

  Pre-norm, with learned positions, a class token and the exact GELU, as
  `ViTForImageClassification` of the package transformers computes it.

  Raises:
    ValueError: `heads` does not divide `width`, or `patch` not `side`.
  """
  if sizes.width % sizes.heads:
    raise ValueError(
      f'width={sizes.width} is no multiple of heads={sizes.heads}: make it one'
    )
  if sizes.side % sizes.patch:
    raise ValueError(
      f'side={sizes.side} is no multiple of patch={sizes.patch}: make it one'
    )
  shape = (sizes.side, sizes.side, sizes.channels)
  return module.functions(Vit(outputs, sizes), shape)


def read(path: str | os.PathLike, heads: int = 12) -> tuple[PyTree, Sizes]:
  """Reads weights of a ViT from a model.safetensors of the package transformers.

  For example google/vit-base-patch16-224 or, without a classifier, its -in21k.

  Args:
    path: of the file.
    heads: of attention, which the file does not hold.

  Returns:
    Float32 parameters of `vit`, without 'head' where the file has no
    classifier; and its sizes.

  Raises:
    ValueError: no such file, or no safetensors; a tensor is missing, unknown or
      of another shape; `heads` does not divide the width.
  """
  tensors = weights.without('vit.', weights.tensors(path))
  if (absent := {_REST['positions'], _weight('patches')} - {*tensors}) or (
    tensors[_weight('patches')].ndim != 4
  ):
    raise ValueError(
      f'{path} has no {" and no ".join(sorted(absent)) or "convolution"} and so'
      ' is no vision transformer of the package transformers: give the'
      ' model.safetensors of one'
    )
  sizes = _sizes(tensors, heads)
  outputs = len(tensors.get('classifier.weight', ' '))
  init, _ = vit(outputs, sizes)
  wanted = jax.eval_shape(init, jax.random.key(0))
  if 'classifier.weight' not in tensors:
    del wanted['head']
  params = weights.fitted(
    path,
    tensors,
    wanted,
    _name,
    lambda _, tensor: _from_torch(tensor),
    'give the model.safetensors of a ViTModel or ViTForImageClassification',
    _UNUSED,
  )
  return params, sizes


def _sizes(tensors, heads):
  width, channels, patch, _ = tensors[_weight('patches')].shape
  count = round((tensors[_REST['positions']].shape[-2] - 1) ** 0.5)
  blocks = {n.split('.')[2] for n in tensors if n.startswith('encoder.layer.')}
  hidden = tensors.get('encoder.layer.0.intermediate.dense.bias', ())
  return Sizes(
    count * patch, channels, patch, width, heads, len(blocks), len(hidden)
  )


def _weight(name):
  return f'{_REST[name]}.weight'


def _name(path):
  """The file's name of a leaf of ours."""
  if '/' not in path:
    return _REST[path]  # no layer, which has a weight
  return weights.name_of(path, {**_BLOCK, **_REST}, 'encoder.layer', 'Block_')


def _from_torch(tensor):
  """From torch's layout: [O, I] and [O, C, H, W] to [I, O], [1, 1, W] to [W]."""
  tensor = np.asarray(tensor, np.float32)
  if tensor.ndim == 4:
    return tensor.transpose(2, 3, 1, 0).reshape(-1, len(tensor))
  if tensor.ndim == 3:
    return tensor[0] if tensor.shape[1] > 1 else tensor[0, 0]
  return tensor.T
