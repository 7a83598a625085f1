"""The one small language of a config's texts and of the command line.

  texts = term {',' term}
  term  = NAME [(':' or '=') ARGUMENT] ['*' FACTOR]

| where | example |
| :--- | :--- |
| after a config file's colon | `smoke,ablation=damping` |
| `config.method`, names alone | `exact,ekfac` |
| `config.ensemble`, `config.ensembles` | `dropout:10` |
| `config.task` | `my_module:my_function` |
| a damping that is chosen | `chosen:exact*10` |

A path is no term: what `--scores` takes of a file of several arrays,
`FILE.npz:NAME`, is read by `tda_jax.storage.foreign`.
"""

from typing import NamedTuple


class Term(NamedTuple):
  """NAME, what follows its colon or equals sign, and the factor after a star.

  An `argument` is None where there is no sign, and '' where nothing follows it.
  """

  name: str
  argument: str | None = None
  factor: float = 1.0


def term(text: str, factors: bool = False) -> Term:
  """'chosen:exact*10' -> Term('chosen', 'exact', 10.0).

  Args:
    factors: whether a factor has a meaning here.

  Raises:
    ValueError: what follows a star is no number, or there is a star where a
      factor means nothing.
  """
  if '*' in text and not factors:
    raise ValueError(
      f'{text!r} has a factor, which only a damping can have (chosen:exact*10):'
      ' leave out the star and what follows it'
    )
  text, star, factor = text.partition('*')
  signs = [i for i in map(text.find, ':=') if i >= 0]
  cut = min(signs, default=None)
  name, argument = (
    (text, None) if cut is None else (text[:cut], text[cut + 1 :])
  )
  try:
    return Term(name, argument, float(factor) if star else 1.0)
  except ValueError:
    raise ValueError(f'{text}*{factor}: give a number after the star') from None


def terms(text: str | None) -> list[Term]:
  """The terms of a text, in its order; none of an empty one."""
  parts = [part.strip() for part in (text or '').split(',')]
  return [term(part) for part in filter(None, parts)]


def names(text: str | None) -> list[str]:
  """The names of a text whose terms are names alone; none of an empty one.

  Raises:
    ValueError: a term has an argument or a factor; a comma has no name beside it.
  """
  if text and not all(part.strip() for part in text.split(',')):
    raise ValueError(
      f'{text!r} has a comma without a name beside it: take it out'
    )
  for one in (found := terms(text)):
    if one.argument is not None:
      raise ValueError(
        f'{text!r} gives {one.name!r} an argument: give names alone, with commas'
        ' between them'
      )
  return [one.name for one in found]
