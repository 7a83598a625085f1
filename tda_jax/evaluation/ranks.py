"""Rank correlations of weighted rows, for all resamples of a bootstrap at once.

A resample repeats row j w_j times. Both correlations are sums, over pairs of
rows, of signs that do not depend on the resample, so that one matrix product
gives them for all resamples, with ties.
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
    b: [A, M, Q], or [1, M, Q] to compare all of a with one.
    weights: [B, M], from `bootstrap.draws`.
    kind: 'spearman' or 'kendall'.

  Raises:
    ValueError: another kind.
  """
  agreement.check_kind(kind)
  weights = weights.astype(np.float32)
  signs, product = (
    _spearman(weights) if kind == 'spearman' else _kendall(weights)
  )
  blocks = [
    slice(i, i + QUERIES_AT_ONCE)
    for i in range(0, a.shape[-1], QUERIES_AT_ONCE)
  ]
  means = [_mean(signs, product, a[..., q], b[..., q]) for q in blocks]
  return np.concatenate(means, axis=1)


def _mean(signs, product, a, b):
  """Mean over A of the correlations of a_i with b_i (or with b_0), [B, Q].

  Args:
    signs: values [M, Q] -> what `product` multiplies.
    product: (signs of a, signs of b) -> their product for each resample, [B, Q].
  """
  total = 0.0
  for i, values in enumerate(a):
    if i < len(b):  # with one b, its signs stay for all of a
      signs_b = signs(b[i])
      spread_b = product(signs_b, signs_b)
    signs_a = signs(values)
    spread_a = product(signs_a, signs_a)
    covariance = product(signs_a, signs_b)
    spreads = np.sqrt(spread_a * spread_b)
    total = total + np.divide(
      covariance, spreads, out=np.zeros_like(covariance), where=spreads > 0
    )
  return np.asarray(total / len(a), np.float64)


def _spearman(weights):
  """(values [M, Q] -> ranks [B, M, Q], two ranks -> their product [B, Q])."""

  def ranks(values):
    return _forms(_signs(values) / 2, weights)

  def product(ranks_a, ranks_b):
    scaled = weights[:, :, None] * ranks_a
    return np.einsum('bmq,bmq->bq', scaled, ranks_b)

  return ranks, product


def _kendall(weights):
  """(values [M, Q] -> signs [M, M, Q], two signs -> their product [B, Q])."""

  def product(signs_a, signs_b):
    return np.einsum('bmq,bm->bq', _forms(signs_a * signs_b, weights), weights)

  return _signs, product


def _signs(values):
  """sign(v_i − v_j) of values [M, Q] at [j, i, q]."""
  return np.sign(values[None] - values[:, None]).astype(np.float32)


def _forms(pairs, weights):
  """Σ_j w_j pairs[j, i, q] for each resample: [B, M, Q]."""
  forms = weights @ pairs.reshape(len(pairs), -1)
  return forms.reshape(-1, *pairs.shape[1:])
