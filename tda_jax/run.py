"""A run: trained models, and what is known about their training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import trees
from tda_jax.trees import Array, PyTree


class Run(NamedTuple):
  """Trained models. `Run(params)` is a valid run of one model.

  The leaves of one model have no axis E.

  Attributes:
    params: final parameters, leaves [E, ...].
    checkpoints: leaves [E, C, ...], or None.
    learning_rates: [C] mean rate of the steps since the checkpoint before.
    steps: [C] steps done at each checkpoint.
    keys: [E] typed keys that the members were trained with, or None where that
      is not known.
    frozen: what each model has besides its trained parameters, leaves [E, ...]:
      the key of a dropout mask, the base of LoRA adapters; None: nothing.
    second_moments: Adam's at each checkpoint, v/(1 − β₂^t), leaves like those of
      `checkpoints`; None: not known, or another optimizer.
    base: parameters before fine-tuning, leaves like those of `params`; of LoRA
      adapters that change nothing (`models.lora.off`). None: not known.
  """

  params: PyTree
  checkpoints: PyTree = None
  learning_rates: Array | None = None
  steps: Array | None = None
  keys: jax.Array | None = None
  frozen: PyTree = None
  second_moments: PyTree = None
  base: PyTree = None


def as_run(given: Run | PyTree) -> Run:
  """A Run, or the Run of bare parameters."""
  return given if isinstance(given, Run) else Run(given)


def members_of(runs: Run) -> Run:
  """A Run whose leaves all have the member axis, to be indexed by member."""
  count = trees.count(runs.params)
  repeat = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))
  return runs._replace(
    learning_rates=jax.tree.map(repeat, runs.learning_rates),
    steps=jax.tree.map(repeat, runs.steps),
  )


def member(runs: Run, number: int) -> Run:
  """One model of several, with all that is known of it."""
  return trees.row(members_of(runs), number)


def ensemble_of_one(run: Run) -> Run:
  """One model as an ensemble of one: leaves get a member axis of length 1."""
  with_axis = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
  return run._replace(
    params=with_axis(run.params),
    checkpoints=with_axis(run.checkpoints),
    keys=with_axis(run.keys),
    frozen=with_axis(run.frozen),
    second_moments=with_axis(run.second_moments),
    base=with_axis(run.base),
  )
