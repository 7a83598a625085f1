"""The text after a config file's colon, and what differs from a config."""

import copy


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
      raise ValueError(
        f'unknown config argument {name!r}: use one of {sorted(defaults)}'
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
