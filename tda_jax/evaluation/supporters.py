"""Are a query's strongest rows more than noise? Picks rows, then tests them.

A test of all N·Q pairs must correct for each of them, which a few models cannot
afford. People look at a query's top k only, so only those are tested. But rows
that were picked for their high scores have high scores in the models that picked
them. So the other models test them (data splitting), and each part of the models
picks in turn.

For row i, query q and model e let u_e = s_e[i, q] / mean_j |s_e[j, q]|: models
differ in how large a query's scores are, which says nothing about its rows. For
each row that a part picks, the other models test by Student's t, one-sided,

  H0: E u ≤ max(0, E mean_j u[j, q])

so that a row counts if it supports the query, and does so more than the average
row. (Against 0 alone, all rows would count where scores share a positive mean;
against the mean alone, nearly all where a few rows have far lower scores.)

With p_f the p-value by part f, 1 where f did not pick the row, of K parts,

  p = K/2 · (the second smallest p_f)

is valid for any dependence between parts (Rüger 1978; for splits: Meinshausen,
Meier & Bühlmann 2009, "p-Values for High-Dimensional Regression",
https://arxiv.org/abs/0811.2177). At most k·Q·u pairs without an effect are
expected below u, as the procedure of Benjamini and Hochberg assumes for k·Q p-values.
"""

from typing import NamedTuple, cast

import numpy as np

from tda_jax.evaluation import significance

FEWEST = 4  # models: one picks, and three have two degrees of freedom
PARTS = 5
SPLITS = 10  # in halves


class Supporters(NamedTuple):
  """A query's strongest supporters, and whether other models agree.

  Attributes:
    rows: [Q, k], those with the highest mean score of all models, highest first.
    p: [Q, k], of H0 that the row supports the query no more than the average
      row does, or not at all; 1 where fewer than two parts picked it.
    significant: [Q, k] bool, with the false discovery rate controlled over them.
      It is stricter than `confirmed`: five models mark fewer rows than eight.
    confirmed: share of the rows that one part of the models picks which are
      significant by the others, mean over parts; the rate is controlled in each.
    overlap: [Q], share of the top k that two halves of the models have in
      common, mean over random halves; from 0 to 1, larger is surer.
    chance: k/N, the overlap of two random sets.
  """

  rows: np.ndarray
  p: np.ndarray
  significant: np.ndarray
  confirmed: float
  overlap: np.ndarray
  chance: float


def supporters(
  scores: np.ndarray, k: int = 10, *, rate: float = 0.05, seed: int = 0
) -> Supporters:
  """The top k of each query over S models, and how sure they are.

  For opponents, call `supporters(-scores)`. The models are cut into five parts
  (one model each if there are fewer), which pick in turn; see the module's formulas.

  Args:
    scores: [S, N, Q] of models that are independent: average a model's own
      checkpoints first.
    rate: of false discoveries, as in `significance.discoveries`.
    seed: of the order of equal scores, and of the halves.

  Raises:
    ValueError: fewer than four models; scores not finite; k or rate out of
      range.
  """
  scores = significance.checked(scores)
  models, count, queries = scores.shape
  if models < FEWEST:
    raise ValueError(too_few(models))
  if not isinstance(k, (int, np.integer)) or not 1 <= k <= count:
    raise ValueError(f'k={k!r} of {count} training rows: give 1 to {count}')
  rng = np.random.default_rng(seed)
  rows = _top(scores.mean(0), k, rng)
  p_of_parts, shares = [], []
  for part in np.array_split(np.arange(models), min(models, PARTS)):
    picked = _top(scores[part].mean(0), k, rng)
    p = _tested(np.delete(scores, part, 0), picked)
    shares.append(significance.discoveries(p, rate).mean())
    p_of_pairs = np.ones((count, queries))
    np.put_along_axis(p_of_pairs, picked.T, p.T, 0)
    p_of_parts.append(np.take_along_axis(p_of_pairs, rows.T, 0).T)
  p = np.minimum(1, len(p_of_parts) / 2 * np.sort(p_of_parts, 0)[1])
  return Supporters(
    rows,
    p,
    significance.discoveries(p, rate),
    float(np.mean(shares)),
    _overlap(scores, k, rng),
    k / count,
  )


def marked(
  scores: np.ndarray, k: int = 10, *, rate: float = 0.05
) -> np.ndarray:
  """Which of each query's k supporters and k opponents are significant.

  For a report page: [N, Q] bool, False for all other rows, and for all rows if
  there are fewer than four models. Supporters and opponents are two families,
  each with its own rate.

  Raises:
    ValueError: as `supporters`.
  """
  scores = np.asarray(scores)
  marks = np.zeros(scores.shape[1:], bool)
  if len(scores) >= FEWEST:
    for sign in (1, -1):
      result = supporters(sign * scores, k, rate=rate)
      places = result.rows.T
      marked_rows = np.take_along_axis(marks, places, 0) | result.significant.T
      np.put_along_axis(marks, places, marked_rows, 0)
  return marks


def sentence(scores: np.ndarray, k: int = 10, *, rate: float = 0.05) -> str:
  """The result of `supporters` as a sentence; or that models are too few."""
  models = len(scores)
  if models < FEWEST:
    return too_few(models)
  result = supporters(scores, k, rate=rate)
  return (
    f'of the {k} strongest supporters of each query that some of the {models}'
    f' models pick, the others confirm {result.confirmed:.0%} (at {rate:.0%} false'
    f' discoveries); halves of the models share {result.overlap.mean():.0%} of'
    f' their top {k}, by chance {result.chance:.0%}'
  )


def too_few(models: int) -> str:
  """The sentence for too few models, of errors and pages."""
  return (
    f'{models} model{"s" * (models != 1)} cannot say which supporters are more'
    f' than noise, as some pick them and the others test: train {FEWEST} or more'
  )


def _tested(scores, picked):
  """One-sided p of the picked rows, [Q, k], by scores [T, N, Q]."""
  size = np.abs(scores).mean(1, keepdims=True)
  scale = np.where(size == 0, 1.0, size)
  places = np.broadcast_to(picked.T, (len(scores), *picked.T.shape))
  scaled = np.take_along_axis(scores, places, 1) / scale
  above_mean = scaled - scores.mean(1, keepdims=True) / scale
  return np.maximum(*map(significance.one_sided, (scaled, above_mean))).T


def _top(scores, k, rng):
  """[Q, k] rows with the highest scores [N, Q]; ties in a random order."""
  order = rng.permutation(len(scores))
  shuffled = -scores[order]
  candidates = np.argpartition(shuffled, k - 1, axis=0)[:k]
  inside = np.argsort(np.take_along_axis(shuffled, candidates, 0), 0, 'stable')
  return order[np.take_along_axis(candidates, inside, 0)].T


def _overlap(scores, k, rng) -> np.ndarray:
  """Mean |top k ∩ top k|/k of two halves of the models, [Q]."""
  half, total = len(scores) // 2, 0
  for _ in range(SPLITS):
    order = rng.permutation(len(scores))
    both = np.zeros(scores.shape[1:], np.int8)
    for part in (order[:half], order[half : 2 * half]):
      places = _top(scores[part].mean(0), k, rng).T
      np.put_along_axis(
        both, places, np.take_along_axis(both, places, 0) + 1, 0
      )
    total = total + (both == 2).sum(0) / k
  return cast(np.ndarray, total / SPLITS)
