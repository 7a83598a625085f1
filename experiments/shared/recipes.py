"""Recipes: a config's section `training` -> how a network is trained."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tda_jax.data import images as images_lib
from tda_jax.data import rows as rows_lib
from tda_jax.training.fit import Recipe

OPTIMIZERS = ('sgd', 'adam', 'adamw')


def of_config(config, init: Callable | None) -> Recipe:
  """How the network of a config is trained; arguments as of `recipe`."""
  dropout = bool(config.model.get('dropout'))
  return recipe(config.training, init, dropout=dropout, seed=config.seed)


def recipe(
  training, init: Callable | None, *, dropout: bool = False, seed: int = 0
) -> Recipe:
  """SGD with heavy-ball momentum, Adam or AdamW, as a section `training` says.

  Weight decay is added to the gradient, as torch does for the first two; AdamW
  multiplies the weights, once a step.

  Args:
    init: of the network; None: of models that are trained further.
    dropout: whether the network has some, which it is then trained with.
    seed: of the initialisation that all members share (`shared_init`).
  """
  t = training
  kind = t.get('optimizer', 'sgd')
  if kind not in OPTIMIZERS:
    raise ValueError(
      f'unknown optimizer {kind!r}: use one of {", ".join(OPTIMIZERS)}'
    )
  if t.get('shared_init'):
    fixed, own = jax.random.key(seed), init
    init = lambda key: own(fixed)

  def schedule(steps):
    if t.schedule == 'constant':
      return optax.constant_schedule(t.learning_rate)
    if t.schedule == 'linear':
      return optax.linear_schedule(t.learning_rate, 0.0, steps)
    if t.schedule == 'triangular':
      return _triangular(
        t.learning_rate, steps, t.get('warmup', 0.2), t.get('last', 0.0)
      )
    if t.schedule == 'cyclic':
      return _cyclic(t.learning_rate, steps, t.cycles)
    raise ValueError(
      f'unknown schedule {t.schedule!r}: use constant, linear, triangular or'
      ' cyclic'
    )

  def optimizer(steps):
    rate = schedule(steps)
    if t.schedule == 'constant':
      rate = t.learning_rate
    eps_root = t.get('eps_root', 0.0)
    decays = dict(zip(('b1', 'b2'), t.get('betas', ()), strict=False))
    if kind == 'adamw':
      return optax.adamw(
        rate, **decays, weight_decay=t.weight_decay, eps_root=eps_root
      )
    if kind == 'adam':
      rule = optax.adam(rate, **decays, eps_root=eps_root)
    else:
      rule = optax.sgd(rate, momentum=t.momentum)
    return optax.chain(optax.add_decayed_weights(t.weight_decay), rule)

  augment = images_lib.crop_and_flip if t.augment else None
  if dropout:
    augment = rows_lib.with_dropout(augment)
  return Recipe(init, optimizer, schedule, t.batch_size, t.epochs, augment)


def _triangular(rate, steps, warmup, last):
  """Up from 0 for a share of the run, then down to a share of the rate."""
  peak = int(warmup * steps)
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, rate, peak),
      optax.linear_schedule(rate, last * rate, steps - peak),
    ],
    [peak],
  )


def _cyclic(rate, steps, cycles):
  """A cosine from `rate` to 0 in each cycle (snapshots, Huang et al. 2017).

  With as many checkpoints as cycles, each lies at the end of one.
  """
  if not 1 <= cycles <= steps:
    raise ValueError(f'cycles={cycles} of {steps} steps: give 1 to {steps}')
  return lambda step: (
    rate / 2 * (1 + jnp.cos(jnp.pi * ((step * cycles / steps) % 1)))
  )
