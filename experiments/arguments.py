"""The text after a config file's colon, and what differs from a config."""

import copy
import difflib
import functools
from collections.abc import Callable, Iterator
from typing import Any


def parse(text: str | None, **defaults):
  """'smoke,members=3' -> {'smoke': True, 'members': 3, ...defaults}.

  A value has the type of its default; a bare name is True.

  Raises:
    ValueError: a name that is not among the defaults, or a value of another
      type.
  """
  values = dict(defaults)
  for part in filter(None, (text or '').split(',')):
    name, equals, value = part.partition('=')
    if name not in defaults:
      near = difflib.get_close_matches(name, defaults, 1)
      hint = f' (did you mean {near[0]}?)' if near else ''
      raise ValueError(
        f'unknown config argument {name!r}: use one of {sorted(defaults)}{hint}'
      )
    kind = type(defaults[name])
    if kind is bool:
      if equals and value not in ('True', 'False'):
        raise ValueError(f'{name}={value}: give True or False')
      values[name] = not equals or value == 'True'
    else:
      try:
        values[name] = kind(value)
      except ValueError:
        raise ValueError(f'{name}={value}: give a {kind.__name__}') from None
  return values


def changed(config, changes: dict):
  """A copy of the config with {'field': {'inner': value}, 'other': value}."""
  own = copy.deepcopy(config)
  with own.unlocked():
    own.update(changes)
  return own


def setting(get_config: Callable) -> Callable:
  """A config file's get_config, whose configs know what it gave.

  So that a change which nothing would read can be told from what the file has
  (`experiments.unread`). It is no field, so that no record holds it; a copy of
  the config does not know it.
  """

  @functools.wraps(get_config)
  def made(arg=None):
    config = get_config(arg)
    object.__setattr__(config, '_shipped', dict(flat(config)))
    return config

  return made


def shipped(config) -> dict | None:
  """path -> value as `get_config` gave it; None: it is not known."""
  return config.__dict__.get('_shipped')


def flat(config, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """('section.field', value) of every field; an empty section has none."""
  for key, value in config.items():
    if hasattr(value, 'items'):
      yield from flat(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value
