"""Cheap ensembles: many members made of a few trained models.

I models with D variants each are E = I·D members, model by model: member i·D + d
is variant d of model i, so that means over [I, D] keep the groups.
"""

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.run import Run


def masked(run: Run, masks: int, key: jax.Array) -> Run:
  """D dropout masks on each of I models (Deng et al. 2024, dropout ensemble).

  A member is the sub-network of a model that one mask leaves; all its examples
  see the same. Its `frozen` is the key of the mask, which the model's `apply`
  takes as its third argument.

  Args:
    run: leaves [I, ...].
    masks: D.
    key: split into I·D keys, one for each member.

  Raises:
    ValueError: masks is below 1; the models have something frozen already.
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

  Snapshots at the ends of the cycles of a cyclic learning rate (Huang et al.
  2017), or of a run's last epochs. A member keeps neither the way that led to it
  nor its key, with which training does not end there.

  Raises:
    ValueError: the run has fewer checkpoints.
  """
  kept = 0 if run.checkpoints is None else len(run.steps)
  if not 1 <= count <= kept:
    raise ValueError(
      f'the last {count} of {kept} checkpoints: give at least 1, and train with'
      f' checkpoints={max(count, 1)} or more'
    )
  last = jax.tree.map(
    lambda x: x[:, -count:].reshape(-1, *x.shape[2:]), run.checkpoints
  )
  frozen = repeated(run, count).frozen
  return Run(last, None, None, None, None, frozen)


def repeated(run: Run, times: int) -> Run:
  """Every model `times` times, one copy after another.

  Methods that draw something, as TRAK its projection, draw anew for each copy:
  the control that tells how much of a gain of `masked` is that.
  """
  return members_at(run, jnp.repeat(jnp.arange(trees.count(run.params)), times))


def members_at(run: Run, index) -> Run:
  """The members of a run at `index` (numbers [E'], or a slice), in that order."""
  return run._replace(
    **{
      name: jax.tree.map(lambda leaf: leaf[index], getattr(run, name))
      for name in ('params', 'checkpoints', 'keys', 'frozen')
    }
  )
