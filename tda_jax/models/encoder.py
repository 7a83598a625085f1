"""An encoder of sentences: BERT, as all-MiniLM-L6-v2 is one.

The vectors of near sentences have a large inner product.

Sources: Devlin et al. 2019, https://arxiv.org/abs/1810.04805; Reimers and Gurevych
2019, https://arxiv.org/abs/1908.10084
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tda_jax.models import tokens, weights
from tda_jax.models.decoder import SMALL, attention
from tda_jax.trees import PyTree

HINT = 'give the folder of a BertModel, as all-MiniLM-L6-v2'
_NAMES = {
  'words': 'embeddings.word_embeddings',
  'positions': 'embeddings.position_embeddings',
  'kinds': 'embeddings.token_type_embeddings',
  'norm': 'embeddings.LayerNorm',
  'query': 'attention.self.query',
  'key': 'attention.self.key',
  'value': 'attention.self.value',
  'out': 'attention.output.dense',
  'attention_norm': 'attention.output.LayerNorm',
  'up': 'intermediate.dense',
  'down': 'output.dense',
  'hidden_norm': 'output.LayerNorm',
}
_UNUSED = (
  'embeddings.position_ids',
  'pooler.dense.weight',
  'pooler.dense.bias',
)


class Sizes(NamedTuple):
  """The sizes of a BERT.

  Attributes:
    vocabulary: ids.
    width: of the tokens; a multiple of `heads`.
    blocks: number of them.
    heads: of attention.
    hidden: width of the blocks' perceptrons.
    context: the longest row, in tokens.
    kinds: of segments: of one text only the first is used, of a pair two.
    epsilon: of the norms.
  """

  vocabulary: int
  width: int
  blocks: int
  heads: int
  hidden: int
  context: int
  kinds: int = 2
  epsilon: float = 1e-12


class Block(nn.Module):
  """Attention and a perceptron, each added to x, which is then normalised."""

  sizes: Sizes

  @nn.compact
  def __call__(self, x, real):
    s = self.sizes
    dense = lambda name, outputs: nn.Dense(
      outputs, kernel_init=SMALL, name=name
    )
    norm = lambda name: nn.LayerNorm(s.epsilon, name=name)
    q, k, v = (
      jnp.reshape(dense(name, s.width)(x), (*x.shape[:2], s.heads, -1))
      for name in ('query', 'key', 'value')
    )
    y = attention(q, k, v, real[:, None])
    x = norm('attention_norm')(x + dense('out', s.width)(y))
    y = nn.gelu(dense('up', s.hidden)(x), approximate=False)
    return norm('hidden_norm')(x + dense('down', s.width)(y))


class Encoder(nn.Module):
  """(ids [B, T], real [B, T], segments [B, T]) -> tokens [B, T, width]."""

  sizes: Sizes

  @nn.compact
  def __call__(self, ids, real, segments=None):
    s = self.sizes
    words = self.param('words', SMALL, (s.vocabulary, s.width))
    positions = self.param('positions', SMALL, (s.context, s.width))
    kinds = self.param('kinds', SMALL, (s.kinds, s.width))
    kind = kinds[0] if segments is None else jnp.take(kinds, segments, axis=0)
    x = jnp.take(words, ids, axis=0) + positions[: ids.shape[1]] + kind
    x = nn.LayerNorm(s.epsilon, name='norm')(x)
    for i in range(s.blocks):
      x = Block(s, name=f'block_{i}')(x, real)
    return x


def encoder(sizes: Sizes) -> tuple[Callable, Callable]:
  """(init, apply): (params, ids [B, T], real [B, T]) -> rows [B, width] of length 1.

  A row is the mean over the tokens that are real (no padding), divided by its
  length. A row of ids must have at least one that is.

  Raises:
    ValueError: `heads` does not divide `width`.
  """
  if sizes.width % sizes.heads:
    raise ValueError(
      f'width={sizes.width} is no multiple of heads={sizes.heads}: make it one'
    )
  model = Encoder(sizes)

  def init(key: jax.Array) -> PyTree:
    ids = jnp.zeros((1, 1), jnp.int32)
    return model.init(key, ids, ids == 0)['params']

  def apply(params: PyTree, ids: jax.Array, real: jax.Array) -> jax.Array:
    real = real.astype(bool)
    x = cast(jax.Array, model.apply({'params': params}, ids, real))
    mean = jnp.sum(x, 1, where=real[..., None]) / jnp.sum(real, 1)[:, None]
    return mean / jnp.maximum(
      jnp.linalg.norm(mean, axis=1, keepdims=True), 1e-12
    )

  return init, apply


def read(folder: str | os.PathLike) -> tuple[PyTree, Sizes]:
  """(float32 parameters, sizes) of a folder of the package transformers.

  Raises:
    ValueError: a file is absent or damaged; the model is no BERT, or has what
      `encoder` does not compute; a tensor is missing, unknown or of another shape.
  """
  folder = pathlib.Path(folder)
  config = weights.read_json(folder / 'config.json')
  _check(folder, config)
  fields = (
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'intermediate_size',
    'max_position_embeddings',
    'type_vocab_size',
    'layer_norm_eps',
  )
  if absent := [name for name in fields if name not in config]:
    raise ValueError(f'{folder}/config.json has no {absent[0]}: {HINT}')
  sizes = Sizes(*(config[name] for name in fields))
  wanted = jax.eval_shape(encoder(sizes)[0], jax.random.key(0))
  params = weights.fitted(
    folder,
    weights.without('bert.', weights.of_folder(folder)),
    wanted,
    lambda at: weights.name_of(at, _NAMES, 'encoder.layer'),
    weights.inputs_first,
    HINT,
    _UNUSED,
  )
  return params, sizes


def embedder(
  folder: str | os.PathLike, batch_size: int = 64
) -> Callable[[Sequence[str]], np.ndarray]:
  """embed(texts) -> float32 rows [N, width] of length 1, of a folder with a model.

  Texts of like length are encoded together, padded to powers of two in both axes,
  so that few shapes are compiled. A text longer than the model was trained for
  (its sentence_bert_config.json; else its positions) is cut there.

  Args:
    folder: with config.json, model.safetensors and tokenizer.json.
    batch_size: the most texts at once.

  Raises:
    ValueError: see `read` and `tokens.read`; the tokenizer has ids that the model
      does not have.
  """
  folder = pathlib.Path(folder)
  params, sizes = read(folder)
  tokenizer = tokens.read(folder)
  tokens.check(tokenizer, sizes.vocabulary)
  length = sizes.context
  if (own := folder / 'sentence_bert_config.json').exists():
    length = min(length, weights.read_json(own).get('max_seq_length') or length)
  tokenizer.no_padding()
  tokenizer.enable_truncation(length)
  apply = jax.jit(encoder(sizes)[1])
  params = jax.tree.map(jnp.asarray, params)

  def embed(texts: Sequence[str]) -> np.ndarray:
    rows = [code.ids for code in tokenizer.encode_batch([*texts])]
    out = np.empty((len(rows), sizes.width), np.float32)
    order = np.argsort([len(row) for row in rows], kind='stable')
    for start in range(0, len(rows), batch_size):
      chosen = order[start : start + batch_size]
      ids, real = _padded([rows[i] for i in chosen], batch_size, length)
      out[chosen] = np.asarray(apply(params, ids, real))[: len(chosen)]
    return out

  return embed


def _padded(rows, batch_size, length):
  """(ids, real), with rows and tokens up to powers of two."""
  shape = (
    min(_power(len(rows)), batch_size),
    min(_power(max(map(len, rows))), length),
  )
  ids, real = np.zeros(shape, np.int32), np.zeros(shape, bool)
  real[:, 0] = True  # of rows that are padding, whose mean is then a number
  for i, row in enumerate(rows):
    ids[i, : len(row)] = row
    real[i, : len(row)] = True
  return ids, real


def _power(count):
  """The least power of two that is no less."""
  return 1 << (count - 1).bit_length()


def _check(folder, config):
  """Raises ValueError for a config that is no BERT with means over tokens."""
  for name, known in (
    ('model_type', 'bert'),
    ('hidden_act', 'gelu'),
    ('position_embedding_type', 'absolute'),
    ('is_decoder', False),
  ):
    if (value := config.get(name, known)) != known:
      raise ValueError(
        f'{folder}/config.json has {name}={value!r}, which this encoder does not'
        f' compute ({known!r} it does): {HINT}'
      )
  pooling = folder / '1_Pooling' / 'config.json'
  if pooling.exists():
    modes = {
      name
      for name, value in weights.read_json(pooling).items()
      if name.startswith('pooling_mode') and value is True
    }
    if modes != {'pooling_mode_mean_tokens'}:
      raise ValueError(
        f'{pooling} has {", ".join(sorted(modes)) or "no pooling"}, and this'
        f' encoder takes means over tokens: {HINT}'
      )
