"""Decoders: language models that read from left to right.

One module is Llama, Mistral, Qwen2, SmolLM2 and GPT-2: `Sizes` has what they differ
in. `tda_jax.models.read_decoder.read` reads their weights, and
`tda_jax.models.generate.generate` continues texts.

Every matrix is the whole kernel of a plain product, so that
`tda_jax.layers.find.find` sees it as a dense layer, with scanned blocks as a stack.

Sources: Radford et al. 2019 (GPT-2); Touvron et al. 2023,
https://arxiv.org/abs/2302.13971; Su et al. 2021 (rotary positions),
https://arxiv.org/abs/2104.09864; Ainslie et al. 2023 (fewer heads of keys),
https://arxiv.org/abs/2305.13245
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from tda_jax.trees import PyTree

NORMS = ('rms', 'layer')
ACTIVATIONS = ('swiglu', 'gelu')
BIASES = ('none', 'qkv', 'all')
SMALL = nn.initializers.normal(0.02)


class Sizes(NamedTuple):
  """The sizes of a decoder, and what its family has; defaults are Llama's.

  Attributes:
    vocabulary: ids.
    width: of the tokens.
    blocks: number of them.
    heads: of queries.
    kv_heads: of keys and values, each for heads / kv_heads heads of queries.
    hidden: width of the blocks' perceptrons.
    context: the longest row, in tokens.
    head: width of a head; 0: width / heads.
    rotary: base of rotary positions; 0: a learned table of `context` positions.
    divisors: of the rotary frequencies, head / 2 numbers, with which models are
      stretched to longer texts; (): all 1.
    norm: 'rms', without a mean and a bias, or 'layer'.
    epsilon: of the norms.
    activation: 'swiglu', silu(x G) * (x U); or 'gelu', in its tanh form.
    biases: 'none', 'qkv' (queries, keys, values) or 'all'; the head has none.
    tied: the head is the embedding, transposed.
    dtype: of products, 'float32' or 'bfloat16'; norms, softmax and logits are
      float32 in any case.
    remat: a block's values are computed again for its gradient, not kept.
    scanned: blocks are one scan, with parameters stacked on the leading axis:
      compiled once, whatever their number. See `stacked` and `unstacked`.
  """

  vocabulary: int
  width: int
  blocks: int
  heads: int
  kv_heads: int
  hidden: int
  context: int
  head: int = 0
  rotary: float = 10_000.0
  divisors: tuple[float, ...] = ()
  norm: str = 'rms'
  epsilon: float = 1e-5
  activation: str = 'swiglu'
  biases: str = 'none'
  tied: bool = False
  dtype: str = 'float32'
  remat: bool = False
  scanned: bool = False

  @property
  def head_width(self) -> int:
    """Width of a head."""
    return self.head or self.width // self.heads


class Where(NamedTuple):
  """What tokens know of their places; the same for all blocks.

  Attributes:
    rotation: (cosines, sines) of the rotary positions, each [B, T, 1, head / 2]; None
      without.
    visible: [B or 1, T, S]: whether token t sees the key of token s.
    slots: [B, T]: where in the cache keys and values go; None: no cache.
  """

  rotation: tuple[jax.Array, jax.Array] | None
  visible: jax.Array
  slots: jax.Array | None = None


Cache = Any  # of one block: (keys, values), each [B, S, kv_heads, head]


class Dense(nn.Module):
  """x W (+ b), in the type of x."""

  outputs: int
  bias: bool
  start: Callable

  @nn.compact
  def __call__(self, x):
    kernel = self.param('kernel', self.start, (x.shape[-1], self.outputs))
    y = x @ kernel.astype(x.dtype)
    if not self.bias:
      return y
    bias = self.param('bias', nn.initializers.zeros, (self.outputs,))
    return y + bias.astype(x.dtype)


class Norm(nn.Module):
  """A norm over the last axis, in float32; its result has the type of x."""

  kind: str
  epsilon: float

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    y = x.astype(jnp.float32)
    if self.kind == 'layer':
      y = y - jnp.mean(y, -1, keepdims=True)
    square = jnp.mean(jnp.square(y), -1, keepdims=True)
    y = y * jax.lax.rsqrt(square + self.epsilon) * scale
    if self.kind == 'layer':
      y = y + self.param('bias', nn.initializers.zeros, x.shape[-1:])
    return y.astype(x.dtype)


class Block(nn.Module):
  """Attention and a perceptron, each of a normalised x and added to it."""

  sizes: Sizes

  @nn.compact
  def __call__(self, x, where: Where, cache: Cache = None):
    s = self.sizes
    # Each block adds twice: so x keeps its size, whatever their number (GPT-2).
    added = nn.initializers.normal(0.02 / (2 * s.blocks) ** 0.5)
    dense = lambda name, outputs, start=SMALL: Dense(
      outputs, _has_bias(s, name), start, name=name
    )
    y = Norm(s.norm, s.epsilon, name='attention_norm')(x)
    heads = {'query': s.heads, 'key': s.kv_heads, 'value': s.kv_heads}
    q, k, v = (
      jnp.reshape(
        dense(name, count * s.head_width)(y), (*y.shape[:2], count, -1)
      )
      for name, count in heads.items()
    )
    if where.rotation:
      q, k = (_rotated(z, *where.rotation) for z in (q, k))
    if cache is not None:
      at = jnp.arange(len(x))[:, None], where.slots
      pairs = zip(cache, (k, v), strict=True)
      k, v = cache = tuple(c.at[at].set(z.astype(c.dtype)) for c, z in pairs)
    y = attention(q, k, v, where.visible)
    x = x + dense('out', s.width, added)(y)
    y = Norm(s.norm, s.epsilon, name='hidden_norm')(x)
    if s.activation == 'swiglu':
      y = nn.silu(dense('gate', s.hidden)(y)) * dense('up', s.hidden)(y)
    else:
      y = nn.gelu(dense('up', s.hidden)(y), approximate=True)
    return x + dense('down', s.width, added)(y), cache


class Decoder(nn.Module):
  """ids [B, T] -> (logits [B, T, V], the blocks' caches)."""

  sizes: Sizes

  @nn.compact
  def __call__(self, ids, positions, where: Where, cache=None, last=None):
    s = self.sizes
    embedding = self.param('embedding', SMALL, (s.vocabulary, s.width))
    # `take` gives NaN for an id outside, where plain indexing reads a wrong row.
    x = jnp.take(embedding, ids, axis=0)
    if not s.rotary:
      table = self.param('positions', SMALL, (s.context, s.width))
      x = x + jnp.take(table, positions, axis=0)
    x, cache = self._blocks(x.astype(s.dtype), where, cache)
    if last is not None:
      x = jnp.take_along_axis(x, last[:, None, None], 1)
    x = Norm(s.norm, s.epsilon, name='norm')(x)
    head = (
      embedding.T
      if s.tied
      else self.param('head', SMALL, (s.width, s.vocabulary))
    )
    head = head.astype(x.dtype)
    return jnp.matmul(x, head, preferred_element_type=jnp.float32), cache

  def _blocks(self, x, where, cache):
    s = self.sizes
    # A scan keeps its steps apart by itself.
    block = nn.remat(Block, prevent_cse=not s.scanned) if s.remat else Block
    if s.scanned:
      scan = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        in_axes=cast(Any, (nn.broadcast, 0)),
        length=s.blocks,
      )
      return scan(s, name='blocks')(x, where, cache)
    caches = []
    for i in range(s.blocks):
      own = None if cache is None else cache[i]
      x, own = block(s, name=f'block_{i}')(x, where, own)
      caches.append(own)
    return x, None if cache is None else caches


def decoder(sizes: Sizes) -> tuple[Callable, Callable]:
  """(init, apply): (params, ids [B, T], positions, segments) -> [B, T, V].

  The logits at a token are those of the next token, of the token and what is
  before it in its row. Rows are padded on the right, with any ids that the model
  has: then what is before the padding does not see it. Initial parameters are GPT-2's: normal with
  deviation 0.02, of matrices whose products are added to x 0.02 / sqrt(2·blocks);
  they are the same for scanned blocks.

  `positions` [B, T] or [T] are 0, 1, … unless given. `segments` [B, T] are
  numbers of documents, of which several are packed in a row: a token sees only
  tokens of its own. Give positions that start again with each.

  Raises:
    ValueError: sizes that do not fit each other. When `apply` is called: T is
      above `context`.
  """
  check(sizes)
  alone = Decoder(sizes._replace(scanned=False))

  def init(key: jax.Array) -> PyTree:
    ids = jnp.zeros((1, 1), jnp.int32)
    where = places(sizes, ids, jnp.ones((1, 1, 1), bool))
    params = alone.init(key, ids, ids, where)['params']
    return stacked(params) if sizes.scanned else params

  def apply(
    params: PyTree,
    ids: jax.Array,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
  ) -> jax.Array:
    _check_length(sizes, ids.shape[1])
    order = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    if positions is None:
      positions = order
    positions = jnp.broadcast_to(positions, ids.shape)
    visible = order[:, :, None] >= order[:, None]
    if segments is not None:
      visible &= segments[:, :, None] == segments[:, None]
    where = places(sizes, positions, visible)
    return cast(
      jax.Array,
      Decoder(sizes).apply({'params': params}, ids, positions, where)[0],
    )

  return init, apply


def shapes(sizes: Sizes, path: str | os.PathLike) -> PyTree:
  """Shapes of the parameters, of sizes that a file gave.

  Raises:
    ValueError: the sizes do not fit each other; it names the file.
  """
  try:
    init, _ = decoder(sizes)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  return jax.eval_shape(init, jax.random.key(0))


def continued(
  sizes: Sizes,
  params: PyTree,
  ids: jax.Array,
  positions: jax.Array,
  cache: PyTree,
  last: jax.Array | None = None,
) -> tuple[jax.Array, PyTree]:
  """(logits, cache) of tokens that follow those whose keys the cache has.

  Args:
    ids: [B, T].
    positions: [B, T]; keys go to the cache's slots of these numbers, and a token
      sees the slots up to its own. So a slot that holds a later token, or
      padding, must be written over before a token at its position or later is
      given.
    cache: of `empty`, or of the last call.
    last: [B]; only the logits of these tokens are computed, [B, 1, V].
  """
  length = jax.tree.leaves(cache)[0].shape[-3]
  visible = positions[:, :, None] >= jnp.arange(length, dtype=positions.dtype)
  where = places(sizes, positions, visible)._replace(slots=positions)
  out = Decoder(sizes).apply(
    {'params': params}, ids, positions, where, cache, last
  )
  return cast(tuple[jax.Array, PyTree], out)


def empty(sizes: Sizes, rows: int, length: int) -> PyTree:
  """A cache of keys and values for `rows` rows of `length` tokens.

  Raises:
    ValueError: the length is above `context`.
  """
  _check_length(sizes, length)
  shape = (rows, length, sizes.kv_heads, sizes.head_width)
  if sizes.scanned:
    shape = (sizes.blocks, *shape)
    return jnp.zeros(shape, sizes.dtype), jnp.zeros(shape, sizes.dtype)
  zeros = lambda: jnp.zeros(shape, sizes.dtype)
  return [(zeros(), zeros()) for _ in range(sizes.blocks)]


def check_form(sizes: Sizes, params: PyTree) -> None:
  """Raises ValueError where blocks are apart and `sizes` scans them, or reversed."""
  if sizes.scanned != ('blocks' in params):
    has, cure = (
      ('apart', 'stacked') if sizes.scanned else ('scanned', 'unstacked')
    )
    raise ValueError(
      f'the parameters are of blocks that are {has}, and sizes.scanned is'
      f' {sizes.scanned}: give decoder.{cure}(params), or'
      f' sizes._replace(scanned={not sizes.scanned})'
    )


def stacked(params: PyTree) -> PyTree:
  """Parameters of scanned blocks, from those of blocks apart."""
  rest = {n: x for n, x in params.items() if not n.startswith('block_')}
  blocks = [params[f'block_{i}'] for i in range(len(params) - len(rest))]
  return {**rest, 'blocks': jax.tree.map(lambda *x: jnp.stack(x), *blocks)}


def unstacked(params: PyTree) -> PyTree:
  """Parameters of blocks apart, from those of scanned ones."""
  rest = {n: x for n, x in params.items() if n != 'blocks'}
  count = len(jax.tree.leaves(params['blocks'])[0])
  own = lambda i: jax.tree.map(lambda x: x[i], params['blocks'])
  return {**rest, **{f'block_{i}': own(i) for i in range(count)}}


def matrices(params: PyTree) -> PyTree:
  """Which parameters are matrices, a tree of bools: what weight decay acts on.

  Not norms and biases; by their names, because those of scanned blocks have two
  axes as well. For `optax.adamw(rate, weight_decay=0.01, mask=matrices)`.
  """
  return jax.tree.map_with_path(
    lambda path, _: path[-1].key not in ('scale', 'bias'), params
  )


def check(sizes: Sizes) -> None:
  """Raises ValueError unless the sizes are those of a decoder."""
  for field, choices in (
    ('norm', NORMS),
    ('activation', ACTIVATIONS),
    ('biases', BIASES),
    ('dtype', ('float32', 'bfloat16')),
  ):
    if (value := getattr(sizes, field)) not in choices:
      raise ValueError(f'{field}={value!r}: choose among {choices}')
  if sizes.width % sizes.heads and not sizes.head:
    raise ValueError(
      f'width={sizes.width} is no multiple of heads={sizes.heads}: make it one,'
      ' or give head='
    )
  if sizes.heads % sizes.kv_heads:
    raise ValueError(
      f'heads={sizes.heads} is no multiple of kv_heads={sizes.kv_heads}: make it'
      ' one'
    )
  if sizes.rotary and sizes.head_width % 2:
    raise ValueError(
      f'rotary positions turn pairs, and a head is {sizes.head_width} wide: make'
      ' it even'
    )
  if len(sizes.divisors) not in (0, sizes.head_width // 2):
    raise ValueError(
      f'{len(sizes.divisors)} divisors of {sizes.head_width // 2} rotary'
      ' frequencies: give one for each, or none'
    )


def places(sizes: Sizes, positions: jax.Array, visible: jax.Array) -> Where:
  """`Where` of tokens at positions [B, T]; `visible` as there."""
  if not sizes.rotary:
    return Where(None, visible)
  half = sizes.head_width // 2
  steps = jnp.arange(half, dtype=jnp.float32) / half
  rates = 1 / jnp.float32(sizes.rotary) ** steps
  if sizes.divisors:
    rates = rates / jnp.array(sizes.divisors, jnp.float32)
  angles = positions[..., None, None].astype(jnp.float32) * rates
  return Where((jnp.cos(angles), jnp.sin(angles)), visible)


def _check_length(sizes, length):
  if length > sizes.context:
    raise ValueError(
      f'{length} tokens, and the model has {sizes.context} positions: cut the'
      ' rows, or make the model with a longer context'
    )


def _has_bias(sizes, name):
  of_query = name in ('query', 'key', 'value')
  return sizes.biases == 'all' or (sizes.biases == 'qkv' and of_query)


def _rotated(x, cosines, sines):
  """x [B, T, heads, head], the pairs (i, i + head / 2) rotated, as Llama does."""
  a, b = jnp.split(x.astype(jnp.float32), 2, -1)
  rotated = [a * cosines - b * sines, b * cosines + a * sines]
  return jnp.concatenate(rotated, -1).astype(x.dtype)


def attention(
  q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array
) -> jax.Array:
  """[B, T, heads · head], from q [B, T, heads, head] and k, v [B, S, kv_heads, head]."""
  rows, length, _, width = q.shape
  q = jnp.reshape(q, (rows, length, k.shape[2], -1, width))
  scores = jnp.einsum(
    'btkgd,bskd->bkgts', q, k, preferred_element_type=jnp.float32
  )
  scores = jnp.where(visible[:, None, None], scores / width**0.5, -1e30)
  shares = nn.softmax(scores).astype(v.dtype)
  y = jnp.einsum('bkgts,bskd->btkgd', shares, v)
  return jnp.reshape(y, (rows, length, -1))
