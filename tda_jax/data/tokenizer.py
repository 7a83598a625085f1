"""Tokenizers: what gives the token ids of a text, and one that is trained here."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

PADDING, END = 0, 1  # ids of the special tokens of a trained tokenizer
SPECIAL = ('<|padding|>', '<|end|>')
# What a function does with it is what the function is known by.
PROBE = (
  'The quick brown fox jumps over 13 lazy dogs; "Zwölf Boxkämpfer" said nothing.\n'
  '\tdef f(x): return x**2 + 0.5  # <tag> & {braces} [1, 2] a_b-c @d $5 ~50%\n'
  'ÀÉîõü ß Ωμέγα Привет 你好 日本語 العربية 🙂'
)


class Tokens(NamedTuple):
  """A tokenizer as corpora use it.

  Attributes:
    encode: text -> token ids.
    decode: token ids -> text; None: unknown.
    known_by: differs where the tokenizer does.
  """

  encode: Callable[[str], Any]
  decode: Callable[[Sequence[int]], str] | None
  known_by: str


def tokens(
  tokenize: Any,
  name: str | None = None,
  decode: Callable[[Sequence[int]], str] | None = None,
) -> Tokens:
  """A tokenizer from what a user has.

  Args:
    tokenize: a function, text -> token ids, or a `tokenizers.Tokenizer` (of one of
      `transformers`, its `backend_tokenizer`), which adds no special tokens.
    name: by which it is known. None: a `tokenizers.Tokenizer` by its JSON, a
      function by the ids that it gives to a fixed text of many letters, which
      finds another vocabulary, not every edit of a function.
    decode: token ids -> text; None: that of a `tokenizers.Tokenizer`.

  Raises:
    ValueError: it is neither, it cuts or pads texts, or it must have a name.
  """
  if hasattr(tokenize, 'to_str') and hasattr(tokenize, 'encode'):
    if tokenize.truncation is not None or tokenize.padding is not None:
      raise ValueError(
        'the tokenizer cuts or pads texts: call its no_truncation() and'
        ' no_padding() first'
      )
    # Whether texts may spell special tokens is not in the JSON.
    rules = f'{tokenize.encode_special_tokens} {tokenize.to_str()}'
    known_by = name or _digest(rules.encode())
    whole = lambda ids: tokenize.decode(list(ids), skip_special_tokens=False)
    encode = lambda text: tokenize.encode(text, add_special_tokens=False).ids
    return Tokens(encode, decode or whole, known_by)
  if not callable(tokenize):
    raise ValueError(
      f'the tokenizer is of type {type(tokenize).__name__}: give a function of a'
      ' text that returns token ids, or a tokenizers.Tokenizer'
    )
  return Tokens(tokenize, decode, name or _by_probe(tokenize))


def checked(ids: Any, vocabulary: int | None, called: str) -> np.ndarray:
  """Token ids int32 [n] of one text.

  Args:
    vocabulary: ids are below it; None: below 2^31.
    called: the text, in errors.

  Raises:
    ValueError: they are no whole numbers in a row, or outside the vocabulary.
  """
  found = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
  if found.size == 0:
    return np.zeros(0, np.int32)
  if found.ndim != 1 or found.dtype.kind not in 'iu':
    raise ValueError(
      f'the tokens of {called} are {found.dtype} of shape {found.shape}: the'
      ' tokenizer must return whole numbers in one row'
    )
  most = 2**31 if vocabulary is None else vocabulary
  wrong = (found < 0) | (found >= most)
  if wrong.any():
    raise ValueError(
      f'{called} has the token id {found[wrong][0]}, outside of 0 to {most - 1}:'
      " give vocabulary= at least the tokenizer's, or another tokenizer"
    )
  return found.astype(np.int32)


def trained(texts: Iterable[str], vocabulary: int) -> Any:
  """A byte-level BPE tokenizer of these texts, for experiments of one's own.

  Id 0 is padding and id 1 the end of a text; neither comes from a text, also not
  from one that spells it (`encode_special_tokens`, which a saved tokenizer
  forgets). Every text has tokens, and decodes to itself.

  Source: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; on bytes,
  Radford et al. 2019.

  Args:
    vocabulary: the most ids; few texts have fewer.

  Returns:
    A `tokenizers.Tokenizer`.

  Raises:
    ValueError: the vocabulary has no room for all bytes; the package is missing.
  """
  least = 256 + len(SPECIAL)
  if vocabulary < least:
    raise ValueError(
      f'vocabulary={vocabulary}: give at least {least}, for every byte and'
      f' {len(SPECIAL)} special tokens'
    )
  try:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
  except ImportError:
    raise ValueError(
      'training a tokenizer takes the package tokenizers: pip install'
      ' "tda_jax[lm]"'
    ) from None
  made: Any = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.encode_special_tokens = True
  trainer = trainers.BpeTrainer(
    vocab_size=vocabulary,
    special_tokens=list(SPECIAL),
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(texts, trainer)
  return made


def by_word(texts: Iterable[str]) -> Any:
  """A tokenizer whose tokens are the words of these texts, apart by spaces.

  Ids 0 and 1 are those of `trained`. A word of no text is refused by whoever checks
  ids, as it has none.

  Returns:
    A `tokenizers.Tokenizer`.

  Raises:
    ValueError: the package is missing.
  """
  try:
    import tokenizers
    from tokenizers import models, pre_tokenizers
  except ImportError:
    raise ValueError(
      'a tokenizer of words takes the package tokenizers: pip install'
      ' "tda_jax[lm]"'
    ) from None
  words = sorted({word for text in texts for word in text.split()})
  ids = {word: i for i, word in enumerate((*SPECIAL, *words))}
  made: Any = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=SPECIAL[0]))
  made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return made


def _by_probe(tokenize):
  """What a function is known by: the ids of one text."""
  try:
    ids = checked(tokenize(PROBE), None, 'a text of many letters')
  except Exception as error:  # whatever the user's function raises
    raise ValueError(
      f'the tokenizer cannot be told from others ({error!r} for a text of many'
      ' letters): give it a name, name='
    ) from error
  return _digest(ids.tobytes())


def _digest(data):
  return hashlib.sha256(data).hexdigest()[:16]
