"""Dataset cleaning: is a model better without the rows that are ranked first?

All rows are ranked, models are trained without the first k, and their accuracy
on queries is compared with that of models trained without k random rows, so that
the effect of having fewer rows cancels.

Rank rows by what makes a row suspect, largest first: self-influence in the loss
(a label that had to be memorised), or minus the mean score over queries of a
measure of their true class (rows that harm). `brittleness.margins_without` trains
the models without the rows.

Source: Khanna et al. 2019, "Interpreting Black Box Predictions using Fisher
Kernels", §5, https://arxiv.org/abs/1810.10118, and the first releases of Quanda.
"""

import numpy as np

from tda_jax.evaluation import brittleness


def first(ranking: np.ndarray, k: int) -> np.ndarray:
  """The k rows with the largest values, [k]; ties in the order of the rows.

  Args:
    ranking: [N].

  Raises:
    ValueError: not [N] finite values, k not from 0 to N − 1.
  """
  ranking = np.asarray(ranking, np.float64)
  if ranking.ndim != 1 or not np.isfinite(ranking).all():
    raise ValueError(
      f'a ranking of shape {ranking.shape}: give one finite value a row'
    )
  return brittleness.top_rows(ranking[:, None], k)[0]


def controls(rows: int, k: int, draws: int, seed: int) -> np.ndarray:
  """`draws` random sets of k of the rows, [draws, k].

  Raises:
    ValueError: k is not from 0 to `rows` − 1.
  """
  values = np.random.default_rng(seed).random((rows, draws))
  return brittleness.top_rows(values, k)


def gain(cleaned: np.ndarray, control: np.ndarray) -> np.ndarray:
  """Accuracy without the rows ranked first − without random rows, [Q].

  The accuracy of a query is the share of models that classify it right. The mean
  over queries is from −1 to 1; larger is better, 0 is chance.

  Args:
    cleaned: [R, Q] margins after removing `first`.
    control: [C, R, Q] margins after removing each of `controls`.

  Raises:
    ValueError: other shapes, another number of queries, a margin that is not
      finite.
  """
  cleaned, control = np.asarray(cleaned), np.asarray(control)
  if (cleaned.ndim, control.ndim) != (2, 3) or (
    cleaned.shape[-1] != control.shape[-1]
  ):
    raise ValueError(
      f'margins {cleaned.shape} after cleaning and {control.shape} of controls:'
      ' give [R, Q] and [C, R, Q] of the same queries'
    )
  if not (np.isfinite(cleaned).all() and np.isfinite(control).all()):
    raise ValueError('margins are not finite: a model diverged in its training')
  return (cleaned > 0).mean(0) - (control > 0).mean((0, 1))
