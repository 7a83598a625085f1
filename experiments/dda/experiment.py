"""DDA: which rows taught a fine-tuned language model a wrong summary.

Bases learn to summarise reports of matches; fine-tuning swaps names in some of the
summaries, until the models write wrong names themselves. Of each wrong summary it is
known which rows are swapped for its name: every method ranks all rows, and AUC, average
precision and recall say whether these come first. A table, results.json, a plot and
report.html in the workdir.
"""

import functools
import pathlib
import time

import jax
import numpy as np

from experiments.dda import claims as claims_lib
from experiments.dda import estimates, forms
from experiments.dda import models as models_lib
from experiments.dda import page as page_lib
from experiments.dda import scores as scores_lib
from experiments.dda import worlds as worlds_lib
from experiments.dda.measured import Measured
from experiments.shared import arguments, results
from experiments.shared import scored as scored_lib
from experiments.shared import settings as settings_lib
from tda_jax.data import rows as rows_lib
from tda_jax.methods import dda, gradients, method
from tda_jax.report import plots

FORMED = 'grad_dot'  # the method that all forms of DDA are sums of
TIMED = 3  # of which the quickest counts
TIMED_QUERIES = 4  # which both prepare at once


def main(config, workdir: pathlib.Path) -> None:
  """Runs the experiment and writes its results into the workdir."""
  settings_lib.check(config, 'dda')
  if FORMED not in scored_lib.of(config):
    raise ValueError(
      f'all forms of DDA are of {FORMED}, which is not among the methods: give'
      f' --config.method={FORMED},{config.method}'
    )
  parts = {}
  for part, changes in config.parts.items():
    own = arguments.changed(config, changes)
    params = worlds_lib.bases(own, workdir)
    parts[part] = own, worlds_lib.finetuned(own, params, workdir / part)
  worlds_lib.check(parts.values())
  measured = Measured.empty()
  for part, (own, worlds) in parts.items():
    for b, of_base in enumerate(worlds):
      for s, world in enumerate(of_base):
        folder = workdir / part / f'{b}_{s}'
        found = scores_lib.of_world(own, world, s, folder)
        measured.add(
          own, part, (b, s), world, forms.of_scores(found, config.betas)
        )
  own, worlds = next(iter(parts.values()))
  first = own, worlds[0][0]
  chosen, default = measured.chosen(config)
  rows = measured.rows() + [
    {
      'method': default,
      'metric': 'chosen on planted controls, AUC',
      'value': chosen,
    }
  ]
  ratio = cost(*first)
  points = config.checkpoints + 1
  rows.append(
    {'method': 'dda', 'metric': 'seconds / those of grad_dot', 'value': ratio}
  )
  claims = claims_lib.computed(measured, config, default, (ratio, points))
  results.write_results(config, workdir, rows, claims)
  drawn = draw(config, measured, workdir / 'plots')
  results.page(
    config, workdir, __doc__, rows, claims, drawn, page_lib.shown(*first)
  )


def cost(config, world) -> float:
  """Seconds of DDA of all checkpoints and the base over Grad-Dot's, of a batch."""
  problem = models_lib.of(config).problem
  rows = rows_lib.take(world.train, slice(config.batch_size))
  queries = rows_lib.take(world.queries, slice(TIMED_QUERIES))
  given = (problem, world.run, rows, queries)

  def seconds(timed):
    spent = []
    scored = functools.partial(
      method.attribute, timed, *given, batch_size=config.batch_size
    )
    for _ in range(1 + TIMED):  # the first compiles
      begun = time.monotonic()
      jax.block_until_ready(scored())
      spent.append(time.monotonic() - begun)
    return min(spent[1:])

  return seconds(dda.dda(0.5)) / seconds(gradients.grad_dot())


def draw(config, measured: Measured, folder: pathlib.Path) -> list[str]:
  """The AUC of the main forms in each part: the map of when debias helps."""
  folder.mkdir(exist_ok=True)
  names = [name for name in claims_lib.MAIN if name in measured.auc]
  parts = [*config.parts]
  of = lambda name, part: estimates.nested(measured.auc[name][part]).value
  return [
    plots.cells(
      np.array([[of(name, part) for part in parts] for name in names]),
      names,
      parts,
      folder / f'{config.setting}_map.png',
      title='AUC of the rows behind wrong summaries',
    )
  ]
