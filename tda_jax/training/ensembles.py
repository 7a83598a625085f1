"""Cheap ensembles: many members made of a few trained models.

I models with D variants each are E = I·D members, model by model: member i·D + d
is variant d of model i, so that means over [I, D] keep the groups.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.data.subsets import half_subsets
from tda_jax.models import lora
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.training import members
from tda_jax.training.fit import Recipe
from tda_jax.trees import PyTree


def masked(run: Run, masks: int, key: jax.Array) -> Run:
  """D dropout masks on each of I models: the dropout ensemble, I·D members.

  A member is the sub-network that remains under one mask, the same for all
  examples. Its `frozen` is the key of the mask, which the model's `apply` takes
  as its third argument.

  Source: Deng et al. 2024, "Efficient Ensembles Improve Training Data
  Attribution", https://arxiv.org/abs/2405.17293

  Args:
    run: leaves [I, ...].
    masks: D.
    key: split into I·D keys, one for each member.

  Raises:
    ValueError: masks is below 1; the models have `frozen` already.
  """
  if masks < 1:
    raise ValueError(f'masks={masks}: give at least 1 for each model')
  if run.frozen is not None:
    raise ValueError(
      'the models have something frozen already, beside which a mask has no'
      ' place: give the run that was trained without'
    )
  keys = jax.random.split(key, trees.count(run.params) * masks)
  return repeated(run, masks)._replace(frozen=keys)


def last_checkpoints(run: Run, count: int) -> Run:
  """The last C checkpoints of each of I models, as I·C members.

  These are the snapshots at the ends of the cycles of a cyclic learning rate, or
  of a run's last epochs. Members have no checkpoints and no key: training with
  the key does not end at them.

  Source: Huang et al. 2017, "Snapshot Ensembles: Train 1, Get M for Free",
  https://arxiv.org/abs/1704.00109

  Raises:
    ValueError: the run has fewer checkpoints.
  """
  leaves = jax.tree.leaves(run.checkpoints)
  available = leaves[0].shape[1] if leaves else 0
  if not 1 <= count <= available:
    raise ValueError(
      f'the last {count} of {available} checkpoints: give at least 1, and train'
      f' with checkpoints={max(count, 1)} or more'
    )
  last = jax.tree.map(
    lambda x: x[:, -count:].reshape(-1, *x.shape[2:]), run.checkpoints
  )
  frozen = repeated(run, count).frozen
  return Run(last, None, None, None, None, frozen)


def repeated(run: Run, times: int) -> Run:
  """Repeats every model `times` times, one copy after another.

  Methods that draw something, like the projection of TRAK, draw anew for each
  copy. This is a control: how much of `masked`'s gain comes from fresh draws
  alone.
  """
  return members_at(run, jnp.repeat(jnp.arange(trees.count(run.params)), times))


def members_at(run: Run, index: jax.Array | np.ndarray | slice) -> Run:
  """The members of a run at `index` (numbers [E'], or a slice), in that order."""
  return run._replace(
    **{
      name: jax.tree.map(lambda leaf: leaf[index], getattr(run, name))
      for name in (
        *('params', 'checkpoints', 'keys', 'frozen', 'second_moments'),
        'base',
      )
    }
  )


def randomised(runs: Run, init: Callable) -> Run:
  """The same models with all parameters drawn anew, for `sanity.randomisation`.

  Each checkpoint is a draw of its own, and the last one is the model, as in a
  trained run.

  Args:
    init: key -> parameters, of the recipe.
  """
  keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(runs.keys)
  params = jax.vmap(init)(keys)
  checkpoints = runs.checkpoints
  if checkpoints is not None:
    count = jax.tree.leaves(checkpoints)[0].shape[1]
    each = jax.vmap(lambda key: jax.random.split(key, count))(keys)
    checkpoints = jax.vmap(jax.vmap(init))(each)
    checkpoints = jax.tree.map(
      lambda c, p: c.at[:, -1].set(p), checkpoints, params
    )
  return runs._replace(params=params, checkpoints=checkpoints)


def halves(
  problem: Problem,
  recipe: Recipe,
  rows: PyTree,
  keys: jax.Array,
  *,
  seed: int,
  **options: Any,
) -> Run:
  """Trains E models, each on a random half of the rows: the ensemble of TRAK.

  Args:
    keys: [E].
    seed: of the halves; take another one than for the subsets of ground truth.
    options: of `members.train`.
  """
  subsets = half_subsets(seed, rows_lib.count(rows), len(keys))
  return members.train(problem, recipe, rows, keys, subsets=subsets, **options)


def adapted(
  problem: Problem,
  recipe: Recipe,
  rows: PyTree,
  runs: Run,
  keys: jax.Array,
  *,
  alpha: float,
  **options: Any,
) -> tuple[Problem, Run]:
  """Fine-tunes L LoRA adapters on each of I models: (problem, I·L members).

  Args:
    recipe: of the fine-tuning; its `init` makes adapters, as `lora.init` does.
    runs: leaves [I, ...].
    keys: [I·L], one for each adapter, model by model.
    alpha: of `lora.adapted`.
    options: of `members.train`.
  """
  count = len(keys) // trees.count(runs.params)
  bases = repeated(runs, count).params
  problem = lora.adapted(problem, alpha)
  return problem, members.train(
    problem, recipe, rows, keys, frozen=bases, **options
  )
