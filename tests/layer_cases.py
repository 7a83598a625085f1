"""Tiny models of many kinds, with the layers each must be found to have."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

B, T, V, D = 4, 3, 7, 4  # examples, positions, vocabulary, width


class Case(NamedTuple):
  outputs: Callable
  params: Any
  examples: Any
  dense: int  # number of layers of each kind
  embed: int = 0
  leaf: int = 0
  biases: int = 0
  shared: bool = False
  tolerance: float = 1e-5


def loss(outputs, example):
  """Curved in the outputs, so that every output has a gradient."""
  logits = outputs.astype(jnp.float32).reshape(-1, outputs.shape[-1])
  k = logits.shape[-1]
  labels = (jnp.arange(len(logits)) + example['y']) % k
  return -jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, k))


def normal(seed, *shape):
  # By numpy: nothing to compile.
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def examples(*shape):
  return {'x': normal(1, B, *shape), 'y': jnp.arange(B)}


def tokens():
  ids = np.array([[3, 0, 3], [6, 6, 6], [1, 2, 5], [4, 0, 1]])
  return {'x': jnp.asarray(ids), 'y': jnp.arange(B)}


def filled(shapes, scale=0.5):
  """Random parameters of these shapes."""
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(0)
  values = [
    jnp.asarray(scale * rng.standard_normal(s.shape) + 0.1, jnp.float32)
    for s in leaves
  ]
  return jax.tree.unflatten(tree, values)


def linen(module, examples, *counts, **more):
  x = jax.tree.map(lambda v: v[:1], examples['x'])
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  outputs = lambda params, e: module.apply(params, e['x'][None])[0]
  return Case(outputs, filled(shapes), examples, *counts, **more)


def nnx_model(make, examples, *counts, **more):
  model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graph, shapes, rest = nnx.split(model, nnx.Param, ...)
  rest = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), rest)
  outputs = lambda params, e: nnx.merge(graph, params, rest)(e['x'][None])[0]
  return Case(outputs, filled(shapes), examples, *counts, **more)


# --- linen ------------------------------------------------------------------


class MLP(nn.Module):
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    x = nn.tanh(nn.Dense(6, dtype=self.dtype)(x))
    x = nn.relu(nn.Dense(5, use_bias=False, dtype=self.dtype)(x))
    return nn.Dense(3, dtype=self.dtype)(x)


def mlp():
  return linen(MLP(), examples(4), 3, biases=2)


def mlp_bf16():
  case = linen(MLP(jnp.bfloat16), examples(4), 3, biases=2)
  return case._replace(tolerance=3e-2)


class CNN(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(4, (3, 3), strides=(2, 2), padding='SAME')(x)
    x = nn.Conv(4, (2, 3), padding='VALID', feature_group_count=2)(nn.tanh(x))
    x = nn.GroupNorm(2)(x)
    wide = nn.ConvTranspose(1, (2, 2), strides=(2, 2))(x)
    x = nn.Conv(2, (2, 2), kernel_dilation=2, use_bias=False)(x)
    flat = [v.reshape(v.shape[0], -1) for v in (x, wide)]
    return nn.Dense(3)(jnp.concatenate(flat, -1))


def cnn():
  return linen(CNN(), examples(7, 7, 2), 5, leaf=2, biases=4)


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    h = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h)
    return x + nn.Dense(D)(nn.gelu(nn.Dense(5)(x))), None


class LanguageModel(nn.Module):
  policy: Any = None
  scanned: bool = True

  @nn.compact
  def __call__(self, ids):
    x = nn.Embed(V, D)(ids) + self.param('position', nn.zeros, (T, D))
    block = nn.remat(Block, prevent_cse=not self.scanned, policy=self.policy)
    if self.scanned:
      stack = {'variable_axes': {'params': 0}, 'split_rngs': {'params': True}}
      x, _ = nn.scan(block, **stack, length=2)()(x, None)
    else:
      x, _ = block()(x, None)
    return nn.Dense(V)(x)


def transformer_scan_remat():
  # 4 attention projections, 2 dense, the head; the norm's scale and shift and
  # the positional table.
  return linen(LanguageModel(), tokens(), 7, 1, 3, biases=7)


def transformer_policy():
  policy = jax.checkpoint_policies.dots_saveable
  return linen(LanguageModel(policy), tokens(), 7, 1, 3, biases=7)


def transformer_loop():
  return linen(LanguageModel(scanned=False), tokens(), 7, 1, 3, biases=7)


class General(nn.Module):
  @nn.compact
  def __call__(self, x):  # [1, T, 2, 3]
    x = nn.tanh(nn.DenseGeneral((2, 3), axis=(-2, -1))(x))
    x = nn.tanh(nn.DenseGeneral(5)(x))
    x = nn.Einsum((2, 5, 3), 'bthi,hio->btho')(x)
    return nn.Dense(3)(x.reshape(-1, 6)).reshape(1, -1, 3)


def dense_general_einsum():
  # The bias of the last but one is added per head and output.
  return linen(General(), examples(T, 2, 3), 4, biases=4)


class Recurrent(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.RNN(nn.LSTMCell(4))(x)
    return nn.Dense(3)(nn.RNN(nn.GRUCell(3))(x)[:, -1])


def lstm_gru():
  return linen(Recurrent(), examples(T, 2), 15, biases=9, shared=True)


class Odd(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.PReLU()(nn.Dense(4)(x)) * self.param('scale', nn.ones, (4,))
    return nn.Dense(3)(x)


def prelu_scale():
  return linen(Odd(), examples(4), 2, leaf=2, biases=2)


# --- nnx --------------------------------------------------------------------


class Attention(nnx.Module):
  def __init__(self, rngs):
    self.embed = nnx.Embed(V, D, rngs=rngs)
    self.norm = nnx.LayerNorm(D, rngs=rngs)
    self.attend = nnx.MultiHeadAttention(2, D, decode=False, rngs=rngs)
    self.head = nnx.Linear(D, V, rngs=rngs)

  def __call__(self, ids):
    x = self.embed(ids)
    return self.head(x + self.attend(self.norm(x)))


def nnx_attention():
  return nnx_model(Attention, tokens(), 5, 1, 2, biases=5)


class Stacked(nnx.Module):
  def __init__(self, rngs):
    @nnx.split_rngs(splits=2)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(rngs):
      return nnx.Linear(D, D, rngs=rngs)

    self.blocks = make(rngs)
    self.head = nnx.Linear(D, 3, rngs=rngs)

  def __call__(self, x):
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def through(block, x):
      return nnx.remat(lambda block, x: jnp.tanh(block(x)))(block, x)

    return self.head(through(self.blocks, x))


def nnx_scan_remat():
  return nnx_model(Stacked, examples(D), 2, biases=2)


# --- dicts of arrays --------------------------------------------------------


def dict_transformer():
  """einsum, W.T, fused qkv, W[i], split, a positional table, a scale."""
  params = {
    'in': normal(3, D, 2),
    'in_bias': normal(4, D),
    'position': normal(5, T, D),
    'scale': normal(6, D),
    'qkv': normal(7, D, 3, 2, 2),
    'out': normal(8, 4, D),
    'stack': normal(9, 2, D, D) / 2,
    'stack_bias': normal(10, 2, D),
    'gated': normal(11, D, 6),
    'head': normal(12, 3, 3),
  }

  def outputs(p, e):
    x = jnp.einsum('td,od->to', e['x'], p['in']) + p['in_bias']
    x = (x + p['position']) * p['scale']
    q, k, v = jnp.moveaxis(jnp.einsum('td,dchk->tchk', x, p['qkv']), 1, 0)
    weights = jax.nn.softmax(jnp.einsum('thk,shk->hts', q, k))
    mixed = jnp.einsum('hts,shk->thk', weights, v)
    x = x + mixed.reshape(T, 4) @ p['out']
    for i in range(2):
      x = x + jnp.tanh(x @ p['stack'][i].T + p['stack_bias'][i])
    left, right = jnp.split(p['gated'], 2, -1)
    return jax.nn.silu(x @ left) * (x @ right) @ p['head']

  return Case(outputs, params, examples(T, 2), 8, leaf=2, biases=3)


def dict_nested_scan():
  params = {
    'w': normal(3, 2, 2, D, D) / 2,
    'b': normal(4, 2, 2, D),
    'head': normal(5, D, 3),
  }

  @jax.checkpoint
  def inner(x, p):
    return x + jnp.tanh(x @ p[0] + p[1]), None

  def outer(x, p):
    return jax.lax.scan(inner, x, p, reverse=True)[0], None

  def outputs(p, e):
    return jax.lax.scan(outer, e['x'], (p['w'], p['b']))[0] @ p['head']

  return Case(outputs, params, examples(D), 2, biases=1)


def dict_lora():
  params = {
    'a': normal(3, 5, 2),
    'b': normal(4, 2, 3),
    'frozen': normal(5, 5, 3),
  }

  def outputs(p, e):
    frozen = jax.lax.stop_gradient(p['frozen'])
    return e['x'] @ frozen + 0.5 * (e['x'] @ p['a']) @ p['b']

  return Case(outputs, params, examples(5), 2)


def dict_experts():
  """Matrices with a batch axis, and biases with it."""
  params = {
    'w': normal(3, 3, 4, 5),
    'b': normal(4, 3, 5),
    'v': normal(5, 3, 5, 3),
    'c': normal(6, 3, 3),
  }

  def outputs(p, e):
    h = jnp.einsum('td,edh->eth', e['x'], p['w']) + p['b'][:, None]
    y = jnp.einsum('eth,eho->eto', jnp.tanh(h), p['v']) + p['c'][:, None]
    return jnp.sum(y**2, 0)

  return Case(outputs, params, examples(2, 4), 2, biases=2)


def dict_tied():
  """An embedding that is the head too, a matrix used twice with its bias."""
  params = {'embed': normal(3, V, D), 'w': normal(4, D, D), 'b': normal(5, D)}

  def outputs(p, e):
    x = p['embed'][e['x']]
    for _ in range(2):
      x = jnp.tanh(x @ p['w'] + p['b'])
    return x @ p['embed'].T

  return Case(outputs, params, tokens(), 2, 1, biases=1, shared=True)


def dict_awkward_biases():
  """Biases that belong to no one product are held as leaves."""
  params = {
    'w': normal(3, D, D),
    'reused': normal(4, D),  # y is used without it too
    'twice': normal(5, D),
    'minus': normal(6, D),
    'both': normal(7, D),  # of two products
    'v': normal(8, D, D),
    'u': normal(9, D, D),
    'stack': normal(10, 2, D, D),
    'same': normal(11, D),  # in every step of the scan
  }

  def step(x, w, same):
    return jnp.tanh(x @ w + same), None

  def outputs(p, e):
    y = e['x'] @ p['w']
    x = jnp.tanh(y + p['reused']) + y
    x = jnp.tanh(x @ p['v'] + p['both'] + p['twice'] + p['twice'])
    x = x @ p['u'] + p['both'] - p['minus']
    step_of = functools.partial(step, same=p['same'])
    return jax.lax.scan(step_of, x, p['stack'])[0]

  return Case(outputs, params, examples(D), 4, leaf=5)


def dict_cond():
  params = {'w': normal(3, D, D), 'v': normal(4, D, D)}

  def outputs(p, e):
    x = e['x'] @ p['v']
    three = jnp.asarray(3)
    return jax.lax.cond(three > 2, lambda x: x @ p['w'], jnp.tanh, x)

  return Case(outputs, params, examples(D), 2)


FAST = (
  mlp,
  mlp_bf16,
  cnn,
  transformer_scan_remat,
  dense_general_einsum,
  lstm_gru,
  nnx_attention,
  dict_transformer,
  dict_nested_scan,
  dict_experts,
  dict_tied,
  dict_awkward_biases,
)
SLOW = (
  transformer_policy,
  transformer_loop,
  prelu_scale,
  nnx_scan_remat,
  dict_lora,
  dict_cond,
)
