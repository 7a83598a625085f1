"""Scores of an ensemble whose factors are averaged separately.

TRAK's score is a product of two factors, K from the gradients and Q from the
outputs, and TRAK of E models is K̄ Q̄, not the mean of K_e Q_e. The scores of other
methods are one factor, and their ensemble is the mean.

Factors are a tuple of arrays [E, N, Q] of E models, of which one may be
[E, N, 1]; anything else raises a ValueError.

Source: Park et al. 2023, TRAK, §3, https://arxiv.org/abs/2303.14186
"""

import functools
import operator
from collections.abc import Sequence
from typing import cast

import numpy as np

Factors = Sequence[np.ndarray]


def per_model(factors: Factors) -> np.ndarray:
  """Scores of each model alone, Π_f X_fe, [E, N, Q]."""
  return _product(_checked(factors))


def together(factors: Factors) -> np.ndarray:
  """Scores of the ensemble, Π_f X̄_f with means X̄ over models; float64 [N, Q]."""
  return _product(_means(_checked(factors)))


def of_own_rows(factors: Factors, subsets: np.ndarray) -> np.ndarray:
  """`together`, where each model counts for the rows that it was trained on.

  Of row i the means over models are over those of whose rows it is one: a model
  that never saw a row says little of what the row did. Float64 [N, Q].

  Args:
    subsets: [E, n] rows that the models were trained on, as those of
      `training.ensembles.halves`.

  Raises:
    ValueError: another number of subsets than models; rows that do not exist, or
      that no model was trained on.
  """
  count, rows = _checked(factors)[0].shape[:2]
  subsets = np.asarray(subsets)
  if subsets.ndim != 2 or len(subsets) != count:
    raise ValueError(
      f'subsets of shape {list(subsets.shape)} for {count} models: give the rows'
      ' that each was trained on, [models, rows]'
    )
  if subsets.min() < 0 or subsets.max() >= rows:
    raise ValueError(
      f'subsets name rows {subsets.min()} to {subsets.max()}, and there are scores'
      f' of rows 0 to {rows - 1}: score the rows that they were drawn from'
    )
  own = np.zeros((count, rows))
  np.put_along_axis(own, subsets, 1.0, 1)
  seen = own.sum(0)
  if (seen == 0).any():
    raise ValueError(
      f'{int((seen == 0).sum())} rows are in no subset of the {count} models, the'
      f' first is row {int(np.argmin(seen))}: train more models'
    )
  share = own / seen
  return _product([np.einsum('en,enq->nq', share, f) for f in factors])


def shares(factors: Factors) -> np.ndarray:
  """Values of each model whose mean is the ensemble's scores, [E, N, Q].

  Model e's value is Π_f X̄_f + Σ_f (X_fe − X̄_f) Π_{g≠f} X̄_g. The mean of these is
  `together`, and their standard error is that of `together` (to first order in
  1/√E, the delta method). With one factor it is that factor.
  """
  if len(_checked(factors)) == 1:
    return factors[0]
  means = _means(factors)
  moves = (  # one at a time: each is as large as the scores
    (factor - means[f]) * _product([*means[:f], *means[f + 1 :]])
    for f, factor in enumerate(factors)
  )
  return cast(np.ndarray, sum(moves, _product(means)))


def _product(arrays):
  return functools.reduce(operator.mul, arrays)


def _means(factors):
  return [factor.mean(0, dtype=np.float64) for factor in factors]


def _checked(factors):
  shapes = [np.shape(factor) for factor in factors]
  if isinstance(factors, np.ndarray) or {len(s) for s in shapes} != {3}:
    raise ValueError(
      f'factors of shapes {shapes}: give a tuple of arrays [models, rows,'
      ' queries], for example (scores,)'
    )
  return factors
