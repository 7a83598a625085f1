"""Second moments of an optimizer as a factor of each side of a layer.

In each layer v_io ≈ r_i c_o / mean(v), r and c the means of its rows and columns
(Adafactor: Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235). A power of v
then scales a layer's inputs and output gradients apart.
"""

import jax
import jax.numpy as jnp

from tda_jax.layers import find as layers_lib
from tda_jax.problem import Problem
from tda_jax.trees import PyTree


def powers(
  problem: Problem,
  params: PyTree,
  example: PyTree,
  moments: PyTree,
  power: float,
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """(p, q) of each layer with v^power ≈ p ⊗ q: [*stack, I] and [*stack, O].

  Where v is 0 a parameter has not moved, and its power is taken as 0.

  Args:
    example: one row, from which the layers are found.
    moments: second moments v, a tree like the parameters.
  """
  layers = layers_lib.find(problem.outputs, params, example, problem.as_leaf)

  def of_layer(layer):
    v = layers_lib.matrix(layer, moments)
    mean = v.mean((-2, -1))[..., None]
    columns = v.mean(-2) / jnp.where(mean > 0, mean, 1)
    return raised(v.mean(-1), power), raised(columns, power)

  return {name: of_layer(layer) for name, layer in layers.items()}


def raised(v: jax.Array, power: float) -> jax.Array:
  """v^power, 0 where v is 0."""
  return jnp.where(v > 0, jnp.where(v > 0, v, 1) ** power, 0)
