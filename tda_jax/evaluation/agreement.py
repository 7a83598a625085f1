"""Correlation of two sets of numbers, query by query."""

from typing import Any, cast

import numpy as np

KINDS = ('spearman', 'kendall')


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Pearson correlation of each column, in float64.

  A column that is constant in `a` or in `b` has no order: its correlation is 0,
  not NaN, so that a mean over columns counts it.

  Args:
    a, b: [N, Q], for example the scores of two methods.

  Returns:
    [Q].

  Raises:
    ValueError: the shapes differ or are not [N, Q] with N > 1; a value is not
      finite.
  """
  a, b = _pair(a, b)
  return _cosine(_centred(a), _centred(b))


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Spearman rank correlation of each column: Pearson of the mean ranks.

  Arguments, result, errors and constant columns as in `pearson`.
  """
  from scipy import stats

  a, b = matrix(a, 'the first matrix'), matrix(b, 'the second matrix')
  return pearson(stats.rankdata(a, axis=0), stats.rankdata(b, axis=0))


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Kendall's τ_b of each column, corrected for ties.

  (pairs in the same order − pairs in the other) / √(pairs not tied in a · pairs
  not tied in b). Arguments, result, errors and constant columns as in `pearson`.
  """
  from scipy import stats

  a, b = _pair(a, b)
  taus = np.zeros(a.shape[1])
  # SciPy has NaN and a warning for a constant column.
  for q in np.flatnonzero((a != a[:1]).any(0) & (b != b[:1]).any(0)):
    # The p-value is not used; this method computes it fastest.
    tau = stats.kendalltau(a[:, q], b[:, q], method='asymptotic')
    taus[q] = cast(Any, tau).statistic
  return taus


def rank_correlation(
  a: np.ndarray, b: np.ndarray, kind: str = 'spearman'
) -> np.ndarray:
  """`spearman` or `kendall` of each column, [Q].

  Raises:
    ValueError: as in `spearman`; another kind.
  """
  check_kind(kind)
  return (spearman if kind == 'spearman' else kendall)(a, b)


def check_kind(kind: str) -> None:
  """Raises ValueError unless `kind` is a rank correlation."""
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r}: use one of {", ".join(KINDS)}')


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Cosine similarity of each column, in float64: Pearson without centring.

  A column of zeros has similarity 0. Arguments, result, errors as in `pearson`.
  """
  return _cosine(*_pair(a, b))


def matrix(values: np.ndarray, name: str, rows: str = 'rows') -> np.ndarray:
  """`values` as float64 [N, Q].

  Raises:
    ValueError: not two axes, fewer than two rows, no column, or a value that
      is not finite; the sentence calls it `name`.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 2 or len(values) < 2 or not values.shape[1]:
    raise ValueError(
      f'{name}: the shape is {values.shape}, it must be [{rows}, queries]'
      f' with at least two {rows} and one query'
    )
  bad = ~np.isfinite(values)
  if bad.any():
    row, query = np.argwhere(bad)[0]
    raise ValueError(
      f'{name}: {bad.sum()} of {values.size} values are not finite, first at'
      f' row {row}, query {query} (NaN means not done yet): run the stage'
      ' that makes them to its end'
    )
  return values


def _pair(a, b):
  a, b = matrix(a, 'the first matrix'), matrix(b, 'the second matrix')
  if a.shape != b.shape:
    raise ValueError(
      f'cannot compare matrices of shapes {a.shape} and {b.shape}: give the'
      ' same rows and queries to both'
    )
  return a, b


def _cosine(a, b):
  norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
  return np.divide(
    (a * b).sum(axis=0), norms, out=np.zeros_like(norms), where=norms > 0
  )


def _centred(values):
  # Subtracting the first row before makes a constant column exactly 0.
  values = values - values[:1]
  return values - values.mean(axis=0)
