"""Tokenizers of language models: texts to ids and back."""

import os
import pathlib
from typing import Any

from tda_jax.models import gguf_decoder, weights

# How texts are cut before their bytes are merged, by the names of llama.cpp.
_LETTERS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_LLAMA3 = ('llama-bpe', 'llama3', 'llama-v3')
_PATTERNS = {
  'qwen2': _LETTERS % '',
  **dict.fromkeys(_LLAMA3, _LETTERS % '{1,3}'),
}
_CUTS = ('gpt-2', 'smollm', *_PATTERNS)
_CONTROL, _ADDED = 3, 4  # types of tokens


def read(path: str | os.PathLike) -> Any:
  """A `tokenizers.Tokenizer`: encode(text).ids, decode(ids).

  Args:
    path: a tokenizer.json, the folder of one, or a GGUF file.

  Raises:
    ValueError: no such file, or it is damaged; a GGUF file has a tokenizer other
      than byte-level BPE, or cuts texts in an unknown way; a package is absent.
  """
  package = _package()
  path = pathlib.Path(path)
  if path.suffix == '.gguf':
    return _of_gguf(path, package)
  path = path / 'tokenizer.json' if path.is_dir() else path
  if not path.exists():
    raise ValueError(
      f'there is no {path}: give a tokenizer.json, the folder of one, or a GGUF'
      ' file'
    )
  try:
    return package.Tokenizer.from_file(str(path))
  except Exception as error:  # the package raises no other type
    raise ValueError(
      f'{path} is damaged, or no tokenizer ({error!s:.80}): get the file again'
    ) from None


def check(tokenizer: Any, vocabulary: int) -> None:
  """Raises ValueError if the tokenizer has an id that the model does not have."""
  token, most = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
  if most >= vocabulary:
    raise ValueError(
      f'the tokenizer has id {most} ({token!r}) and the model has'
      f' {vocabulary} ids: give the tokenizer that the model was trained'
      ' with'
    )


def end(path: str | os.PathLike) -> int | None:
  """The id of the token that ends a text; None: the model's files name none.

  Args:
    path: of the model: a folder with config.json, or a GGUF file.
  """
  path = pathlib.Path(path)
  if path.suffix == '.gguf':
    given = gguf_decoder.fields(gguf_decoder.opened(path))
    return given.get('tokenizer.ggml.eos_token_id')
  named = weights.read_json(path / 'config.json').get('eos_token_id')
  return named[0] if isinstance(named, list) else named


def _package():
  try:
    import tokenizers
  except ImportError:
    raise ValueError(
      'tokenizers are read with the package tokenizers: pip install'
      ' "tda_jax[lm]"'
    ) from None
  return tokenizers


def _of_gguf(path, package):
  """The tokenizer that a GGUF file's metadata describe."""
  given = gguf_decoder.fields(gguf_decoder.opened(path))
  of = lambda name, default=None: given.get(f'tokenizer.ggml.{name}', default)
  cut = of('pre')
  for name, value, known in (
    ('model', of('model'), ('gpt2',)),
    ('pre', cut, _CUTS),
  ):
    if value not in known:
      raise ValueError(
        f'{path} has tokenizer.ggml.{name}={value!r}, and only'
        f' {", ".join(known)} are read: give the tokenizer.json of the model'
      )
  words, merges, kinds = of('tokens'), of('merges'), of('token_type') or []
  if not words or merges is None:
    raise ValueError(
      f'{path} has no tokens or merges in its metadata: give the tokenizer.json'
      ' of the model'
    )
  vocabulary = {word: i for i, word in enumerate(words)}
  pairs = [tuple(merge.split(' ', 1)) for merge in merges]
  model = package.models.BPE(vocabulary, pairs, ignore_merges=cut in _LLAMA3)
  tokenizer = package.Tokenizer(model)
  if cut == 'qwen2':
    tokenizer.normalizer = package.normalizers.NFC()
  tokenizer.pre_tokenizer = _cutting(cut, package.pre_tokenizers)
  tokenizer.decoder = package.decoders.ByteLevel()
  for word, kind in zip(words, kinds, strict=False):
    token = package.AddedToken(word, normalized=False, special=kind == _CONTROL)
    if kind == _CONTROL:
      tokenizer.add_special_tokens([token])
    elif kind == _ADDED:
      tokenizer.add_tokens([token])
  _begin_and_end(tokenizer, of, words, cut, package.processors)
  return tokenizer


def _cutting(cut, kinds):
  """Cuts texts into words, whose bytes are merged."""
  if cut == 'gpt-2':
    return kinds.ByteLevel(add_prefix_space=False)
  if cut == 'smollm':
    digits = kinds.Digits(individual_digits=True)
    return kinds.Sequence([digits, kinds.ByteLevel(add_prefix_space=False)])
  from tokenizers import Regex

  split = kinds.Split(Regex(_PATTERNS[cut]), 'isolated')
  level = kinds.ByteLevel(add_prefix_space=False, use_regex=False)
  return kinds.Sequence([split, level])


def _begin_and_end(tokenizer, of, words, cut, processors):
  """Adds the tokens that begin and end every text, where the file says so."""
  sides = {}
  for side, default in (('bos', cut in _LLAMA3), ('eos', False)):
    at = of(f'{side}_token_id')
    if of(f'add_{side}_token', default) and at is not None:
      sides[side] = (words[at], at)
  if sides:
    first, last = (
      f'{sides[side][0]} ' if side in sides else '' for side in ('bos', 'eos')
    )
    tokenizer.post_processor = processors.TemplateProcessing(
      f'{first}$A {last}'.strip(), special_tokens=[*sides.values()]
    )
