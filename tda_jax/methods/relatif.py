"""RelatIF: influence relative to how much a row moves the model at all.

Influence functions favour rows of large gradient (outliers, whose removal
changes everything). With H = F + damping + l2 and F in Kronecker factors,

  loss        score[i, q] = −∇measure_qᵀ H⁻¹ ∇loss_i / √(∇loss_iᵀ H⁻¹ ∇loss_i)
  parameters  score[i, q] = −∇measure_qᵀ H⁻¹ ∇loss_i / ‖H⁻¹ ∇loss_i‖

(Barshan et al. 2020, ℓ-RelatIF and θ-RelatIF, https://arxiv.org/abs/2003.11630).
A norm per training row would be a solve per row; in the eigenbasis of the factors it is a weighted sum of
squares, Σ_io (Q_Aᵀ ∇W Q_S)²_io / (Λ_io + l2 + damping)ᵏ, k = 1 or 2, taken in
the same backward pass as the scores.
"""

import jax.numpy as jnp

from tda_jax import door, trees
from tda_jax.curvature import gram, products
from tda_jax.data import rows
from tda_jax.inverses.inverse import Inverse
from tda_jax.layers import taps
from tda_jax.methods import influence as influence_lib
from tda_jax.methods.method import Method, Prepared
from tda_jax.settings import kept

POWERS = {'loss': 1, 'parameters': 2}


@kept
def relatif(inverse: Inverse, norm: str = 'loss') -> Method:
  """Relative influence; the scores carry no 1/N and have no unit.

  Args:
    inverse: `kfac`, `ekfac` or `diagonal`; or an iterative solver with one of
      them as its preconditioner, which then gives the norms, at the damping of
      the preconditioner.
    norm: 'loss' (ℓ-RelatIF) or 'parameters' (θ-RelatIF).

  Raises:
    ValueError: unknown norm; another inverse.
  """
  door.check_inverse(inverse)
  if norm not in POWERS:
    raise ValueError(f'norm={norm!r} is unknown: use one of {[*POWERS]}')

  kronecker = inverse.fits_as or inverse
  scale = kronecker.scale
  if scale is None:
    raise ValueError(
      'relatif needs a norm for every training row, which only Kronecker'
      ' factors give without a solve for each: use kfac, ekfac or diagonal,'
      ' or precondition the solver with one of them'
    )
  fit = influence_lib.fit_of(inverse)

  def prepare(problem, run, train, queries, key, fitted=None):
    fitted = fit(problem, run, train, key) if fitted is None else fitted
    params = run.params
    vectors = products.gradients(problem.measure, problem, params, queries)
    solution = influence_lib.solved(
      inverse, fitted, problem, params, train, vectors, key
    )
    matrices = gram.layer_matrices(
      problem, params, rows.take(train, 0), trees.scaled(-1.0, solution.x)
    )
    factors = scale(fitted, problem).factors
    weights = {
      name: block._replace(eigenvalues=factors[name] ** POWERS[norm])
      for name, block in fitted.blocks.items()
    }
    aux = {name: (w, weights[name]) for name, w in matrices.items()}
    return Prepared(aux, solution._replace(x=()))

  def score(problem, run, prepared, batch):
    scores, squares = taps.collect_rows(
      _both,
      problem,
      problem.loss,
      run.params,
      batch,
      prepared.state,
      total=True,
    )
    norms = jnp.sqrt(squares)[:, None]
    return jnp.where(norms == 0, 0.0, scores / jnp.where(norms == 0, 1, norms))

  return Method(prepare, score, unit='none', fit=fit, fits_as=inverse)


def _both(layer, a, g, aux):
  """(⟨∇W_b, V_q⟩ [B, Q], the weighted squared norm of ∇W_b [B])."""
  queries, weights = aux
  squares = gram.weighted_products(layer, a, g, g, weights)
  return gram.inner_products(layer, a, g, queries), squares
