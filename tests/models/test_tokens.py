"""Tokenizers of files: how texts are cut, and a sentence for each bad file."""

import re

import pytest

from tda_jax.models import tokens

LETTERS = [*'abcdeé. 0123456789']  # of the texts here
TEXT = 'abc bcd 1234 é'


def units():
  """The bytes of the texts, as byte-level BPE writes them."""
  pre_tokenizers = pytest.importorskip('tokenizers').pre_tokenizers
  level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  found = {c for x in LETTERS for c in level.pre_tokenize_str(x)[0][0]}
  return sorted(found)


WORDS = ['<end>', '<begin>', '<added>', 'ab', 'bc', '12', '34', '1234', 'abc']
MERGES = ['a b', 'b c', '1 2', '3 4', '12 34', 'ab c']


def gguf_file(path, **changed):
  gguf = pytest.importorskip('gguf')
  writer = gguf.GGUFWriter(path, 'llama')
  given = {
    'model': 'gpt2',
    'pre': 'smollm',
    'tokens': [*WORDS, *units()],
    'token_type': [3, 3, 4] + [1] * (len(WORDS) - 3 + len(units())),
    'merges': MERGES,
    'bos_token_id': 1,
    'eos_token_id': 0,
    **changed,
  }
  for name, value in given.items():
    name = f'tokenizer.ggml.{name}'
    if isinstance(value, list):
      writer.add_array(name, value)
    elif isinstance(value, bool):
      writer.add_bool(name, value)
    elif value is not None:
      add = writer.add_uint32 if isinstance(value, int) else writer.add_string
      add(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


CUTS = {
  # Digits alone; their merges are never used.
  'smollm': 'abc|Ġ|bc|d|Ġ|1|2|3|4|Ġ|Ã|©',
  'gpt-2': 'abc|Ġ|bc|d|Ġ|1234|Ã|©',
  # Up to three digits at once, and no space before them.
  'llama-bpe': 'abc|Ġ|bc|d|Ġ|12|3|4|Ġ|Ã|©',
  'qwen2': 'abc|Ġ|bc|d|Ġ|1|2|3|4|Ġ|Ã|©',
}


@pytest.mark.parametrize('cut', CUTS)
def test_tokenizers_of_gguf_cut_texts_as_they_are_named(tmp_path, cut):
  path = gguf_file(tmp_path / 'm.gguf', pre=cut, add_bos_token=False)
  tokenizer = tokens.read(path)
  got = tokenizer.encode(TEXT)
  want = CUTS[cut].replace('1234|Ã', '1234|Ġ|Ã')
  assert got.tokens == want.split('|')
  assert tokenizer.decode(got.ids) == TEXT


def test_special_tokens_are_not_cut(tmp_path):
  tokenizer = tokens.read(gguf_file(tmp_path / 'm.gguf'))
  ids = tokenizer.encode('<begin>ab<added><end>').ids
  assert ids == [1, 3, 2, 0]
  assert tokenizer.decode(ids) == 'ab<added>'  # which is no special one


@pytest.mark.parametrize(
  'changed, ids',
  [
    ({}, [3]),
    ({'add_bos_token': True}, [1, 3]),
    ({'add_bos_token': True, 'add_eos_token': True}, [1, 3, 0]),
    ({'add_eos_token': True}, [3, 0]),
    ({'pre': 'llama-bpe'}, [1, 3]),  # as llama.cpp, where the file is silent
    ({'pre': 'llama-bpe', 'add_bos_token': False}, [3]),
  ],
)
def test_texts_begin_and_end_as_the_file_says(tmp_path, changed, ids):
  tokenizer = tokens.read(gguf_file(tmp_path / 'm.gguf', **changed))
  assert tokenizer.encode('ab').ids == ids


def test_tokenizer_json_and_its_folder(tmp_path):
  made = tokens.read(gguf_file(tmp_path / 'm.gguf'))
  made.save(str(tmp_path / 'tokenizer.json'))
  want = made.encode(TEXT).ids
  for path in (tmp_path, tmp_path / 'tokenizer.json'):
    assert tokens.read(path).encode(TEXT).ids == want


def test_a_tokenizer_of_more_ids_than_the_model_is_refused(tmp_path):
  tokenizer = tokens.read(gguf_file(tmp_path / 'm.gguf'))
  count = len(WORDS) + len(units())
  tokens.check(tokenizer, count)
  message = rf'has id {count - 1} \(.*and the model has {count - 1} ids: give'
  with pytest.raises(ValueError, match=message):
    tokens.check(tokenizer, count - 1)


@pytest.mark.parametrize(
  'changed, message',
  [
    ({'model': 'llama'}, "has tokenizer.ggml.model='llama', and only gpt2 are"),
    (
      {'pre': 'falcon'},
      "has tokenizer.ggml.pre='falcon', and only gpt-2, smol",
    ),
    ({'pre': None}, 'has tokenizer.ggml.pre=None, and only'),
    ({'merges': None}, 'has no tokens or merges in its metadata: give the tok'),
  ],
)
def test_other_gguf_files_get_one_sentence(tmp_path, changed, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    tokens.read(gguf_file(tmp_path / 'm.gguf', **changed))


def test_absent_and_damaged_files_get_one_sentence(tmp_path):
  pytest.importorskip('tokenizers')
  with pytest.raises(ValueError, match='there is no .*tokenizer.json: give a'):
    tokens.read(tmp_path)
  (tmp_path / 'tokenizer.json').write_text('{"a": ')
  with pytest.raises(ValueError, match='damaged, or no tokenizer .*again'):
    tokens.read(tmp_path)
