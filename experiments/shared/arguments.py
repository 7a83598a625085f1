"""The text after a config file's colon, and what differs from a config."""

import copy
import difflib
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from experiments.shared import grammar


def parse(text: str | None, **defaults):
  """'smoke,members=3' -> {'smoke': True, 'members': 3, ...defaults}.

  A value has the type of its default; a bare name is True.

  Raises:
    ValueError: a name that is not among the defaults, or a value of another
      type.
  """
  values = dict(defaults)
  for name, value, _ in grammar.terms(text):
    if name not in defaults:
      near = difflib.get_close_matches(name, defaults, 1)
      hint = f' (did you mean {near[0]}?)' if near else ''
      raise ValueError(
        f'unknown config argument {name!r}: use one of {sorted(defaults)}{hint}'
      )
    kind = type(defaults[name])
    if kind is bool:
      if value not in (None, 'True', 'False'):
        raise ValueError(f'{name}={value}: give True or False')
      values[name] = value != 'False'
    else:
      try:
        values[name] = kind(value or '')
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
  (`experiments.shared.unread`). It is no field, so that no record holds it; a copy of
  the config does not know it. Flags for fields that the config does not have end
  here, where ml_collections would only say the field's name.

  Raises:
    ValueError: `sys.argv` gives this file as --config, and such a flag.
  """
  file = pathlib.Path(get_config.__code__.co_filename)

  @functools.wraps(get_config)
  def with_shipped(arg=None):
    config = get_config(arg)
    named = (given(sys.argv, 'config') or '').partition(':')[0]
    if named and pathlib.Path(named).resolve() == file.resolve():
      if sentence := unknown_override(config, sys.argv):
        raise ValueError(sentence)
    object.__setattr__(config, '_shipped', dict(flat(config)))
    return config

  return with_shipped


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


def given(argv: list[str], name: str) -> str | None:
  """The last value that the arguments give a flag."""
  found = None
  for i, argument in enumerate(argv):
    for dashes in ('--', '-'):
      if argument == f'{dashes}{name}' and i + 1 < len(argv):
        found = argv[i + 1]
      if argument.startswith(f'{dashes}{name}='):
        found = argument.partition('=')[2]
  return found


def unknown_override(config, argv: list[str]) -> str | None:
  """The sentence for a flag of a field that the config does not have, if any."""
  paths = [a.lstrip('-').partition('=')[0] for a in argv[1:]]
  paths = [p.removeprefix('config.') for p in paths if p.startswith('config.')]
  known = [path for path, _ in flat(config)]
  sections = {
    '.'.join(path.split('.')[:depth])
    for path in known
    for depth in range(1, path.count('.') + 1)
  }
  for path in paths:
    if path in known or path in sections or path in config:
      continue
    section = path.rpartition('.')[0]
    near = difflib.get_close_matches(path, known, 1)
    beside = [p for p in known if p.rpartition('.')[0] == section]
    hint = f': did you mean --config.{near[0]}?' if near else ''
    if section and beside:
      hint += f' ({section} has {", ".join(p.split(".")[-1] for p in beside)})'
    return f'--config.{path} is no field of this config{hint}'
  return None
