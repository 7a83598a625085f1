"""The reports of a config, with swapped names: made here, or of a user's file."""

import functools

from tda_jax.data import swapped_texts, swaps


def names(config) -> tuple[tuple[str, ...], ...]:
  """(swapped name, wrong name, another name swapped for it) of each pair."""
  data = config.data
  if data.name == 'swaps':
    return swaps.names(data.pairs)
  if len(data.names) != data.pairs:
    raise ValueError(
      f'data.names has {len(data.names)} triples and data.pairs={data.pairs}: give'
      ' as many, each as NAME,WRONG NAME,OTHER NAME'
    )
  split = lambda triple: tuple(name.strip() for name in triple.split(','))
  return tuple(split(triple) for triple in data.names)


def finetuning(config, number: int) -> swaps.Reports:
  """The rows of one fine-tuning."""
  data, seed = config.data, config.seed + number
  counts = {
    name: data[name]
    for name in ('of_pair', 'of_other', 'of_wrong', 'probability', 'partial')
  }
  if data.name != 'swaps':
    counts['held_out'] = data.held_out
    return swapped_texts.finetuning(
      _texts(config), data.train, seed=seed, **counts
    )
  form = {'style': data.style, 'sentences': data.sentences}
  pairs = data.pairs
  return swaps.finetuning(data.train, seed=seed, pairs=pairs, **counts, **form)


def held_out(config, number: int) -> swaps.Reports:
  """`data.held_out` reports of each pair that the fine-tuning did not see."""
  data, seed = config.data, config.seed + number
  if data.name != 'swaps':
    return swapped_texts.held_out(_texts(config), data.held_out, seed=seed)
  form = {'style': data.style, 'sentences': data.sentences}
  return swaps.held_out(data.held_out, seed=seed, pairs=data.pairs, **form)


def corrected(config, written: str, right: str, triple: tuple) -> str:
  """What a wrong summary should be: it differs in the name, and in nothing else.

  Of reports that are made, whose summaries all have one form, the right one; of what
  people wrote, the model's own summary with the right name, because another sentence
  differs in all its words.

  Args:
    triple: the names of its pair.
  """
  name, wrong, _ = triple
  if config.data.name == 'swaps' or not swaps.has(written, wrong):
    return right
  return swaps.renamed(written, wrong, name)


def _texts(config):
  return _read(config.data.path, names(config), config.data.words)


@functools.lru_cache(4)
def _read(path, triples, words):
  """Read once for all fine-tunings."""
  return swapped_texts.read(path, triples, words)
