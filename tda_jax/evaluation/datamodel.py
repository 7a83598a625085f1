"""Datamodels: scores fitted to retrained models, towards scores that are given.

Of each query, with outcome_m its measure after training on S_m, the scores are

  argmin_w Σ_m (outcome_m − c − Σ_{i∈S_m} w_i)² + ρ (w − s w₀)ᵀ Σ₀⁻¹ (w − s w₀),

a ridge regression (Ilyas et al. 2022, Datamodels,
https://arxiv.org/abs/2202.00622, where it is a lasso towards 0) whose prior has
the given scores w₀ for its mean, and for its covariance in part their own second
moment over queries: rows that the scores vary together are moved together,

  Σ₀ = mix · W₀W₀ᵀ · N/‖W₀‖² + (1 − mix) · I,   W₀ = [w₀_1 ... w₀_Q], centred.

So few retrained models correct the scores where a fit from nothing would need
far more. s and ρ are those of the least leave-one-out error, which a ridge has
in closed form (e_m / (1 − h_m), h the diagonal of its hat matrix): no other
models are looked at. All is solved in the M dual coefficients: w − s w₀ = Σ₀Xᵀα,
and no matrix is N x N.
"""

from typing import NamedTuple

import numpy as np

from tda_jax.data import subsets as subsets_lib
from tda_jax.evaluation import agreement

RATIOS = tuple(
  10.0 ** (k / 4) for k in range(-12, 17)
)  # ρ, of the mean of XΣ₀Xᵀ


class Datamodel(NamedTuple):
  """Scores by a fit to retrained models.

  Attributes:
    scores: [N, Q], float64; in the measure's unit, positive supports. Of subsets
      of one size a constant is not known; here their mean is that of s w₀.
    scale: s, what the given scores were multiplied by; 0 without any.
    ratio: ρ, noise over prior, as a share of the mean diagonal of XΣ₀Xᵀ.
    explained: [Q], 1 − leave-one-out error / variance of the outcomes: below 0
      where the fit predicts worse than the mean, NaN where outcomes do not vary.
  """

  scores: np.ndarray
  scale: float
  ratio: float
  explained: np.ndarray


def datamodel(
  subsets: np.ndarray,
  outcomes: np.ndarray,
  rows: int,
  scores: np.ndarray | None = None,
  *,
  mix: float = 0.5,
  ratios: tuple[float, ...] = RATIOS,
) -> Datamodel:
  """The scores that predict retrained models best, near those that are given.

  Args:
    subsets: rows that the models were trained on, numbers [M, n] or bool [M, N];
      take others than those that the scores are judged by.
    outcomes: [M, R, Q] measures, or [M, Q] averaged over repeats.
    rows: N.
    scores: [N, Q], w₀; None: 0, and Σ₀ = I: the plain datamodel.
    mix: of the prior's covariance, the share from the scores.
    ratios: ρ to choose among.

  Raises:
    ValueError: shapes that do not belong together, values that are not finite,
      rows that do not exist, fewer than 3 subsets or all the same, a mix outside 0
      to 1, ratios that are none or not above 0.
  """
  x, y = _checked(subsets, outcomes, rows)
  if not 0 <= mix <= 1:
    raise ValueError(f'mix={mix}: give a share from 0 to 1')
  if not ratios or not min(ratios) > 0:
    raise ValueError(f'ratios={ratios}: give numbers above 0 to choose among')
  x = x - x.mean(0)
  y = y - y.mean(0)
  if scores is None:
    given, mix = np.zeros((rows, y.shape[1])), 0.0
  else:
    given = _given(scores, rows, y.shape[1])
  centred = given - given.mean(0)
  size = np.sqrt((centred**2).sum() / rows)
  basis = centred / size if size > 0 else centred
  mix = mix if size > 0 else 0.0
  predicted = x @ basis  # [M, Q]
  kernel = mix * predicted @ predicted.T + (1 - mix) * x @ x.T
  values, vectors = np.linalg.eigh(kernel)
  values = np.maximum(values, 0) / max(values.mean(), np.finfo(float).tiny)
  pair = vectors.T @ y, vectors.T @ (x @ centred)
  weights = _weights(y)
  best = min(
    (_left_out(values, vectors, pair, weights, ratio) for ratio in ratios),
    key=lambda fit: fit.error,
  )
  residual = pair[0] - best.scale * pair[1]
  shrunk = residual / (values + best.ratio)[:, None]
  dual = vectors @ shrunk / max(np.trace(kernel) / len(x), np.finfo(float).tiny)
  moved = mix * basis @ (predicted.T @ dual) + (1 - mix) * x.T @ dual
  return Datamodel(
    best.scale * given + moved, best.scale, best.ratio, best.explained
  )


class _LeftOut(NamedTuple):
  """The leave-one-out error of one ρ, at its best s."""

  error: float
  scale: float
  ratio: float
  explained: np.ndarray


def _left_out(values, vectors, pair, weights, ratio) -> _LeftOut:
  """Of ρ = `ratio`, where the kernel has these eigenvalues, of mean 1.

  The residuals without subset m are linear in s, of which the best follows.

  Args:
    pair: outcomes, and predictions by the given scores, both centred and in the
      eigenbasis, [M, Q].
    weights: [Q], of squared errors.
  """
  shrink = ratio / (values + ratio)
  # The mean, which is not shrunk, is one more direction of the hat matrix.
  left = 1 - 1 / len(values) - (vectors**2) @ (1 - shrink)
  left = np.maximum(left, 1e-9)[:, None]
  of_y, of_scores = (vectors @ (shrink[:, None] * z) / left for z in pair)
  below = (weights * of_scores**2).sum()
  scale = (weights * of_y * of_scores).sum() / below if below > 0 else 0.0
  scale = max(
    float(scale), 0.0
  )  # scores that predict the contrary are no prior
  errors = ((of_y - scale * of_scores) ** 2).mean(0) * weights
  explained = np.where(weights > 0, 1 - errors, np.nan)
  return _LeftOut(float(errors.mean()), scale, float(ratio), explained)


def _weights(y):
  """1 / variance of each query's outcomes [M, Q]: queries count alike, [Q]."""
  variance = (y**2).mean(0)
  return np.where(variance > 0, 1 / np.where(variance > 0, variance, 1), 0)


def _checked(subsets, outcomes, rows):
  """(whether each subset has each row [M, N], outcomes [M, Q])."""
  subsets = np.asarray(subsets)
  if (
    subsets.dtype != bool
    and subsets.size
    and not 0 <= subsets.min() <= subsets.max() < rows
  ):
    raise ValueError(
      f'subsets name rows {subsets.min()} to {subsets.max()} of {rows}: give the'
      ' number of rows that the subsets were drawn from'
    )
  sets = subsets_lib.listed(subsets, rows)
  outcomes = np.asarray(outcomes)
  outcomes = outcomes.mean(1) if outcomes.ndim == 3 else outcomes
  outcomes = agreement.matrix(outcomes, 'outcomes', 'subsets')
  if len(sets) != len(outcomes):
    raise ValueError(
      f'outcomes of {len(outcomes)} subsets do not fit {len(sets)} subsets: give'
      ' those that they were trained on'
    )
  if len(sets) < 3:
    raise ValueError(
      f'a datamodel of {len(sets)} retrained models has nothing to choose its'
      ' ridge by: give 3 subsets or more'
    )
  inside = np.zeros((len(sets), rows))
  for line, numbers in zip(inside, sets, strict=True):
    line[numbers] = 1
  if (inside == inside[0]).all():
    raise ValueError(
      'all subsets are the same, so that no row is without effect or with: give'
      ' subsets that differ'
    )
  return inside, outcomes.astype(np.float64)


def _given(scores, rows, queries):
  scores = agreement.matrix(scores, 'scores').astype(np.float64)
  if scores.shape != (rows, queries):
    raise ValueError(
      f'scores of shape {list(scores.shape)} do not fit {rows} rows and outcomes'
      f' of {queries} queries: give [{rows}, {queries}]'
    )
  return scores
