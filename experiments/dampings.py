"""Dampings that a config leaves open: chosen by evidence, or in a unit.

A setting 'chosen/NAME', or 'chosen/NAME*FACTOR', stands for such a number.
"""

import logging

import jax
import jax.numpy as jnp

from experiments import scores as scores_lib
from experiments import stages
from experiments.tasks import Task
from tda_jax import chosen as chosen_lib
from tda_jax import trees
from tda_jax.curvature import gram
from tda_jax.curvature import layers as layers_lib
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import lds
from tda_jax.run import Run
from tda_jax.storage import record


def chosen(config, task: Task, runs: Run, workdir) -> dict[str, float]:
  """The number that each 'chosen/NAME' of the methods' settings stands for.

  'mean_square' is `mean_square_gradient`; an entry of config.choose is the
  damping of the best validation LDS: scores of the first members, on subsets
  that the reported figures do not use, kept in chosen.json with the whole curve.
  """
  wanted = str(stages.methods_of(config))
  if 'chosen/mean_square' in wanted:
    mean = mean_square_gradient(task, trees.row(runs.params, 0))
    return {'mean_square': mean}
  if 'chosen/' not in wanted:
    return {}
  chosen, outcomes = stages.truth(config, task, workdir, 'validation')
  best, curves = {}, {}
  for name, settings in config.choose.items():
    if f'chosen/{name}' not in wanted:
      continue
    curve = {}
    for damping in config.damping_grid:
      found = scores_lib.of_members(
        config,
        f'validation/{name}_{damping:g}',
        {**settings, 'damping': damping},
        task,
        runs,
        workdir,
      )
      value = lds.lds(found.mean(0), outcomes.mean(1), chosen).mean()
      curve[damping] = float(value)
    best[name] = max(curve, key=curve.get)
    curves[name] = curve
    logging.info('damping of %s: %s of %s', name, best[name], curve)
  record.write_json(
    workdir / 'chosen.json', {'chosen': best, 'validation_lds': curves}
  )
  return best


def mean_square_gradient(task: Task, params) -> float:
  """Mean over rows and parameters of a squared entry of ∇loss_i.

  The unit of the paper's dampings (after Grosse et al. 2023), to 6 digits, so
  that a resumed run finds the same.
  """
  problem, params = chosen_lib.restricted(task.problem, params)
  example = rows_lib.take(task.train, 0)
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)

  @jax.jit
  def squares(batch):
    norms = gram.norms(layers, gram.factors(problem, params, batch, 'loss'))
    return jnp.sum(batch.mask * norms**2)

  batches = rows_lib.batches(task.train, 256)
  total = sum(float(squares(jax.tree.map(jnp.asarray, b))) for b in batches)
  mean = total / (rows_lib.count(task.train) * trees.size(params))
  return float(f'{mean:.6g}')


def resolved(settings: dict, chosen: dict[str, float]) -> dict:
  """Settings with 'chosen/NAME' or 'chosen/NAME*FACTOR' made a number."""

  def number(value):
    if isinstance(value, str) and not value.startswith('chosen/'):
      return _typed(value)
    if not isinstance(value, str):
      return value
    name, _, factor = value.removeprefix('chosen/').partition('*')
    if name not in chosen:
      raise ValueError(
        f'{value!r}: config.choose has no entry {name!r}, it has'
        f' {sorted(chosen)}'
      )
    return chosen[name] * float(factor or 1)

  out = {}
  for field, value in settings.items():
    out[field] = (
      resolved(value, chosen) if hasattr(value, 'items') else number(value)
    )
  return out


def _typed(text):
  """A number that a flag put where the config has a text."""
  try:
    return float(text)
  except ValueError:
    return text
