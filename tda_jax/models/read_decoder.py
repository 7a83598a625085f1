"""Decoders that others have trained, read from their files.

A folder of the package transformers with a Llama, Mistral, Qwen2 (SmolLM2 is a
Llama) or GPT-2, or a GGUF file. What a config says and `decoder` does not compute
is refused.
"""

import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from tda_jax.models import decoder, gguf_decoder, weights
from tda_jax.models.decoder import Sizes
from tda_jax.trees import PyTree

HINT = (
  'give the folder of a LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM'
  ' or GPT2LMHeadModel, as it was saved'
)


class _Family(NamedTuple):
  """How the package transformers names and keeps the parameters of a family.

  Attributes:
    prefix: which files of the whole model put before names, and others do not.
    block: a block's names begin with it and the block's number.
    names: our names -> its, of a block and elsewhere.
    unused: tensors of blocks that are no parameters.
  """

  prefix: str
  block: str
  names: dict[str, str]
  unused: tuple[str, ...]


_LLAMA = _Family(
  'model.',
  'layers',
  {
    'embedding': 'embed_tokens',
    'norm': 'norm',
    'head': 'lm_head',
    'attention_norm': 'input_layernorm',
    'query': 'self_attn.q_proj',
    'key': 'self_attn.k_proj',
    'value': 'self_attn.v_proj',
    'out': 'self_attn.o_proj',
    'hidden_norm': 'post_attention_layernorm',
    'gate': 'mlp.gate_proj',
    'up': 'mlp.up_proj',
    'down': 'mlp.down_proj',
  },
  ('self_attn.rotary_emb.inv_freq',),
)
_HEAD = 'lm_head.weight'
_GPT2 = _Family(
  'transformer.',
  'h',
  {
    'embedding': 'wte',
    'positions': 'wpe',
    'norm': 'ln_f',
    'head': 'lm_head',
    'attention_norm': 'ln_1',
    **dict.fromkeys(weights.PARTS, 'attn.c_attn'),
    'out': 'attn.c_proj',
    'hidden_norm': 'ln_2',
    'up': 'mlp.c_fc',
    'down': 'mlp.c_proj',
  },
  ('attn.bias', 'attn.masked_bias'),
)


def read(
  path: str | os.PathLike, dtype: Any = np.float32
) -> tuple[PyTree, Sizes]:
  """(parameters of blocks apart, sizes) of a folder or file.

  `decoder.stacked` makes them those of scanned blocks. Where a model attends to a
  window only, `context` is at most the window, within which it sees everything.

  Args:
    path: folder with config.json and model.safetensors, or its parts and their
      index; or a GGUF file.
    dtype: of the parameters.

  Raises:
    ValueError: nothing there; a file is absent or damaged; the model is of
      another family, or its config has what `decoder` does not compute; a tensor
      is missing, unknown or of another shape.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise ValueError(f'there is no {path}: {HINT}, or a GGUF file')
  if path.suffix == '.gguf':
    return gguf_decoder.read(path, dtype)
  if not path.is_dir():
    raise ValueError(
      f'{path} is no folder and no .gguf file: {HINT}, or a GGUF file'
    )
  at = path / 'config.json'
  config = _Config(at, weights.read_json(at))
  family, sizes = _family(config)
  wanted = decoder.shapes(sizes, at)
  given = weights.without(family.prefix, weights.of_folder(path))
  if sizes.tied:
    given = _of_tied(path, given, family)
  elif _HEAD not in given:
    raise ValueError(
      f'{path} has no tensor {_HEAD}: give "tie_word_embeddings": true in {at} where'
      ' the head is the embedding; else get the file again'
    )
  blocks = range(sizes.blocks)
  params = weights.fitted(
    path,
    given,
    wanted,
    lambda at: weights.name_of(at, family.names, family.block),
    lambda at, tensor: _parameter(family, at, tensor),
    HINT,
    [f'{family.block}.{i}.{name}' for i in blocks for name in family.unused],
    dtype,
  )
  return params, sizes


class _Config(NamedTuple):
  """A config.json; what is absent and must be there gets a sentence."""

  path: pathlib.Path
  values: dict[str, Any]

  def get(self, name: str, default: Any = None) -> Any:
    """The value; null counts as absent."""
    value = self.values.get(name)
    return default if value is None else value

  def number(self, name: str) -> Any:
    """A value that must be there and above 0."""
    value = self.get(name)
    if not isinstance(value, int | float) or value <= 0:
      raise ValueError(
        f'{self.path} has {name}={value!r}, which must be a number above 0: get'
        ' the file again'
      )
    return value

  def count(self, name: str) -> int:
    """A whole number that must be there and above 0."""
    value = self.number(name)
    if value != int(value):
      raise ValueError(
        f'{self.path} has {name}={value!r}, which must be a whole number: get the'
        ' file again'
      )
    return int(value)

  def refuse_but(self, name: str, *known: Any) -> None:
    """Raises ValueError if the value is none of those that are computed."""
    value = self.get(name, known[0])
    if value not in known:
      raise ValueError(
        f'{self.path} has {name}={value!r}, which this decoder does not compute'
        f' ({" or ".join(map(repr, known))} it does): give another model'
      )


def _family(config: _Config) -> tuple[_Family, Sizes]:
  """The family of a config, and its sizes."""
  makers = {
    'LlamaForCausalLM': _of_llama,
    'MistralForCausalLM': _of_llama,
    'Qwen2ForCausalLM': _of_qwen2,
    'GPT2LMHeadModel': _of_gpt2,
  }
  names = config.get('architectures')
  name = str(names[0] if isinstance(names, list) and names else names)
  if name not in makers:
    raise ValueError(f'{config.path} has architectures={names!r}: {HINT}')
  config.refuse_but('quantization_config', None)
  family = _GPT2 if name == 'GPT2LMHeadModel' else _LLAMA
  return family, makers[name](config)


def _of_llama(config: _Config) -> Sizes:
  for name in ('attention_bias', 'mlp_bias'):
    config.refuse_but(name, False)
  config.refuse_but('hidden_act', 'silu', 'swish')
  context = config.count('max_position_embeddings')
  if config.get('use_sliding_window', True):
    context = min(context, config.get('sliding_window', context))
  width, heads = (
    config.count(n) for n in ('hidden_size', 'num_attention_heads')
  )
  head = config.get('head_dim', width // heads)
  base, divisors = _rotary(config, head // 2)
  return Sizes(
    vocabulary=config.count('vocab_size'),
    width=width,
    blocks=config.count('num_hidden_layers'),
    heads=heads,
    kv_heads=config.get('num_key_value_heads', heads),
    hidden=config.count('intermediate_size'),
    context=context,
    head=0 if head * heads == width else head,
    rotary=base,
    divisors=divisors,
    epsilon=config.number('rms_norm_eps'),
    tied=config.get('tie_word_embeddings', False),
  )


def _of_qwen2(config: _Config) -> Sizes:
  window = config.get('use_sliding_window', False)
  values = {**config.values, 'use_sliding_window': window}
  config = config._replace(values=values)
  return _of_llama(config)._replace(biases='qkv')


def _of_gpt2(config: _Config) -> Sizes:
  config.refuse_but('activation_function', 'gelu_new', 'gelu_pytorch_tanh')
  config.refuse_but('scale_attn_weights', True)
  config.refuse_but('scale_attn_by_inverse_layer_idx', False)
  config.refuse_but('add_cross_attention', False)
  width, heads = config.count('n_embd'), config.count('n_head')
  return Sizes(
    vocabulary=config.count('vocab_size'),
    width=width,
    blocks=config.count('n_layer'),
    heads=heads,
    kv_heads=heads,
    hidden=config.get('n_inner', 4 * width),
    context=config.count('n_positions'),
    rotary=0.0,
    norm='layer',
    epsilon=config.number('layer_norm_epsilon'),
    activation='gelu',
    biases='all',
    tied=config.get('tie_word_embeddings', True),
  )


def _rotary(config: _Config, half: int) -> tuple[float, tuple[float, ...]]:
  """(base, divisors of the frequencies), by version 4's and 5's fields."""
  rope = {
    'rope_theta': config.get('rope_theta', 10_000.0),
    'partial_rotary_factor': config.get('partial_rotary_factor', 1.0),
    **config.get('rope_scaling', {}),
    **config.get('rope_parameters', {}),
  }
  older, newer = (
    config.get(n, {}) for n in ('rope_scaling', 'rope_parameters')
  )
  kinds = [r.get('rope_type', r.get('type')) for r in (older, newer) if r]
  if len({*kinds}) > 1:
    raise ValueError(
      f'{config.path} has rotary positions of two kinds, {kinds[0]!r} in'
      f' rope_scaling and {kinds[1]!r} in rope_parameters: leave the one out that'
      ' the model was not trained with'
    )
  rope = config._replace(values=rope)
  rope.refuse_but('partial_rotary_factor', 1.0)
  kind = rope.get('rope_type', rope.get('type', 'default'))
  base = float(rope.number('rope_theta'))
  if kind == 'default':
    return base, ()
  if kind == 'linear':
    return base, (float(rope.number('factor')),) * half
  if kind != 'llama3':
    raise ValueError(
      f'{config.path} stretches rotary positions by {kind!r}, which this decoder'
      " does not compute ('linear' and 'llama3' it does): give another model"
    )
  return base, _llama3(rope, base, half)


def _llama3(rope: _Config, base: float, half: int) -> tuple[float, ...]:
  """Llama 3's: waves much longer than the first context are stretched, short ones not.

  With r = first context / wavelength the frequency f becomes s f + (1 − s) f /
  factor, s = (r − low) / (high − low) within 0 and 1.
  """
  factor, low, high, first = (
    rope.number(name)
    for name in (
      'factor',
      'low_freq_factor',
      'high_freq_factor',
      'original_max_position_embeddings',
    )
  )
  waves = 2 * math.pi * base ** (np.arange(half) / half)
  smooth = np.clip((first / waves - low) / (high - low), 0, 1)
  return tuple(map(float, 1 / (smooth + (1 - smooth) / factor)))


def _of_tied(
  path: pathlib.Path, given: dict[str, np.ndarray], family: _Family
) -> dict[str, np.ndarray]:
  """The tensors without a head, which some files repeat, if it is the embedding."""
  embedding = given.get(f'{family.names["embedding"]}.weight')
  head = given.get(_HEAD)
  if head is None or embedding is None:
    return given
  if not np.array_equal(head, embedding):
    raise ValueError(
      f'{path} has a head {_HEAD} that is not the embedding, and config.json'
      ' says tie_word_embeddings: set it to false there if the head is the right'
      ' one, or take the head out'
    )
  return {name: x for name, x in given.items() if name != _HEAD}


def _parameter(family: _Family, at: str, tensor: np.ndarray) -> np.ndarray:
  """A tensor of a file as a parameter: matrices [I, O], GPT-2's cut in three."""
  if family is _GPT2:
    part = weights.part_of(at)
    if part in weights.PARTS:
      return weights.third(part, tensor, -1)
    return tensor.T if at == 'head' else tensor  # others are [I, O] there
  return weights.inputs_first(at, tensor)
