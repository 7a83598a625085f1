"""Turns a linen module into the pure functions that the library works with."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from tda_jax.trees import PyTree


def functions(
  module: nn.Module, shape: Sequence[int], dtype: Any = jnp.float32
) -> tuple[Callable, Callable]:
  """(init, apply) of a module that has parameters and no other state.

  Args:
    module: called with x [B, *shape]; and with the key of a dropout mask where
      it has a `dropout` above 0.
    shape: of one input, without the batch axis.
    dtype: of the inputs.

  Returns:
    init: key -> params; apply: (params, x [B, *shape]) -> [B, K], or (params,
      x, key) -> [B, K] of the sub-network that the key's mask leaves, the same
      for all examples.
  """

  def init(key: jax.Array) -> PyTree:
    return module.init(key, jnp.zeros((1, *shape), dtype))['params']

  def apply(
    params: PyTree, x: jax.Array, key: jax.Array | None = None
  ) -> jax.Array:
    if key is None:
      return cast(jax.Array, module.apply({'params': params}, x))
    if not getattr(module, 'dropout', 0.0):
      raise ValueError(
        f'a dropout mask for {type(module).__name__}, which has no dropout: make'
        ' the model with dropout=0.1 or the like'
      )
    return cast(jax.Array, module.apply({'params': params}, x, key))

  return init, apply


def dropped(
  x: jax.Array, rate: float, key: jax.Array | None, place: int
) -> jax.Array:
  """Dropout: a share `rate` of the entries of x is 0, the rest x / (1 − rate).

  Args:
    x: [B, ...]; all examples have the same mask.
    key: of the model's mask; None: x is returned.
    place: number of the layer; each has a mask of its own.
  """
  if key is None:
    return x
  key = jax.random.fold_in(key, place)
  share = jnp.float32(1 - rate)  # a float64 would draw other numbers
  mask = jax.random.bernoulli(key, share, x.shape[1:])
  return jnp.where(mask, x / (1 - rate), 0)


def check_dropout(rate: float) -> None:
  """Raises ValueError unless the rate is at least 0 and below 1."""
  if not 0 <= rate < 1:
    raise ValueError(f'dropout={rate}: give a share from 0 to below 1')
