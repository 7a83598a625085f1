"""Leave-one-out of an ensemble, member by member, averaged over checkpoints.

A member and what it would be without a row share their key, so that the row is
all that differs. Effects are base − left out: positive supports.
"""

import numpy as np

from experiments.shared.tasks import Task
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import further_training, retraining
from tda_jax.run import Run
from tda_jax.training import fit


def rows_of(config, task: Task) -> np.ndarray:
  """The rows to leave out, sorted: config.left_out.rows random ones, or all."""
  n = rows_lib.count(task.train)
  order = np.random.default_rng(config.seed).permutation(n)
  return np.sort(order[: config.left_out.rows or n])


def retrained(config, task: Task, runs: Run, workdir) -> np.ndarray:
  """Effects of training again without each row, [E, L, Q].

  Measured at the same steps as the last `config.averaged` checkpoints.
  """
  base, left = retraining.leave_one_out(
    task.problem,
    task.recipe,
    task.train,
    task.queries,
    rows_of(config, task),
    repeats=len(runs.keys),
    key=runs.keys,
    path=workdir / 'loo',
    points=[int(step) for step in runs.steps[-config.averaged :]],
    members_at_once=config.left_out.members_at_once,
  )
  return _averaged(base, left)


def continued(config, task: Task, runs: Run, workdir) -> np.ndarray:
  """Effects of training on without each row, [E, L, Q].

  Every member goes on from its final parameters with the same order of rows and
  a fresh optimizer, for a share `config.left_out.continued` of its epochs;
  measured at the ends of those in their last third, `config.averaged` at most.
  """
  epochs = max(1, round(config.left_out.continued * task.recipe.epochs))
  recipe = task.recipe._replace(epochs=epochs)
  n = rows_lib.count(task.train)
  each = fit.steps_per_epoch(n, recipe.batch_size)
  count = min(config.averaged, max(1, epochs // 3))
  base, left = further_training.further_training(
    task.problem,
    recipe,
    runs.params,
    task.train,
    task.queries,
    rows_of(config, task),
    repeats=trees.count(runs.params),
    key=runs.keys,
    path=workdir / 'loo_continued',
    points=[each * (epochs - c) for c in reversed(range(count))],
    members_at_once=config.left_out.members_at_once,
  )
  return _averaged(base, left)


def _averaged(base, left):
  """[R, T, Q] and [L, R, T, Q] -> [R, L, Q] in float64."""
  effects = np.asarray(base, np.float64)[None] - left
  return effects.mean(2).swapaxes(0, 1)
