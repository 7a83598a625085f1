"""Decoders that others trained, to be trained further."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip('safetensors')

from tda_jax.models import decoder, fine_tuned, read_decoder
from tda_jax.problem import bound
from tda_jax.storage import fingerprint
from tda_jax.training import members
from tda_jax.training.fit import Recipe

DATA = pathlib.Path(__file__).parent / 'data'
LLAMA, GPT2 = DATA / 'llama_bytes', DATA / 'gpt2_bytes'
ROW = {
  'ids': np.arange(5, dtype=np.int32),
  'targets': np.arange(1, 6, dtype=np.int32),
  'mask': np.ones(5, np.float32),
}


def by_hand(path):
  """(parameters of scanned blocks, logits of ROW)."""
  params, sizes = read_decoder.read(path)
  params = decoder.stacked(params)
  apply = decoder.decoder(sizes._replace(scanned=True))[1]
  return params, apply(params, ROW['ids'][None])[0]


def key():
  return jax.eval_shape(lambda: jax.random.key(0))


def test_a_whole_model_starts_at_its_weights():
  params, logits = by_hand(GPT2)
  model = fine_tuned.read(GPT2)
  made = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 2))
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, np.stack([b, b])),
    made,
    params,
  )
  assert model.frozen is None and model.problem.as_leaf == ('embedding',)
  np.testing.assert_array_equal(model.problem.outputs(params, ROW), logits)
  assert fine_tuned.whole(model, params) is params


def test_its_weights_are_in_no_program_and_known_by_their_digest(tmp_path):
  model = fine_tuned.read(GPT2)
  rate = lambda total: optax.constant_schedule(0.1)
  recipe = Recipe(model.init, lambda total: optax.sgd(0.1), rate, 4, 1)
  keys = jax.random.split(jax.random.key(0), 2)
  program = members.start.lower(recipe, 4, keys).as_text()
  size = sum(x.nbytes for x in jax.tree.leaves(by_hand(GPT2)[0]))
  assert len(program) < size / 2  # hexadecimal digits would be twice it
  shutil.copytree(GPT2, tmp_path / 'copy')
  again = fine_tuned.read(tmp_path / 'copy')
  file = tmp_path / 'copy' / 'model.safetensors'
  data = bytearray(file.read_bytes())
  data[-4] ^= 1
  file.write_bytes(data)
  other = fine_tuned.read(tmp_path / 'copy')
  first, same, changed = (
    fingerprint.of_function(m.init, key()) for m in (model, again, other)
  )
  assert first == same != changed


def test_adapters_change_nothing_at_first_and_are_merged():
  params, logits = by_hand(LLAMA)
  model = fine_tuned.read(LLAMA, rank=2, alpha=4.0)
  jax.tree.map(np.testing.assert_array_equal, model.frozen, params)
  adapters = model.init(jax.random.key(0))
  assert {*adapters} == {
    f'blocks/{name}/kernel'
    for name in ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
  }
  outputs = jax.jit(model.problem.outputs)
  got = outputs(adapters, ROW, model.frozen)
  np.testing.assert_allclose(got, logits, rtol=1e-5, atol=1e-6)
  moved = jax.tree.map(lambda x: x + 0.1, adapters)
  whole = fine_tuned.whole(model, moved, model.frozen)
  apply = decoder.decoder(model.sizes)[1]
  want = apply(whole, ROW['ids'][None])[0]
  assert np.abs(want - logits).max() > 1e-2
  got = outputs(moved, ROW, model.frozen)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  loss = bound(model.problem, model.frozen).loss(got, ROW)
  assert jnp.isfinite(loss)


@pytest.mark.parametrize(
  'options, said',
  [
    ({'rank': 2, 'targets': ('nope',)}, "targets='nope' fits no parameter"),
    ({'rank': 99}, 'rank=99 for blocks/down/kernel .* give 1 to 16'),
    ({'leave_out': ('nope',)}, "leave_out='nope' fits no parameter"),
  ],
)
def test_what_fits_no_parameter_is_a_sentence(options, said):
  with pytest.raises(ValueError, match=said):
    fine_tuned.read(LLAMA, **options)


def test_an_embedding_left_out_is_no_leaf():
  model = fine_tuned.read(GPT2, leave_out=('embedding', 'positions'))
  assert model.problem.leave_out == ('embedding', 'positions')
  assert model.problem.as_leaf == ()
  assert json.loads((GPT2 / 'config.json').read_text())['vocab_size'] == 300
