"""Tasks of language models: a config -> a decoder, rows of tokens, and queries."""

import functools

from ml_collections import config_dict

from experiments.shared import decoders, recipes, texts
from experiments.shared.tasks import Task
from tda_jax import language
from tda_jax.models import decoder, tokens


def documents(config) -> Task:
  """Language modelling: the next token of documents (`experiments.shared.texts`)."""
  return _of_texts(config, texts.read)


def chunks(config) -> Task:
  """Language modelling: pieces of documents one after another, two files."""
  if config.model.kind == 'checkpoint':
    decoders.check_path(config.model)
  texts.check_files(config.data)
  return _of_texts(config, texts.chunks)


def facts(config) -> Task:
  """Language modelling of statements, and questions that some of them answer."""
  return _of_texts(config, texts.facts)


def swaps(config) -> Task:
  """Summaries with swapped names, of several bases and fine-tunings: no one task."""
  del config
  raise ValueError(
    'the task swaps is of several fine-tunings, each with rows and queries of its'
    ' own: run experiments.dda'
  )


def claims(config) -> Task:
  """Language modelling of a corpus, and claims that some sentences support."""
  return _of_texts(config, lambda data, words: texts.claims(data))


def _of_texts(config, read):
  """The task of a language model on rows of tokens.

  Args:
    read: (data, the words of a model that was trained, or None) -> `texts.Texts`.
  """
  names = ('model', 'training', 'seed')
  settings = config_dict.FrozenConfigDict({n: config[n] for n in names})
  if config.model.kind == 'checkpoint':
    return _of_checkpoint(config, settings, read)
  sizes = config.data.vocabulary, config.data.length
  return Task(*_language_programs(settings, *sizes), *read(config.data, None))


def _of_checkpoint(config, settings, read):
  """The same of a decoder that was trained, by its own tokenizer."""
  model, path = decoders.checkpoint(config.model), config.model.path
  if config.data.length > model.sizes.context:
    raise ValueError(
      f'data.length={config.data.length}: {path} reads rows of at most'
      f' {model.sizes.context} tokens: give --config.data.length='
      f'{model.sizes.context} or less'
    )
  words = texts.Words(tokens.read(path), tokens.end(path))
  tokens.check(words.tokenizer, model.sizes.vocabulary)
  rows = read(config.data, words)
  problem, recipe = _fine_tuning(settings)
  return Task(problem, recipe, *rows, frozen=model.frozen)


@functools.lru_cache(4)
def _fine_tuning(config):
  """(problem, recipe) of a decoder that was trained; equal settings give the same."""
  model = decoders.checkpoint(config.model)
  return model.problem, recipes.of_config(config, model.init)


@functools.lru_cache(4)
def _language_programs(config, vocabulary, length):
  """(problem, recipe) of a decoder from scratch; equal settings give the same."""
  sizes = decoders.sizes(config.model, vocabulary, length)
  init, apply = decoder.decoder(sizes)
  return language.language_modeling(apply), recipes.of_config(config, init)
