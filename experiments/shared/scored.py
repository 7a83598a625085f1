"""The methods of a config, parsed once: what is scored, and of which models."""

import difflib
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.shared import grammar
from tda_jax.methods import registry
from tda_jax.storage import record


class Scored(NamedTuple):
  """One method of a config, and what an experiment is to do with it.

  Attributes:
    name: in the config, in tables and on disk.
    settings: its kind and the keyword arguments of `registry.make`; a damping
      that is chosen is a text yet (`dampings.resolved`).
    members: how many of the models are scored; None: all.
    models, varied, variants: of efficient_ensembles: how many models, models
      with variants, and variants of each are scored.
    projections: of language: how many times each model is scored, with draws of its
      own, of which the mean is its score; None: once.
    without: of quanda: what the method takes too long for.
    score_loss: of limited_access: the loss that a proxy's rows are scored by.
    curve: of an ablation over dampings: the line of the plot that it is of.
  """

  name: str
  settings: dict
  members: int | None = None
  models: int | None = None
  varied: int | None = None
  variants: int | None = None
  projections: int | None = None
  without: tuple[str, ...] = ()
  score_loss: str | None = None
  curve: str = ''

  @property
  def kind(self) -> str:
    """The kind of the method, one of `registry.KINDS`."""
    return self.settings['kind']


FIELDS = Scored._fields[2:]  # that are no arguments of a method


def of(config) -> dict[str, Scored]:
  """The methods that the config is to score, by name."""
  return {
    name: parse(name, settings, config.training.get('momentum'))
    for name, settings in named(config).items()
  }


def parse(name: str, settings: dict, momentum: float | None = None) -> Scored:
  """Parts a method's own settings from those of the experiment.

  Args:
    momentum: of the training, which SOURCE's learning rates are corrected by.
  """
  settings = plain(settings)
  told = {f: settings.pop(f) for f in FIELDS if f in settings}
  if settings.get('kind') == 'source' and momentum is not None:
    settings.setdefault('momentum', momentum)
  if 'without' in told:
    told['without'] = tuple(told['without'])
  return Scored(name, _typed(settings), **told)


def named(config) -> dict[str, Any]:
  """The settings that `config.method` names ('a,b'); all of them where it is ''.

  A name that the config does not have is taken as a kind with its defaults, at
  the config's damping.

  Raises:
    ValueError: it names one that is not there, or one is called like a path.
  """
  for name in config.methods:
    record.safe_name(name, 'a method of the config')
  if not config.method:
    return dict(config.methods)
  known = [*config.methods, *registry.KINDS]
  found = {}
  try:
    asked = grammar.names(config.method)
  except ValueError as error:
    raise ValueError(f'method={error}') from None
  for name in asked:
    if name not in known:
      near = difflib.get_close_matches(name.lower(), known, 1)
      hint = f' (did you mean {near[0]!r}?)' if near else ''
      raise ValueError(
        f'unknown method {name!r}{hint}: this config has'
        f' {", ".join(sorted(config.methods))}; others are'
        f' {", ".join(sorted(set(known) - set(config.methods)))}'
      )
    found[name] = (
      config.methods[name]
      if name in config.methods
      else registry.defaults(name, config)
    )
  return found


def chosen(value: Any) -> grammar.Term | None:
  """The Term of a damping that is chosen, 'chosen:NAME*FACTOR'; else None."""
  if not isinstance(value, str):
    return None
  term = (
    grammar.term(value, factors=True) if value.startswith('chosen') else None
  )
  return term if term and term.name == 'chosen' else None


def references(settings: dict) -> Iterator[str]:
  """The names that the settings' chosen dampings refer to, nested ones too."""
  for value in settings.values():
    if hasattr(value, 'items'):
      yield from references(value)
    elif found := chosen(value):
      yield found.argument


def plain(value):
  """ConfigDicts within a value as dicts, which compare by what they hold."""
  if hasattr(value, 'items'):
    return {k: plain(v) for k, v in value.items()}
  return value


def _typed(value):
  """A number where a flag put its digits in place of a text."""
  if isinstance(value, dict):
    return {k: _typed(v) for k, v in value.items()}
  try:
    return float(value) if isinstance(value, str) else value
  except ValueError:
    return value
