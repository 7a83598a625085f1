"""Rank correlations of weighted rows, for all resamples of a bootstrap at once.

A resample repeats row j w_j times. Both correlations are sums over pairs of
rows of signs that do not depend on the resample, so that a matrix product gives
them for all resamples, ties and all.
"""

import numpy as np

from tda_jax.evaluation import agreement

QUERIES_AT_ONCE = 16  # the memory of `correlations` grows with it


def correlations(
  a: np.ndarray,
  b: np.ndarray,
  weights: np.ndarray,
  kind: str = 'spearman',
) -> np.ndarray:
  """Correlation of a and b with each row repeated as resamples say, [B, Q].

  Spearman's: the rank of a_i among rows repeated w_j times is ½ Σ_j w_j sign(a_i
  − a_j), from the middle. Kendall's τ_b: Σ_ij w_i w_j s_ij t_ij over √(Σ_ij w_i
  w_j s_ij² · Σ_ij w_i w_j t_ij²), s_ij = sign(a_i − a_j), t_ij = sign(b_i − b_j).
  0 where a or b is constant.

  Args:
    a: [A, M, Q]; the mean over A is returned.
    b: [A, M, Q], or [1, M, Q] for one that all of a are compared with.
    weights: [B, M], from `bootstrap.draws`.
    kind: 'spearman' or 'kendall'.

  Raises:
    ValueError: another kind.
  """
  agreement.check_kind(kind)
  of = _spearman if kind == 'spearman' else _kendall
  weights = weights.astype(np.float32)
  blocks = range(0, a.shape[-1], QUERIES_AT_ONCE)
  return np.concatenate(
      [_mean(of, *(x[..., i : i + QUERIES_AT_ONCE] for x in (a, b)), weights)
       for i in blocks], axis=1,
  )  # fmt: skip


def _mean(of, a, b, weights):
  prepare, across = of(weights)
  total = 0.0
  for i, values in enumerate(a):
    if i < len(b):
      other, spread_b = prepare(b[i])
    own, spread_a = prepare(values)
    product = across(own, other)
    spreads = np.sqrt(spread_a * spread_b)
    total = total + np.divide(
      product, spreads, out=np.zeros_like(product), where=spreads > 0
    )
  return np.asarray(total / len(a), np.float64)


def _spearman(weights):
  """(values [M, Q] -> ranks, their spread; two ranks -> their product)."""

  def prepare(values):
    ranks = _forms(_signs(values) / 2, weights)
    return ranks, across(ranks, ranks)

  def across(own, other):
    scaled = weights[:, :, None] * own
    return np.einsum('bmq,bmq->bq', scaled, other)

  return prepare, across


def _kendall(weights):
  """(values [M, Q] -> signs, their pairs; two signs -> pairs that agree)."""

  def prepare(values):
    signs = _signs(values)
    return signs, across(signs, signs)

  def across(own, other):
    return np.einsum('bmq,bm->bq', _forms(own * other, weights), weights)

  return prepare, across


def _signs(values):
  """sign(v_i − v_j) of values [M, Q] at [j, i, q]."""
  return np.sign(values[None] - values[:, None]).astype(np.float32)


def _forms(pairs, weights):
  """Σ_j w_j pairs[j, i, q] for each resample: [B, M, Q]."""
  found = weights @ pairs.reshape(len(pairs), -1)
  return found.reshape(-1, *pairs.shape[1:])
