"""A cross-encoder: one number for a pair of texts that are read together.

It is an encoder of sentences (`tda_jax.models.encoder`) with a head, trained further.
What is trained are differences from the encoder's own parameters, which are 0 at
first: so that weight decay pulls towards the pretrained model, and an initialisation
needs no file.

Source: Nogueira and Cho 2019, https://arxiv.org/abs/1901.04085; the differences: Li
et al. 2018, https://arxiv.org/abs/1802.01483
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax.models.encoder import Encoder, Sizes
from tda_jax.trees import PyTree

PADDING = 0  # the id of a BERT


def cross_encoder(sizes: Sizes, trained: int) -> tuple[Callable, Callable]:
  """(init, apply): (params, ids [B, T], segments [B, T], base) -> logits [B, 1].

  logit = b + w · mean over the real tokens of the last block's x, with parameters
  base + params in the upper `trained` blocks and those of `base` elsewhere. At
  first w, b and all differences are 0.

  Args:
    sizes: of the encoder.
    trained: blocks, from the last down, that are trained with the head.

  Raises:
    ValueError: the encoder has fewer blocks, or no second kind of segment.
  """
  if not 1 <= trained <= sizes.blocks:
    raise ValueError(
      f'trained={trained} of {sizes.blocks} blocks: give 1 to {sizes.blocks}'
    )
  if sizes.kinds < 2:
    raise ValueError(
      'the encoder knows one kind of segment, and a pair has two: give a BERT with'
      ' type_vocab_size=2, as all-MiniLM-L6-v2'
    )
  model = Encoder(sizes)
  upper = [f'block_{i}' for i in range(sizes.blocks - trained, sizes.blocks)]

  def init(key: jax.Array) -> PyTree:
    ids = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(model.init, key, ids, ids == 0)['params']
    zeros = lambda of: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), of)
    head = {'kernel': jnp.zeros((sizes.width, 1)), 'bias': jnp.zeros(1)}
    return {'head': head, **{name: zeros(shapes[name]) for name in upper}}

  def apply(
    params: PyTree, ids: jax.Array, segments: jax.Array, base: PyTree
  ) -> jax.Array:
    real = ids != PADDING
    moved = {
      name: jax.tree.map(jnp.add, base[name], params[name]) for name in upper
    }
    whole = {'params': {**base, **moved}}
    x = cast(jax.Array, model.apply(whole, ids, real, segments))
    count = jnp.maximum(jnp.sum(real, 1), 1)[:, None]
    mean = jnp.sum(x, 1, where=real[..., None]) / count
    return mean @ params['head']['kernel'] + params['head']['bias']

  return init, apply


def rows(
  pairs: Sequence[tuple[str, str]], tokenizer: Any, length: int
) -> dict[str, np.ndarray]:
  """{'ids', 'segments'} int32 [N, T] of pairs, padded, cut to `length` tokens."""
  tokenizer.no_padding()
  tokenizer.enable_truncation(length)
  codes = tokenizer.encode_batch([tuple(pair) for pair in pairs])
  ids = np.full((len(pairs), length), PADDING, np.int32)
  segments = np.zeros_like(ids)
  for i, code in enumerate(codes):
    ids[i, : len(code.ids)] = code.ids
    segments[i, : len(code.ids)] = code.type_ids
  return {'ids': ids, 'segments': segments}
