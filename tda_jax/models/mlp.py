"""Multilayer perceptrons."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from tda_jax.models import module


class MLP(nn.Module):
  """Dense layers with an activation between them; the input is flattened."""

  widths: Sequence[int]
  outputs: int
  activation: Callable = nn.relu
  kernel_init: Callable = nn.initializers.he_normal()
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, key=None):
    x = jnp.reshape(x, (x.shape[0], -1))
    for i, width in enumerate(self.widths):
      x = self.activation(nn.Dense(width, kernel_init=self.kernel_init)(x))
      x = module.dropped(x, self.dropout, key, i)
    return nn.Dense(self.outputs, kernel_init=self.kernel_init)(x)


def mlp(
  widths: Sequence[int],
  outputs: int,
  shape: Sequence[int],
  activation: Callable = nn.relu,
  kernel_init: Callable | None = None,
  dropout: float = 0.0,
) -> tuple[Callable, Callable]:
  """(init, apply): key -> params; (params, x [B, *shape]) -> [B, outputs].

  Args:
    widths: of the hidden layers.
    shape: of one input, which is flattened.
    kernel_init: (key, shape, dtype) -> kernel; None: He et al. 2015
      (https://arxiv.org/abs/1502.01852) for every layer. Biases start at zero.
    dropout: share of the hidden units that `apply` with a key leaves out.
  """
  module.check_dropout(dropout)
  kernel_init = kernel_init or nn.initializers.he_normal()
  model = MLP(tuple(widths), outputs, activation, kernel_init, dropout)
  return module.functions(model, shape)
