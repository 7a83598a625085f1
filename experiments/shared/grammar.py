"""The one small language of a config's texts and of the command line.

  texts = term {',' term}
  term  = NAME [(':' or '=') ARGUMENT] ['*' FACTOR]

| where | example |
| :--- | :--- |
| after a config file's colon | `smoke,ablation=damping` |
| `config.method` | `exact,ekfac` |
| `config.ensemble`, `config.ensembles` | `dropout:10` |
| `config.task` | `my_module:my_function` |
| a damping that is chosen | `chosen:exact*10` |
| `--scores` of a file of several arrays | `FILE.npz:NAME` |
"""

from typing import NamedTuple


class Term(NamedTuple):
  """NAME, what follows its colon or equals sign, and the factor after a star.

  An `argument` is None where there is no sign, and '' where nothing follows it.
  """

  name: str
  argument: str | None = None
  factor: float = 1.0


def term(text: str) -> Term:
  """'chosen:exact*10' -> Term('chosen', 'exact', 10.0).

  Raises:
    ValueError: what follows a star is no number.
  """
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
  return [term(part) for part in filter(None, (text or '').split(','))]
