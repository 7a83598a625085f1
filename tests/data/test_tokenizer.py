import sys

import numpy as np
import pytest

from tda_jax.data import tokenizer

TEXTS = ['the cat sat on the mat', 'the dog sat', 'a cat and a dog'] * 3


def small(vocabulary=280):
  return tokenizer.trained(TEXTS, vocabulary)


def test_a_trained_tokenizer_gives_texts_back():
  trained = small()
  assert trained.to_str() == small().to_str()
  assert trained.get_vocab_size() <= 280
  known = tokenizer.tokens(trained)
  for text in ('the cat', 'Zoë 🙂\n\n x', '<|end|> and <|padding|>'):
    ids = known.encode(text)
    assert known.decode(ids) == text
    assert tokenizer.PADDING not in ids and tokenizer.END not in ids
  assert len(known.encode('the')) == 1
  assert trained.token_to_id('<|end|>') == tokenizer.END


def test_what_a_tokenizer_is_known_by():
  of = lambda *given: tokenizer.tokens(*given).known_by
  assert of(small()) == of(small()) != of(small(270))
  spelled = small()
  spelled.encode_special_tokens = False
  assert of(spelled) != of(small())
  letters = lambda text: [ord(letter) for letter in text]
  others = lambda text: [ord(letter) + (letter == 'ß') for letter in text]
  assert of(letters) == of(lambda text: list(map(ord, text))) != of(others)
  assert of(letters, 'mine') == of(others, 'mine') == 'mine'
  assert of(small(), 'mine') == 'mine'


def test_special_tokens_are_not_added_and_are_seen_in_texts():
  from tokenizers import processors

  trained = small()
  want = trained.encode('the cat').ids
  end = ('<|end|>', tokenizer.END)
  trained.post_processor = processors.BertProcessing(end, end)
  assert trained.encode('the cat').ids == [1, *want, 1]
  known = tokenizer.tokens(trained)
  assert known.encode('the cat') == want
  assert known.decode([1, *want]) == '<|end|>the cat'


def test_wrong_tokenizers():
  cutting = small()
  cutting.enable_truncation(3)
  padding = small()
  padding.enable_padding(length=9)
  for wrong in (cutting, padding):
    with pytest.raises(
      ValueError, match='cuts or pads texts: call its no_trun'
    ):
      tokenizer.tokens(wrong)
  with pytest.raises(ValueError, match='of type list: give a function'):
    tokenizer.tokens([1, 2])
  vocabulary = {'tea': 2}
  words = lambda text: [vocabulary[word] for word in text.split()]
  with pytest.raises(ValueError, match='KeyError.*give it a name, name='):
    tokenizer.tokens(words)
  assert tokenizer.tokens(words, 'words').encode('tea tea') == [2, 2]
  with pytest.raises(ValueError, match='vocabulary=257: give at least 258'):
    small(257)


def test_ids_are_checked():
  assert tokenizer.checked(iter([]), 5, 'x').dtype == np.int32
  np.testing.assert_array_equal(tokenizer.checked((0, 4), 5, 'x'), [0, 4])
  for wrong, words in (
    ([5], 'x has the token id 5, outside of 0 to 4'),
    ([-1], 'x has the token id -1'),
    ([1.0], 'x are float64 of shape'),
    ([[1]], r'of shape \(1, 1\)'),
    ('ab', 'x are <U1'),
  ):
    with pytest.raises(ValueError, match=words):
      tokenizer.checked(wrong, 5, 'x')
  with pytest.raises(ValueError, match='outside of 0 to 2147483647'):
    tokenizer.checked([2**31], None, 'x')


def test_the_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  with pytest.raises(ValueError, match=r'pip install "tda_jax\[lm\]"'):
    small()
