"""A run: trained models, and what is known of how they were trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import trees

PyTree = Any


class Run(NamedTuple):
  """Trained models. `Run(params)` alone is one, of which nothing else is known.

  One model has leaves without the axis E.

  Attributes:
    params: final parameters, leaves [E, ...].
    checkpoints: leaves [E, C, ...], or None.
    learning_rates: [C] mean rate of the steps since the checkpoint before.
    steps: [C] steps done at each checkpoint.
    keys: [E] typed keys that the members were trained with, or None where that
      is not known.
    frozen: what each model has besides its trained parameters, leaves [E, ...]:
      the key of a dropout mask, the base of LoRA adapters; None: nothing.
  """

  params: PyTree
  checkpoints: PyTree = None
  learning_rates: jax.Array | None = None
  steps: jax.Array | None = None
  keys: jax.Array | None = None
  frozen: PyTree = None


def of(given: Run | PyTree) -> Run:
  """A Run, or the Run of bare parameters."""
  return given if isinstance(given, Run) else Run(given)


def members_of(runs: Run) -> Run:
  """A Run whose every leaf has the member axis, to be indexed by member."""
  count = trees.count(runs.params)
  repeat = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))
  return runs._replace(
    learning_rates=jax.tree.map(repeat, runs.learning_rates),
    steps=jax.tree.map(repeat, runs.steps),
  )


def alone(run: Run) -> Run:
  """One model as an ensemble of one: every leaf that has members gains the axis."""
  one = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
  return run._replace(
    params=one(run.params),
    checkpoints=one(run.checkpoints),
    keys=one(run.keys),
    frozen=one(run.frozen),
  )
