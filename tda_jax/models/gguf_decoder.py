"""Decoders in GGUF files, the format of llama.cpp.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import os
from typing import Any

import numpy as np

from tda_jax.models import decoder, weights
from tda_jax.models.decoder import Sizes
from tda_jax.trees import PyTree

HINT = 'give the GGUF file of a Llama, Qwen2 or GPT-2, as it was converted'
_NAMES = {
  'embedding': 'token_embd',
  'norm': 'output_norm',
  'head': 'output',
  'attention_norm': 'attn_norm',
  'query': 'attn_q',
  'key': 'attn_k',
  'value': 'attn_v',
  'out': 'attn_output',
  'hidden_norm': 'ffn_norm',
  'gate': 'ffn_gate',
  'up': 'ffn_up',
  'down': 'ffn_down',
}
_GPT2_NAMES = {
  **_NAMES,
  **dict.fromkeys(weights.PARTS, 'attn_qkv'),
  'positions': 'position_embd',
}
_HEAD = 'output.weight'
# Relative distance of two roundings of a matrix, at most; of others it is about 1.
ROUNDED = 0.2
_STRETCH = 'rope_freqs.weight'  # divisors of the rotary frequencies


def read(
  path: str | os.PathLike, dtype: Any = np.float32
) -> tuple[PyTree, Sizes]:
  """(parameters of blocks apart, sizes) of a GGUF file; see `read_decoder.read`."""
  file = opened(path)
  tensors = {tensor.name: tensor for tensor in file.tensors}
  sizes, family = _sizes(path, fields(file), tensors)
  names = _GPT2_NAMES if family == 'gpt2' else _NAMES

  def parameter(at, tensor):
    value = unpacked(path, tensor)
    heads = {'query': sizes.heads, 'key': sizes.kv_heads}
    part = weights.part_of(at)
    if family == 'llama' and part in heads:
      value = _unpaired(value, heads[part])
    if family == 'gpt2' and part in weights.PARTS:
      value = weights.third(part, value, 0)
    return weights.inputs_first(at, value)

  params = weights.fitted(
    path,
    tensors,
    decoder.shapes(sizes, path),
    lambda at: weights.name_of(at, names, 'blk'),
    parameter,
    HINT,
    [_STRETCH, *([_HEAD] if sizes.tied else [])],
    dtype,
  )
  return params, sizes


def opened(path: str | os.PathLike) -> Any:
  """A `gguf.GGUFReader` of the file.

  Raises:
    ValueError: no such file, or it is damaged; the package is absent.
  """
  try:
    import gguf
  except ImportError:
    raise ValueError(
      'GGUF files are read with the package gguf: pip install "tda_jax[lm]"'
    ) from None
  try:
    return gguf.GGUFReader(path)
  except OSError as error:
    raise ValueError(f'{path} cannot be read ({error}): {HINT}') from None
  except (ValueError, IndexError, KeyError, OverflowError) as error:
    raise ValueError(
      f'{path} is damaged, or no GGUF file ({error}): get the file again'
    ) from None


def fields(file: Any) -> dict[str, Any]:
  """The metadata of an opened file."""
  return {name: field.contents() for name, field in file.fields.items()}


def _sizes(path, given, tensors) -> tuple[Sizes, str]:
  """(sizes, 'llama', 'qwen2' or 'gpt2') from the metadata and tensors."""
  family = given.get('general.architecture')
  if family not in ('llama', 'qwen2', 'gpt2'):
    raise ValueError(
      f'{path} has general.architecture={family!r}, which this decoder does not'
      f' compute: {HINT}'
    )

  def of(name, default=None) -> Any:
    value = given.get(f'{family}.{name}', default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value <= 0:
      raise ValueError(
        f'{path} has {family}.{name}={value!r} in its metadata, which must be one'
        f' number above 0: {HINT}'
      )
    return value

  embedding = tensors.get('token_embd.weight')
  if embedding is None:
    raise ValueError(f'{path} has no tensor token_embd.weight: {HINT}')
  width, heads = of('embedding_length'), of('attention.head_count')
  head = of('attention.key_length', width // heads)
  _refuse(path, given, family, head)
  sizes = Sizes(
    vocabulary=int(embedding.shape[-1]),
    width=width,
    blocks=of('block_count'),
    heads=heads,
    kv_heads=of('attention.head_count_kv', heads),
    hidden=of('feed_forward_length'),
    context=of('context_length'),
    head=0 if head * heads == width else head,
    tied=_is_tied(path, family, embedding, tensors.get(_HEAD)),
  )
  if family == 'gpt2':
    return sizes._replace(
      rotary=0.0,
      norm='layer',
      epsilon=of('attention.layer_norm_epsilon'),
      activation='gelu',
      biases='all',
    ), family
  return sizes._replace(
    rotary=of('rope.freq_base', 10_000.0),
    divisors=_divisors(path, of, tensors.get(_STRETCH), head // 2),
    epsilon=of('attention.layer_norm_rms_epsilon'),
    biases='qkv' if family == 'qwen2' else 'none',
  ), family


def _is_tied(path, family, embedding, head) -> bool:
  """Whether the head is the embedding: left out, or the same once more.

  A GPT-2's is in any case, though often written twice, in types that are rounded
  apart; only a head that is another one is kept.
  """
  if head is None:
    return True
  if head.tensor_type == embedding.tensor_type:
    return np.array_equal(head.data, embedding.data)
  if family != 'gpt2' or (*head.shape,) != (*embedding.shape,):
    return False
  one, other = unpacked(path, embedding), unpacked(path, head)
  return bool(np.linalg.norm(one - other) < ROUNDED * np.linalg.norm(one))


def _divisors(path, of, stretch, half) -> tuple[float, ...]:
  """Of the rotary frequencies: a factor for all, and a tensor with one for each."""
  factor = float(of('rope.scaling.factor', 1.0))
  if stretch is not None:
    return tuple(map(float, factor * np.asarray(unpacked(path, stretch))))
  return () if factor == 1 else (factor,) * half


def _refuse(path, given, family, head):
  """Raises ValueError for metadata that change the function."""
  for name, known in (
    ('rope.dimension_count', head),
    ('attention.value_length', head),
    ('rope.scaling.type', 'none'),
    ('expert_count', 0),
    ('attention.sliding_window', 0),
    ('attention.scale', 0),
  ):
    value = given.get(f'{family}.{name}', known)
    if value != known and (name, value) != ('rope.scaling.type', 'linear'):
      raise ValueError(
        f'{path} has {family}.{name}={value!r}, which this decoder does not'
        f' compute ({known!r} it does): give another model'
      )


def unpacked(path: str | os.PathLike, tensor: Any) -> np.ndarray:
  """The numbers of a tensor of an opened file, [O, I].

  Raises:
    ValueError: the package does not know how to unpack them.
  """
  import gguf

  try:
    return gguf.dequantize(tensor.data, tensor.tensor_type)
  except NotImplementedError:
    raise ValueError(
      f'{path} has {tensor.name} as {tensor.tensor_type.name}, which the package'
      ' gguf does not unpack: give a file of another quantisation, as Q8_0 or F16'
    ) from None


def _unpaired(matrix, heads) -> np.ndarray:
  """Rows of a head from pairs (2 i, 2 i + 1), llama.cpp's, to (i, i + head / 2)."""
  shape = matrix.shape
  pairs = np.reshape(matrix, (heads, shape[0] // heads // 2, 2, *shape[1:]))
  return np.reshape(np.swapaxes(pairs, 1, 2), shape)
