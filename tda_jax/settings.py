"""The arguments of a method or an inverse, as data.

Every factory of the library keeps its arguments, nested ones too, so that the
record of a result can say what computed it.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


class Settings(NamedTuple):
  """The arguments that a factory was called with.

  Attributes:
    data: ('name', name of the factory), then (argument, value) of every
      argument; a value is a number, a string, None, or such a tuple.
    known: whether `data` has everything; an optimizer or another function is no
      data.
    product_parts: the parts of the product that the factory returned. A product
      with other parts (after `_replace`) does not have these settings.
    again: () -> the product, made anew; its `keywords` are the arguments.
  """

  data: tuple
  known: bool
  product_parts: tuple
  again: functools.partial


def kept(factory: Callable) -> Callable:
  """Makes a factory keep its arguments in the field `settings` of its products.

  Args:
    factory: (...) -> a NamedTuple of functions with a field `settings`.

  Raises:
    ValueError: by the product's factory, for an argument of another kind or out
      of range (`RULES`), named with its value.
  """
  signature = inspect.signature(factory)

  @functools.wraps(factory)
  def make(*args, **kwargs):
    try:
      given = signature.bind(*args, **kwargs)
    except TypeError as error:
      raise TypeError(
        f'{factory.__name__}: {error}; its arguments are'
        f' {", ".join(signature.parameters)}'
      ) from None
    given.apply_defaults()
    arguments = {}
    for name, value in given.arguments.items():
      more = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
      value = _plain(value) if more else _plain({name: value})[name]
      given.arguments[name] = value
      arguments.update(value if more else {name: value})
    product = factory(*given.args, **given.kwargs)
    data = tuple((name, _data(value)) for name, value in arguments.items())
    return product._replace(
      settings=Settings(
        (('name', factory.__name__), *data),
        all(_is_known(value) for value in arguments.values()),
        parts(product),
        functools.partial(make, **arguments),
      )
    )

  return make


def _plain(arguments: dict) -> dict:
  """The arguments with plain numbers; ValueError for one that breaks its rule."""
  return {
    name: RULES[name](name, value) if name in RULES else value
    for name, value in arguments.items()
  }


def _number(words: str, fits: Callable, *others) -> Callable:
  """A rule: a number that fits, as a float, or one of `others` as it is."""

  def rule(name, value):
    if isinstance(value, jax.core.Tracer):
      return value  # its value is not known yet
    if value is None or isinstance(value, (str, bool)):
      if not isinstance(value, bool) and value in others:
        return value
    elif np.ndim(value) == 0 and np.asarray(value).dtype.kind in 'iuf':
      if fits(float(value)):  # NaN fits nothing
        return value if isinstance(value, (int, float)) else float(value)
    raise ValueError(f'{name}={value!r}: give {words}')

  return rule


def _whole(name, value, least=1):
  """A rule: a whole number from 1, or from `least`."""
  plain = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
  if plain and value >= least:
    return int(value)
  raise ValueError(f'{name}={value!r}: give a whole number from {least}')


def _inverse(name, value):
  """A rule: an Inverse, or None where the factory takes none."""
  if value is None or {'fit', 'solve', 'settings'} <= {*dir(value)}:
    if not isinstance(value, type):
      return value
  raise ValueError(
    f'{name}={value!r}: give an Inverse, for example tda.ekfac(damping)'
  )


_INFINITE = float('inf')
RULES = {  # argument of a factory -> (name, value) -> the value, made plain
  'damping': _number(
    "a finite number from 0, or 'heuristic' where a method has it",
    lambda x: 0 <= x < _INFINITE,
    'heuristic',
  ),
  'tolerance': _number('a number above 0 and below 1', lambda x: 0 < x < 1),
  **dict.fromkeys(
    ('momentum', 'mix'),
    _number('a number from 0 to below 1', lambda x: 0 <= x < 1),
  ),
  'decay': _number('a number above 0, at most 1', lambda x: 0 < x <= 1),
  **dict.fromkeys(
    ('ridge', 'beta'),
    _number('a finite number from 0', lambda x: 0 <= x < _INFINITE),
  ),
  **dict.fromkeys(
    ('rate', 'temperature'),
    _number('a number above 0', lambda x: 0 < x < _INFINITE),
  ),
  'threshold': _number('a number', lambda x: x == x),
  'memory_limit': _number('a number of bytes above 0', lambda x: x > 0),
  **dict.fromkeys(
    ('step_size', 'step_per_damping', 'scale', 'l2'),
    _number('a number above 0, or None', lambda x: 0 < x < _INFINITE, None),
  ),
  **dict.fromkeys(
    (
      *('batch_size', 'max_steps', 'steps', 'rounds', 'reports', 'repeats'),
      *('decay_every', 'columns', 'projection_dim', 'segments'),
      *('queries_at_once', 'chains', 'draws'),
    ),
    _whole,
  ),
  'burn_in': lambda name, value: _whole(name, value, 0),
  'query_rank': lambda name, value: (
    None if value is None else _whole(name, value)
  ),
  'precondition': _inverse,
}

# Numbers that programs take as arguments, so that others need no other program.
# What a factory returns computes with them, and branches on none above 0; 0, None
# and strings are no arguments, and it may branch on those.
TRACED = {
  *('damping', 'ridge', 'tolerance', 'beta', 'temperature'),
  *('step_size', 'step_per_damping', 'scale'),
}


def of(product: NamedTuple) -> Settings | None:
  """The settings of a method or an inverse, or None where it has none."""
  settings = cast(Any, product).settings
  return (
    settings if settings and settings.product_parts == parts(product) else None
  )


_first_of: dict[tuple, Any] = {}


def apart(product: Any) -> tuple[Any, tuple[float, ...]]:
  """(the first product with equal settings but for TRACED numbers, these numbers).

  JAX compiles a program again for a method that is another object. Two with equal
  settings compute the same, if the settings have everything; else the product is
  its own first, without numbers. `with_numbers` joins them again.
  """
  settings = of(product)
  if settings is None or not settings.known:
    return product, ()
  first = _first_of.setdefault(_without_numbers(settings.data), product)
  return first, tuple(_numbers(settings.data))


def with_numbers(product: Any, numbers: tuple) -> Any:
  """The product made again with other numbers, of `apart`, which may be traced."""
  rest = iter(numbers)

  def renewed(product):
    again = cast(Settings, of(product)).again
    return again(**{n: other(n, v) for n, v in again.keywords.items()})

  def other(name, value):
    if _is_traced(name, value):
      return next(rest)
    return renewed(value) if hasattr(value, 'settings') else value

  return renewed(product) if numbers else product


def _is_traced(name, value) -> bool:
  plain = name in TRACED and isinstance(value, (int, float))
  return plain and bool(np.float32(value) > 0)  # or the program is given 0


def _numbers(data):
  """The traced numbers of settings, in the order of the arguments."""
  for name, value in data:
    if isinstance(value, tuple):
      yield from _numbers(value)
    elif _is_traced(name, value):
      yield float(value)


def _without_numbers(data):
  """Settings without traced numbers, with types, as 1, 1.0 and True are equal."""

  def one(name, value):
    if isinstance(value, tuple):
      return _without_numbers(value)
    return ... if _is_traced(name, value) else (type(value), value)

  return tuple((name, one(name, value)) for name, value in data)


def of_fit(product: NamedTuple) -> Settings | None:
  """The settings that what a method or an inverse fits depends on.

  They are those of the inverse that fits it, without the arguments that only the
  solve reads. None: not known.
  """
  made = cast(Any, product)
  while made.fits_as is not None:
    made = made.fits_as
  settings = of(made)
  if settings is None:
    return None
  read = lambda name: name not in made.solve_only
  return settings._replace(
    data=tuple((name, value) for name, value in settings.data if read(name))
  )


def parts(product: NamedTuple) -> tuple:
  """The fields of a product except its settings."""
  pairs = zip(product._fields, product, strict=True)
  return tuple(value for name, value in pairs if name != 'settings')


def readable(data: tuple) -> dict:
  """Settings as nested dicts, for records."""
  nested = lambda v: isinstance(v, tuple) and v and v[0][0] == 'name'
  return {name: readable(v) if nested(v) else v for name, v in data}


def _data(value: Any):
  if hasattr(value, 'settings'):
    settings = of(value)
    return settings.data if settings else 'a function'
  if isinstance(value, (bool, int, float, str, type(None))):
    return value
  if isinstance(value, np.generic):
    return value.item()
  if _is_array(value):
    return _digest(value)
  if isinstance(value, (list, tuple)) and not hasattr(value, '_fields'):
    return ', '.join(repr(_data(v)) for v in value)
  return 'a function' if callable(value) else type(value).__name__


def _is_known(value: Any) -> bool:
  if hasattr(value, 'settings'):
    settings = of(value)
    return settings is not None and settings.known
  if isinstance(value, (list, tuple)) and not hasattr(value, '_fields'):
    return all(_is_known(v) for v in value)
  plain = isinstance(value, (bool, int, float, str, type(None), np.generic))
  return plain or _is_array(value)


def _is_array(value):
  """Whether it is an array with values, not one that is being traced."""
  traced = isinstance(value, jax.core.Tracer)
  return isinstance(value, (np.ndarray, jax.Array)) and not traced


def _digest(array):
  if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
    return f'{array.dtype} {_digest(jax.random.key_data(array))}'
  array = np.asarray(array)
  kind = f'{array.dtype}{list(array.shape)} '
  return kind + hashlib.sha256(array.tobytes()).hexdigest()[:16]
