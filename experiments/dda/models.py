"""What is fine-tuned: decoders that are trained here, or a checkpoint of others."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from experiments.shared import decoders, texts
from tda_jax import language, trees
from tda_jax.data import swaps, tokenizer
from tda_jax.models import decoder, fine_tuned, lora, tokens
from tda_jax.problem import Problem
from tda_jax.trees import PyTree

ROOM = {True: 48, False: 20}  # tokens of a summary; True: of parts of words


class Models(NamedTuple):
  """Decoders of one kind, and how they read and write.

  Attributes:
    problem: language modelling by the parameters that are trained.
    init: key -> those parameters: of a base that is trained here, adapters, or a
      checkpoint's own.
    sizes: of the decoder.
    words: its tokenizer.
    room: the most tokens that it writes.
    frozen: of one model, what it has besides its parameters; None: nothing.
    base: parameters of fine-tuned models -> those that fine-tuning began with;
      None: bases are trained here.
    whole: (parameters, frozen) of one model -> the decoder's own.
  """

  problem: Problem
  init: Callable
  sizes: decoder.Sizes
  words: texts.Words
  room: int
  frozen: PyTree = None
  base: Callable | None = None
  whole: Callable = lambda params, frozen: params


def of(config: Any) -> Models:
  """The models of a config.

  Raises:
    ValueError: there is no such checkpoint, or it is too short for data.length.
  """
  if config.model.kind == 'checkpoint':
    return _checkpoint(config)
  model = config.model.to_dict()
  settings = {'model': model, 'length': config.data.length + ROOM[False]}
  return _trained_here(config_dict.FrozenConfigDict(settings))


@functools.lru_cache(4)
def _trained_here(config):
  """Equal settings give the same, compiled once."""
  words = texts.Words(tokenizer.by_word(swaps.vocabulary()))
  count = words.tokenizer.get_vocab_size()
  sizes = decoders.sizes(config.model, count, config.length)
  init, apply = decoder.decoder(sizes)
  problem = language.language_modeling(apply)
  return Models(problem, init, sizes, words, ROOM[False])


def _checkpoint(config):
  model, path = decoders.checkpoint(config.model), config.model.path
  words = texts.Words(tokens.read(path), tokens.end(path))
  tokens.check(words.tokenizer, model.sizes.vocabulary)
  room = ROOM[True]
  if config.data.length + room > model.sizes.context:
    raise ValueError(
      f'data.length={config.data.length} and the {room} tokens that it may write'
      f' are above the {model.sizes.context} that {path} reads: give a smaller'
      ' --config.data.length'
    )

  def base(params):
    if model.frozen is not None:
      return lora.off(params)
    return trees.repeated(model.init(jax.random.key(0)), trees.count(params))

  whole = functools.partial(fine_tuned.whole, model)
  known = (model.problem, model.init, model.sizes, words, room, model.frozen)
  return Models(*known, base, whole)
