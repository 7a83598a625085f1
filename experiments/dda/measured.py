"""What an experiment measured: AUC and more of every form, by part and world."""

from typing import NamedTuple

import numpy as np

from experiments.dda import estimates, forms
from experiments.dda import worlds as worlds_lib
from experiments.dda.estimates import Values
from experiments.dda.worlds import World
from experiments.shared import results
from tda_jax.evaluation import retrieval

RECALLED = 50  # k of recall@k, about the number of sources of two names
Table = dict[str, dict[str, Values]]  # form -> part -> values


class Measured(NamedTuple):
  """Values of queries, by form, part, base and fine-tuning.

  Attributes:
    auc, precision, recall: of the asked pairs of names.
    planted: AUC of the pairs whose swaps are our own, to choose by.
    wrong: part -> the shares of wrong summaries.
  """

  auc: Table
  precision: Table
  recall: Table
  planted: Table
  wrong: dict[str, Values]

  @classmethod
  def empty(cls) -> 'Measured':
    """Nothing yet."""
    return cls({}, {}, {}, {}, {})

  def add(
    self, config, part: str, at: tuple[int, int], world: World, scored: dict
  ) -> None:
    """Adds all forms of one world; `at` are the numbers of base and fine-tuning."""
    asked, planted = worlds_lib.parted(config, world)
    _put(self.wrong, part, at, np.array([world.share_wrong]))
    for name, scores in scored.items():
      each = retrieval.auc(scores, world.sources)
      k = min(RECALLED, len(scores))
      recall = retrieval.recall(scores, world.sources, k)
      precision = retrieval.average_precision(
        scores[:, asked], world.sources[:, asked]
      )
      for table, values in (
        (self.auc, each[asked]),
        (self.planted, each[planted]),
        (self.recall, recall[asked]),
        (self.precision, precision),
      ):
        _put(table.setdefault(name, {}), part, at, values)

  def chosen(self, config) -> tuple[float, str]:
    """(AUC on planted controls of the first base, the form that it is best of)."""
    best, name = -1.0, ''
    for each in forms.candidates(config.betas):
      if each not in self.planted:
        continue
      values = [of[:1] for of in self.planted[each].values() if _some(of[:1])]
      mean = estimates.average(values).value if values else np.nan
      if mean > best + 1e-9:
        best, name = mean, each
    return best, name

  def rows(self) -> list[dict]:
    """Result rows: means over parts, and AUC of each part."""
    out = []
    tables = {
      'auc': self.auc,
      'average_precision': self.precision,
      f'recall@{RECALLED}': self.recall,
    }
    for name in self.auc:
      for metric, table in tables.items():
        out.append(
          _row(name, metric, estimates.average([*table[name].values()]))
        )
      for part, values in self.auc[name].items():
        out.append(_row(name, f'auc, {part}', estimates.nested(values)))
    for part, values in self.wrong.items():
      found = estimates.nested(values)
      out.append(_row('the models', f'share wrong, {part}', found))
    return out


def others(values: Values) -> Values:
  """Of all bases but the first; of one base, of that."""
  return values[1:] or values


def _some(values):
  return any(len(v) for of in values for v in of)


def _put(table, part, at, values):
  """Appends the values of world `at`, in the order of bases and fine-tunings."""
  of_part = table.setdefault(part, [])
  while len(of_part) <= at[0]:
    of_part.append([])
  of_part[at[0]].append(values)


def _row(method, metric, estimate):
  return results.row(method, metric, estimate, estimate.drawn[1])
