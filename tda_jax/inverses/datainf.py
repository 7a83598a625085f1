"""DataInf: the mean of inverses in place of the inverse of a mean.

Per layer, with g_i = ∇loss_i of its own parameters and λ its damping + l2,

  ((1/N) Σ_i g_i g_iᵀ + λ)⁻¹ v ≈ (1/N) Σ_i (g_i g_iᵀ + λ)⁻¹ v
                               = (1/λ) [v − (1/N) Σ_i (v·g_i)/(λ + ‖g_i‖²) g_i]

(Kwon et al. 2024, https://arxiv.org/abs/2310.00902; Sherman-Morrison). The products v·g_i, the norms and the sum
come from one backward pass over the rows; no g_i is formed. A layer is one of
`layers.find`; each entry of its stack is a layer of its own here.
"""

import jax
import jax.numpy as jnp

from tda_jax.curvature import gram
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import inverse as inverse_lib
from tda_jax.inverses.inverse import Damping, Inverse
from tda_jax.layers import find as layers_lib
from tda_jax.layers import taps
from tda_jax.settings import kept


@kept
def datainf(
  damping: Damping = 'heuristic', *, batch_size: int = 256
) -> Inverse:
  """DataInf's inverse of the empirical Fisher (the rows' own labels).

  Args:
    damping: a number, or 'heuristic': 0.1 · the mean squared entry of g_i, per
      layer (the paper's).

  Raises:
    ValueError: a layer is applied more than once.
  """

  def fit(problem, params, train, key):
    del key
    inverse_lib.check_damping(damping, problem.l2)
    layers = _layers(problem, params, train)
    _refuse_shared(layers)
    if damping != 'heuristic':
      return {
        n: jnp.full(x.stack, damping, jnp.float32) for n, x in layers.items()
      }
    squares = _mean(
      lambda layer, a, g, _: gram.squared_norms(layer, a, g).sum(),
      problem,
      params,
      train,
      batch_size,
    )
    return {
      name: 0.1 * squares[name] / (layer.num_in * layer.num_out)
      for name, layer in layers.items()
    }

  def solve(state, problem, params, train, vectors, key):
    del key
    layers = _layers(problem, params, train)
    shift = {name: s + problem.l2 for name, s in state.items()}
    example = rows_lib.take(train, 0)
    v = gram.layer_matrices(
      problem, params, example, vectors
    )  # [*stack, Q, I, O]
    aux = {name: (v[name], shift[name]) for name in layers}
    correction = _mean(
      _weighted_gradients, problem, params, train, batch_size, aux
    )
    x = {
      name: (v[name] - correction[name]) / shift[name][..., None, None, None]
      for name in layers
    }
    sizes = {n: layer.num_in * layer.num_out for n, layer in layers.items()}
    total = sum(sizes[n] * s.size for n, s in state.items())
    mean = sum(sizes[n] * s.sum() for n, s in state.items()) / total
    return inverse_lib.closed_form(_as_parameters(layers, x, params), mean)

  return inverse_lib.inverse(fit, solve)


def _weighted_gradients(layer, a, g, aux):
  """Σ_b (v_q·g_b)/(λ + ‖g_b‖²) g_b, [Q, I, O]; a statistic of `taps.collect`."""
  vectors, shift = aux
  products = gram.inner_products(layer, a, g, vectors)
  size = gram.squared_norms(layer, a, g)
  return gram.weighted_sums(layer, a, g, products / (shift + size)[:, None])


def _mean(statistic, problem, params, train, batch_size, aux=None):
  """Mean over rows of a statistic of the loss gradients."""

  def of_batch(batch):
    return taps.collect_rows(
      statistic, problem, problem.loss, params, batch, aux
    )

  stack = rows_lib.stacked(train, batch_size)
  total = rows_lib.total(of_batch, stack)
  return jax.tree.map(lambda x: x / rows_lib.count(train), total)


def _as_parameters(layers, matrices, params):
  """{layer: [*stack, Q, I, O]} as a stack of Q parameter trees."""

  def one(matrices):
    parts = [
      layers_lib.unmatrix(layers[name], w, params)
      for name, w in matrices.items()
    ]
    return jax.tree.map(lambda *leaves: sum(leaves), *parts)

  moved = {
    name: jnp.moveaxis(w, len(layers[name].stack), 0)
    for name, w in matrices.items()
  }
  return jax.vmap(one)(moved)


def _layers(problem, params, train):
  example = rows_lib.take(train, 0)
  return layers_lib.find(problem.outputs, params, example, problem.as_leaf)


def _refuse_shared(layers):
  for layer in layers.values():
    if layer.shared:
      raise ValueError(
        f'{layer.name} is applied more than once, so that the norms of its'
        f' gradients do not add over applications: {layers_lib.remedies(layer)}; or use'
        ' cg'
      )
