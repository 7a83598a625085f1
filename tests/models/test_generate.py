"""Generation with kept keys and values equals generation without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_decoder import FAMILIES, LLAMA, jitted, params

from tda_jax.models import decoder, generate

PROMPTS = [[3, 4, 5, 6, 7], [9], [1, 2, 3]]
STEPS = 4


def slowly(sizes, prompt, steps=STEPS):
  """Greedy ids, each from the whole row before it, padded to one length."""
  row = [*prompt]
  for _ in range(steps):
    ids = np.zeros((1, 12), np.int32)
    ids[0, : len(row)] = row
    at = jitted(sizes)(params(sizes), ids)[0, len(row) - 1]
    row.append(int(jnp.argmax(at)))
  return row[len(prompt) :]


def quickly(sizes, prompts=PROMPTS, steps=STEPS, **options):
  own = params(sizes._replace(scanned=False))
  own = decoder.stacked(own) if sizes.scanned else own
  return generate.generate(sizes, own, prompts, steps, **options)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('scanned', [False, True])
def test_a_cache_changes_nothing(family, scanned):
  sizes = FAMILIES[family]
  got = quickly(sizes._replace(scanned=scanned))
  want = [slowly(sizes, prompt) for prompt in PROMPTS]
  np.testing.assert_array_equal(got, want)
  assert len({*np.ravel(want)}) > 2


def test_logits_with_a_cache_are_those_without():
  ids = np.array([[3, 4, 5, 6, 7, 8], [9, 1, 2, 3, 3, 3]], np.int32)
  cache = decoder.empty(LLAMA, 2, 8)
  own, places = params(LLAMA), np.broadcast_to(np.arange(6), ids.shape)
  call = jax.jit(decoder.continued, static_argnums=0)
  first, cache = call(LLAMA, own, ids[:, :4], places[:, :4], cache)
  second, _ = call(LLAMA, own, ids[:, 4:], places[:, 4:], cache)
  got = np.concatenate([first, second], 1)
  np.testing.assert_allclose(got, jitted(LLAMA)(own, ids), rtol=1e-5, atol=1e-5)


def test_arrays_are_padded_on_the_right():
  ids = np.full((3, 5), 16, np.int32)
  for row, prompt in zip(ids, PROMPTS, strict=True):
    row[: len(prompt)] = prompt
  got = quickly(LLAMA, ids, lengths=np.array([5, 1, 3]))
  np.testing.assert_array_equal(got, quickly(LLAMA))
  np.testing.assert_array_equal(quickly(LLAMA, ids[:1]), got[:1])


def test_draws_are_by_key_and_row_and_of_the_softmax():
  keys = jax.random.split(jax.random.key(0), 2)
  draw = lambda key, **more: quickly(LLAMA, key=key, temperature=2.0, **more)
  first = draw(keys[0])
  np.testing.assert_array_equal(first, draw(keys[0]))
  np.testing.assert_array_equal(first[:1], draw(keys[0], prompts=PROMPTS[:1]))
  assert np.any(first != draw(keys[1]))
  np.testing.assert_array_equal(
    quickly(LLAMA, key=keys[0], temperature=1e-4), quickly(LLAMA)
  )
  even = quickly(LLAMA, key=keys[0], temperature=1e6)  # all ids as likely
  assert all(len({*row}) > 1 for row in even.tolist())
  count = 2000
  drawn = draw(keys[0], prompts=[PROMPTS[0]] * count, steps=1)
  at = jitted(LLAMA)(params(LLAMA), np.array([PROMPTS[0]]))[0, -1]
  want = np.asarray(jax.nn.softmax(at / 2.0))
  got = np.bincount(drawn[:, 0], minlength=17) / count
  assert np.abs(got - want).max() < 4 * np.sqrt(0.25 / count)
  assert np.abs(got - np.asarray(jax.nn.softmax(at))).max() > 0.05


def test_after_the_end_of_a_text_there_is_nothing_else():
  plain = quickly(LLAMA)
  end = int(plain[0, 1])
  got = quickly(LLAMA, end=end)
  for row, whole in zip(got, plain, strict=True):
    stop = [*whole].index(end) if end in whole else STEPS
    np.testing.assert_array_equal(row[:stop], whole[:stop])
    assert (row[stop:] == end).all()
  assert (got[0, 1:] == end).all()
  # All rows have ended: the rest is filled without being computed.
  assert (quickly(LLAMA, PROMPTS[:1], end=end)[0, 1:] == end).all()


def test_padding_of_an_array_may_have_any_ids():
  rows = np.array([[3, 1, 4], [2, 7, -100]])
  got = quickly(LLAMA, rows, lengths=[3, 2])
  np.testing.assert_array_equal(got[1], quickly(LLAMA, [[2, 7]])[0])


@pytest.mark.parametrize(
  'change, message',
  [
    ({'prompts': [[3], []]}, 'lengths of prompts are 0 to 1 of 1 ids: give at'),
    ({'prompts': np.ones((1, 2)), 'lengths': [3]}, 'lengths of prompts are 3'),
    ({'prompts': np.ones((3, 2)), 'lengths': [2]}, '1 lengths for 3 prompts'),
    ({'prompts': [[3], [-1]]}, 'have the id -1, and the model has ids 0 to'),
    ({'prompts': [[10**6]]}, 'the id 1000000, .*: use the tokenizer that'),
    ({'lengths': [1, 2, 3]}, 'lists of ids have their own lengths'),
    ({'temperature': 1.0}, 'temperature=1.0 draws: give 0 .* and a key'),
    ({'temperature': -1.0}, 'temperature=-1.0 is below 0: give 0'),
    ({'steps': 0}, 'steps=0: give at least 1'),
    ({'steps': 2.5}, 'steps=2.5: give at least 1, a whole number'),
    ({'prompts': []}, 'there is no prompt: give at least one'),
    ({'prompts': ['abc']}, 'prompt 0 is no list of ids: give those'),
    ({'prompts': [[3], [3.5, 4]]}, 'prompt 1 is no list of ids'),
    (
      {'prompts': np.full((1, 2), 0.5)},
      r'prompts are float64\[1, 2\]: give ids',
    ),
    ({'end': 10**6}, 'end=1000000 is no id of the model'),
    ({'steps': 12}, '17 tokens, and the model has 16 positions: cut'),
  ],
)
def test_what_cannot_be_continued_gets_one_sentence(change, message):
  with pytest.raises(ValueError, match=message):
    quickly(LLAMA, **change)
