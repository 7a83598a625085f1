"""Decoders: one function in all its forms, and every matrix a dense layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers
from tda_jax.models import decoder, lora
from tda_jax.models.decoder import Sizes

LLAMA = Sizes(17, 8, 2, 4, 2, 12, 16, tied=True)
GPT2 = LLAMA._replace(
  kv_heads=4, rotary=0.0, norm='layer', activation='gelu', biases='all',
  tied=False,
)  # fmt: skip
QWEN2 = LLAMA._replace(
  biases='qkv', head=6, divisors=(1.0, 2.0, 3.0), tied=False
)
FAMILIES = {'llama': LLAMA, 'gpt2': GPT2, 'qwen2': QWEN2}
IDS = np.array([[3, 4, 5, 6, 7, 8, 9], [11, 2, 2, 16, 1, 5, 3]], np.int32)


@functools.cache
def params(sizes):
  """Parameters of blocks apart, larger than at the start: attention chooses."""
  made = jax.jit(decoder.decoder(sizes)[0])(jax.random.key(0))
  flat, back = ravel_pytree(made)
  return back(flat + 0.5 * jax.random.normal(jax.random.key(1), flat.shape))


@functools.cache
def jitted(sizes):
  return jax.jit(decoder.decoder(sizes)[1])


def logits(sizes, ids, *args):
  return jitted(sizes)(params(sizes), np.asarray(ids), *args)


def assert_close(got, want, atol=1e-5):
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol)


@pytest.mark.parametrize('family', FAMILIES)
def test_scanned_blocks_and_remat_are_the_same_function(family):
  sizes = FAMILIES[family]
  want = logits(sizes, IDS)
  assert want.shape == (2, 7, 17) and want.dtype == jnp.float32
  stacked = decoder.stacked(params(sizes))
  jax.tree.map(
    np.testing.assert_array_equal, decoder.unstacked(stacked), params(sizes)
  )
  for scanned, remat in ((False, True), (True, False), (True, True)):
    other = sizes._replace(scanned=scanned, remat=remat)
    own = stacked if scanned else params(sizes)
    assert_close(jitted(other)(own, IDS), want)


def test_initial_parameters_are_gpt2s_and_those_of_scanned_blocks():
  sizes = GPT2._replace(width=32, hidden=64, blocks=8)
  made = decoder.decoder(sizes)[0](jax.random.key(3))
  scanned = decoder.decoder(sizes._replace(scanned=True))[0](jax.random.key(3))
  jax.tree.map(np.testing.assert_array_equal, decoder.stacked(made), scanned)
  deviation = lambda name: float(np.std(scanned['blocks'][name]['kernel']))
  for name in ('query', 'key', 'value', 'up'):
    assert deviation(name) == pytest.approx(0.02, rel=0.05)
  for name in ('out', 'down'):
    assert deviation(name) == pytest.approx(0.02 / 4, rel=0.05)
  assert not np.any(scanned['blocks']['up']['bias'])


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('scanned, remat', [(False, False), (True, True)])
def test_every_matrix_is_a_dense_layer(family, scanned, remat):
  sizes = FAMILIES[family]._replace(scanned=scanned, remat=remat)
  init, apply = decoder.decoder(sizes)
  made = jax.eval_shape(init, jax.random.key(0))
  found = layers.find(lambda p, ids: apply(p, ids[None])[0], made, IDS[0])
  covered = layers.coverage(found, made)
  assert not [row for row in covered if row.kind == 'none']
  stack = (sizes.blocks,) if scanned else ()
  blocks = ('blocks',) if scanned else ('block_0', 'block_1')
  matrices = [n for n in trees.names(made) if n.endswith('kernel')]
  assert len(matrices) == len(blocks) * (6 if family == 'gpt2' else 7)
  for name in matrices:
    assert (found[name].kind, found[name].stack) == ('dense', stack)
    assert not found[name].shared
  assert found['embedding'].kind == 'embed'
  assert found['embedding#2' if sizes.tied else 'head'].kind == 'dense'
  leaves = {name for name, layer in found.items() if layer.kind == 'leaf'}
  assert all('norm' in name for name in leaves)
  if family == 'gpt2':
    assert found['positions'].kind == 'embed'
    assert found[f'{blocks[0]}/up/kernel'].bias is not None


@pytest.mark.parametrize('family', FAMILIES)
def test_padding_on_the_right_changes_nothing_before_it(family):
  sizes = FAMILIES[family]
  whole = logits(sizes, IDS)
  other = IDS.copy()
  other[:, 4:] = 1
  assert_close(logits(sizes, other)[:, :4], whole[:, :4])
  assert_close(logits(sizes, IDS[:, :4]), whole[:, :4])
  assert np.abs(logits(sizes, other) - whole)[:, 4:].max() > 0.1
  other = IDS.copy()
  other[:, 0] = 1
  assert np.abs(logits(sizes, other) - whole)[:, 5:].max() > 0.01


@pytest.mark.parametrize('family', FAMILIES)
def test_packed_documents_do_not_see_each_other(family):
  sizes = FAMILIES[family]
  segments = np.array([[1, 1, 1, 2, 2, 2, 2], [5, 5, 5, 0, 0, 0, 0]])
  positions = np.array([0, 1, 2, 0, 1, 2, 3])
  packed = logits(sizes, IDS, positions, segments)
  first, second = logits(sizes, IDS[:, :3]), logits(sizes, IDS[:, 3:])
  assert_close(packed, np.concatenate([first, second], 1))
  for given in ((None, segments), (positions, None)):
    if sizes.rotary and given[0] is None:
      continue  # what is the same for all tokens seen turns nothing
    assert np.abs(logits(sizes, IDS, *given) - packed).max() > 0.01


def test_rotary_positions_are_relative():
  moved = logits(LLAMA, IDS, np.arange(7) + 9)
  assert_close(moved, logits(LLAMA, IDS), 1e-4)
  assert np.abs(logits(LLAMA, IDS, 2 * np.arange(7)) - moved).max() > 0.01


@pytest.mark.parametrize('family', FAMILIES)
def test_bfloat16_is_close(family):
  sizes = FAMILIES[family]
  want = logits(sizes, IDS)
  got = jitted(sizes._replace(dtype='bfloat16'))(params(sizes), IDS)
  assert got.dtype == jnp.float32
  apart = np.abs(got - want).max() / np.abs(want).max()
  assert 1e-5 < apart < 0.05
  jaxpr = str(jax.make_jaxpr(jitted(sizes._replace(dtype='bfloat16')))(
    params(sizes), IDS
  ))  # fmt: skip
  assert 'bf16[2,7,12]' in jaxpr  # the perceptrons', by products in bfloat16
  assert 'bf16[2,4,2,7,7]' not in jaxpr.split('exp')[0]  # scores are not


def test_an_id_outside_is_no_silent_number():
  assert np.isnan(logits(LLAMA, [[3, 17]])[0, 1]).all()


BAD = [
  ({'heads': 3}, 'width=8 is no multiple of heads=3: make it one, or give'),
  ({'kv_heads': 3}, 'heads=4 is no multiple of kv_heads=3: make it one'),
  ({'head': 3}, 'turn pairs, and a head is 3 wide: make it even'),
  ({'divisors': (1.0,) * 3}, '3 divisors of 1 rotary frequencies: give one'),
  ({'norm': 'batch'}, "norm='batch': choose among"),
  ({'activation': 'relu'}, "activation='relu': choose among"),
  ({'biases': 'some'}, "biases='some': choose among"),
  ({'dtype': 'float16'}, "dtype='float16': choose among"),
]


@pytest.mark.parametrize('change, message', BAD, ids=[m for _, m in BAD])
def test_bad_sizes(change, message):
  with pytest.raises(ValueError, match=message):
    decoder.decoder(LLAMA._replace(**change))


def test_rows_longer_than_the_context_are_refused():
  with pytest.raises(ValueError, match='17 tokens, and the model has 16 posit'):
    logits(GPT2, np.ones((1, 17), np.int32))


@pytest.mark.parametrize('scanned', [False, True])
def test_adapters_beside_a_decoders_matrices_equal_merged_ones(scanned):
  sizes = QWEN2._replace(scanned=scanned, remat=scanned)
  base = params(QWEN2)
  base = decoder.stacked(base) if scanned else base
  apply = decoder.decoder(sizes)[1]
  last = lambda params, ids: apply(params, ids)[:, -1]
  problem = problem_lib.classification(last)
  targets = ('*/query/kernel', '*/value/kernel')
  adapters = lora.init(jax.random.key(1), base, 2, targets)
  assert len(adapters) == (2 if scanned else 4)
  adapters = jax.tree.map(lambda x: x + 0.2, adapters)
  beside = problem_lib.bound(lora.adapted(problem, 3.0), base)
  example = rows_lib.take({'x': IDS, 'y': np.array([1, 2])}, 0)
  got = jax.jit(beside.outputs)(adapters, example)
  merged = lora.merge(base, adapters, 3.0)
  assert_close(got, jax.jit(problem.outputs)(merged, example), 1e-4)
  plain = jax.jit(problem.outputs)(base, example)
  assert np.abs(got - plain).max() > 0.01
  found = layers.find(beside.outputs, adapters, example)
  assert {layer.kind for layer in found.values()} == {'dense'}
  assert sum(
    row.parameters for row in layers.coverage(found, adapters)
  ) == trees.size(adapters)


def test_matrices_are_what_weight_decay_acts_on():
  """Of scanned blocks too, whose norms and biases have two axes."""
  apart = params(GPT2)
  matrices = decoder.matrices(apart)
  assert matrices == jax.tree.map(lambda x: x.ndim > 1, apart)
  scanned = decoder.stacked(apart)
  rule = optax.adamw(0.5, weight_decay=0.1, mask=decoder.matrices)
  zero = jax.tree.map(jnp.zeros_like, scanned)
  update, _ = rule.update(zero, rule.init(scanned), scanned)
  wanted = jax.tree.map(lambda x, yes: -0.05 * yes * x, apart, matrices)
  jax.tree.map(assert_close, decoder.unstacked(update), wanted)
