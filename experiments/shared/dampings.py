"""Dampings that a config leaves open: chosen by evidence, or in a unit.

A setting 'chosen:NAME', or 'chosen:NAME*FACTOR', stands for such a number.
"""

import functools
import logging

from experiments.shared import scored as scored_lib
from experiments.shared import scores as scores_lib
from experiments.shared import stages
from experiments.shared.scored import Scored
from experiments.shared.tasks import Task
from tda_jax import parallel, trees
from tda_jax.curvature import gram
from tda_jax.evaluation import tuning
from tda_jax.run import Run
from tda_jax.storage import record

BEYOND = 6  # dampings that are tried beyond an end of the grid


def chosen(config, task: Task, runs: Run, workdir) -> dict[str, float]:
  """The number that each 'chosen:NAME' of the methods' settings stands for.

  'mean_square' is `gram.mean_square_gradient`; an entry of config.choose is the
  damping of the best validation LDS: scores of the first members, on subsets
  that the reported figures do not use, kept in chosen.json with the whole curve.
  Where it is an end of config.damping_grid, up to `BEYOND` further ones are tried.
  """
  wanted = _names(config)
  if 'mean_square' in wanted:
    first = trees.row(runs.params, 0)
    mean = gram.mean_square_gradient(task.problem, first, task.train)
    return {'mean_square': mean}
  if not wanted:
    return {}
  subsets, outcomes = stages.truth(config, task, workdir, 'validation')
  best, curves = {}, {}
  for name, settings in config.choose.items():
    if name not in wanted:
      continue
    best[name], curves[name] = tuning.best_damping(
      functools.partial(
        _validated, config, name, settings, task, runs, workdir
      ),
      config.damping_grid,
      subsets,
      outcomes,
      beyond=BEYOND,
    )
    log_choice(name, best[name], curves[name])
  record.write_json(
    workdir / 'chosen.json', {'chosen': best, 'validation_lds': curves}
  )
  return best


def _names(config) -> set[str]:
  """The names that the methods' settings refer to."""
  methods = scored_lib.of(config).values()
  return {n for s in methods for n in scored_lib.references(s.settings)}


def rows(config, workdir) -> list[dict]:
  """Result rows: 1 for each chosen damping that is an end of those tried."""
  file = workdir / 'chosen.json'
  kept = parallel.in_turn(
    lambda: record.read_json(file) if file.exists() else {'chosen': {}}
  )
  curves, wanted = (
    kept.get('validation_lds', {}),
    {*config.choose} & _names(config),
  )
  return [
    {'method': name, 'metric': 'damping_at_end', 'value': 1.0, 'n': None}
    for name, best in kept['chosen'].items()
    if name in wanted
    and tuning.at_edge(best, {float(d): of for d, of in curves[name].items()})
  ]


def log_choice(name: str, best: float, curve: dict[float, float]) -> None:
  """Logs what was chosen, and whether it is an end of what was tried."""
  logging.info('damping of %s: %s of %s', name, best, curve)
  if tuning.at_edge(best, curve):
    logging.warning(
      'the best damping of %s, %s, is an end of those tried: a better one may lie'
      ' beyond, give another --config.damping_grid',
      name,
      best,
    )


def _validated(config, name, settings, task, runs, workdir, damping):
  """Scores [E, N, Q] at one damping, kept beside those that are reported."""
  label = f'validation/{name}_{damping:g}'
  of = scored_lib.parse(label, {**settings, 'damping': damping})
  return scores_lib.of_members(config, label, of, task, runs, workdir)


def resolved(scored: Scored, chosen: dict[str, float]) -> Scored:
  """The same with a number for every damping that is chosen.

  Raises:
    ValueError: config.choose has no such entry.
  """

  def number(value):
    if isinstance(value, dict):
      return {field: number(inner) for field, inner in value.items()}
    term = scored_lib.chosen(value)
    if term is None:
      return value
    if term.argument not in chosen:
      raise ValueError(
        f'{value!r}: config.choose has no entry {term.argument!r}, it has'
        f' {sorted(chosen)}'
      )
    return chosen[term.argument] * term.factor

  return scored._replace(settings=number(scored.settings))
