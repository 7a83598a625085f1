"""From a linen module to the pure functions that the library works with."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

PyTree = Any


def functions(
  module: nn.Module, shape: Sequence[int]
) -> tuple[Callable, Callable]:
  """(init, apply) of a module that has parameters and no other state.

  Args:
    module: called with x [B, *shape] only.
    shape: of one input, without the batch axis.

  Returns:
    init: key -> params; apply: (params, x [B, *shape]) -> [B, K].
  """

  def init(key: jax.Array) -> PyTree:
    return module.init(key, jnp.zeros((1, *shape)))['params']

  def apply(params: PyTree, x: jax.Array) -> jax.Array:
    return module.apply({'params': params}, x)

  return init, apply
