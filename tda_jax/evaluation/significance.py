"""Is a score more than noise? Mean, spread and p-values over trained models.

Training is random, and so is a score: from S models that differ only in their
seeds, each pair of a row and a query has S scores.

Source: Nguyen, Seo & Oh 2023, "A Bayesian Approach To Analysing Training Data
Attribution In Deep Learning", §3, https://arxiv.org/abs/2305.19765
"""

from typing import NamedTuple

import numpy as np

TESTS = ('student', 'deviations')


class Uncertainty(NamedTuple):
  """Mean, spread and significance of S scores of each pair; float64 [N, Q].

  Attributes:
    mean: μ over models; the score of the ensemble, in the measure's unit.
    deviation: σ with ddof 1: how far one model's score is from the mean.
    standard_error: σ/√S, of the mean.
    p: of H0: the expected score is 0.
    significant: bool, with the false discovery rate controlled.
  """

  mean: np.ndarray
  deviation: np.ndarray
  standard_error: np.ndarray
  p: np.ndarray
  significant: np.ndarray


def uncertainty(
  scores: np.ndarray, *, test: str = 'student', rate: float = 0.05
) -> Uncertainty:
  """Mean, spread, p-values and significant pairs of scores [S, N, Q].

  The S scores of a pair must be of models that are independent: average a
  model's own checkpoints first.

  Args:
    test: as in `p_values`.
    rate: of false discoveries (`discoveries`).

  Raises:
    ValueError: fewer than two models, a score that is not finite, another test
      or rate.
  """
  scores = checked(scores)
  # Subtracting the first model makes the deviation of equal scores exactly 0.
  shifted = scores - scores[0]
  mean = scores[0] + shifted.mean(0)
  deviation = shifted.std(0, ddof=1)
  p = p_values(mean, deviation, len(scores), test)
  return Uncertainty(
    mean, deviation, deviation / len(scores) ** 0.5, p, discoveries(p, rate)
  )


def p_values(
  mean: np.ndarray, deviation: np.ndarray, models: int, test: str = 'student'
) -> np.ndarray:
  """Two-sided p of H0: the expected score is 0.

  Where all models agree (σ = 0), p = 0; where they agree on 0, p = 1.

  Args:
    mean, deviation: μ and σ (ddof 1) over models.
    models: S.
    test: 'student': t = √S·μ/σ with S − 1 degrees of freedom, as in the paper's
      text; uniform under H0 if scores are normal. 'deviations': 2Φ(−|μ/σ|), as
      in the paper's code: not a test of the mean, but twice the probability that
      the score of one more model has the other sign.

  Raises:
    ValueError: another test.
  """
  from scipy import special, stats

  if test not in TESTS:
    raise ValueError(f'test={test!r}: use one of {", ".join(TESTS)}')
  size, none = np.abs(mean), deviation == 0
  ratio = np.divide(size, deviation, out=np.zeros_like(size), where=~none)
  if test == 'student':
    p = 2 * stats.t.sf(ratio * models**0.5, models - 1)
  else:
    p = 2 * special.ndtr(-ratio)
  return np.where(none, np.where(size == 0, 1.0, 0.0), p)


def one_sided(values: np.ndarray) -> np.ndarray:
  """One-sided p of H0: E values ≤ 0, by Student's t over axis 0, S − 1 degrees.

  Where all S agree, p is 0 above 0 and 1 elsewhere.
  """
  from scipy import stats

  shifted = values - values[0]  # so that equal values have deviation 0 exactly
  mean, deviation = values[0] + shifted.mean(0), shifted.std(0, ddof=1)
  p = stats.t.sf(ratio(mean, deviation) * len(values) ** 0.5, len(values) - 1)
  return np.where(deviation == 0, np.where(mean > 0, 0.0, 1.0), p)


def discoveries(p: np.ndarray, rate: float = 0.05) -> np.ndarray:
  """Which hypotheses to reject, as bool, from p-values of any shape.

  At most a share `rate` of the rejected hypotheses is expected to be true, if
  p-values are independent or positively dependent.

  Source: Benjamini & Hochberg 1995,
  https://doi.org/10.1111/j.2517-6161.1995.tb02031.x

  Raises:
    ValueError: `rate` is not between 0 and 1.
  """
  from scipy import stats

  if not 0 < rate < 1:
    raise ValueError(
      f'rate={rate}: give a false discovery rate between 0 and 1'
    )
  adjusted = stats.false_discovery_control(np.ravel(p))
  return (adjusted <= rate).reshape(np.shape(p))


def ratio(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
  """μ/σ, the z-score of the paper's code; 0 where σ is 0."""
  none = deviation == 0
  return np.divide(mean, deviation, out=np.zeros_like(mean), where=~none)


def correlations(values: np.ndarray, kind: str = 'pearson') -> np.ndarray:
  """[A, A] correlations of A methods' numbers over all pairs.

  Args:
    values: [A, N, Q], such as μ, σ or μ/σ of each method. A method whose
      numbers are all equal correlates 0 with others.
    kind: 'pearson' or 'spearman'.

  Raises:
    ValueError: another kind; a value is not finite.
  """
  from scipy import stats

  if kind not in ('pearson', 'spearman'):
    raise ValueError(f'kind={kind!r}: use pearson or spearman')
  flat = np.asarray(values, np.float64).reshape(len(values), -1)
  if not np.isfinite(flat).all():
    raise ValueError('a method has values that are not finite: score all pairs')
  if kind == 'spearman':
    flat = stats.rankdata(flat, axis=1)
  flat = flat - flat[:, :1]
  flat = flat - flat.mean(1, keepdims=True)
  norms = np.linalg.norm(flat, axis=1, keepdims=True)
  flat = np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 0)
  matrix = flat @ flat.T
  np.fill_diagonal(matrix, 1.0)
  return matrix


def checked(scores: np.ndarray) -> np.ndarray:
  """Scores as float64 [S, N, Q]; ValueError: not of two models, not finite."""
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 3 or len(scores) < 2:
    raise ValueError(
      f'scores of shape {scores.shape}: give [models, rows, queries] with at'
      ' least two models'
    )
  if not np.isfinite(scores).all():
    raise ValueError(
      'scores hold values that are not finite (NaN means not done yet): run the'
      ' stage that makes them to its end'
    )
  return scores
