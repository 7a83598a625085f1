"""Query loss difference: what removing a query's top rows does to its loss.

QLD(q) = loss of q after the rows that a method ranks first for q are removed and
the model is trained again − its mean loss after as many random rows are removed.

In the unit of the measure, nats where that is a log-likelihood (loss = −measure).
Larger is better: the method finds rows that the query needs. 0 is chance, which
random scores reach in expectation; there is no upper limit. Unlike LDS it looks
only at the rows that are ranked first, and only their order counts.

By token, in two senses that should not be confused. With `tokens`, the
difference is divided by the number of the query's target tokens: the loss is then
a mean over them, as in bergson's table. Its "per-token QLD" is another
experiment: single *training* tokens are removed, 1% of all, which
`removal.without(column='mask')` does and this file then compares.

Source: the leaderboard of bergson (Quirke et al. 2026,
https://arxiv.org/abs/2606.11660), method `filter-proponents` of its `validate`;
it removes rows from the run that was attributed, as `removal.without` does. Its
intervals are over queries alone.
"""

import numpy as np

from tda_jax.evaluation import bootstrap


def qld(
  filtered: np.ndarray, random: np.ndarray, tokens: np.ndarray | None = None
) -> np.ndarray:
  """QLD of each query, averaged over R repeats and C random removals, [Q].

  Args:
    filtered: [Q, R, Q] outcomes, model q trained without the rows that query q
      ranks first; only its measure of query q is read.
    random: [C, R', Q] outcomes, of models trained without random rows.
    tokens: [Q] numbers of target tokens, to divide by; None: no division.

  Raises:
    ValueError: shapes that do not belong together, values that are not finite,
      numbers of tokens that are not above 0.
  """
  filtered, random, tokens = _checked(filtered, random, tokens)
  return (random.mean((0, 1)) - filtered.mean(0)) / tokens


def interval(
  filtered: np.ndarray,
  random: np.ndarray,
  tokens: np.ndarray | None = None,
  *,
  over: str = 'both',
  resamples: int = 500,
  seed: int = 0,
) -> bootstrap.Estimate:
  """Mean QLD over queries with its 95% bootstrap interval.

  With `over` 'queries' it is over other queries for the same models (bergson's),
  with 'subsets' over other retrained models (random removals and, where they are
  several, repeats), with 'both' over all of them, each resampled independently.
  Methods that share queries and random removals are resampled alike, for
  `bootstrap.difference`.

  Args:
    filtered, random, tokens: as in `qld`, with as many repeats in both.

  Raises:
    ValueError: as in `qld`; other numbers of repeats; `over` is not one of
      'queries', 'subsets', 'both'.
  """
  filtered, random, tokens = _checked(filtered, random, tokens)
  count, repeats, queries = random.shape
  if len(filtered) != repeats:
    raise ValueError(
      f'{len(filtered)} repeats without the top rows and {repeats} without random'
      ' ones: give both the same'
    )
  controls, asked = bootstrap.draws(count, queries, over, resamples, seed)
  if over == 'queries':
    runs = np.ones((resamples, repeats))
  else:
    runs = bootstrap.counts(repeats, resamples, seed, stream=2)
  by_run = np.tensordot(controls / count, random, 1) - filtered  # [B, R, Q]
  by_query = np.einsum('br,brq->bq', runs / repeats, by_run) / tokens
  resampled = (by_query * asked).mean(1)
  value = ((random.mean((0, 1)) - filtered.mean(0)) / tokens).mean()
  drawn = (count * repeats, queries, over, resamples, seed)
  return bootstrap.estimate(value, resampled, drawn)


def _checked(filtered, random, tokens):
  """float64 (measures of q without its own rows [R, Q], [C, R', Q], [Q])."""
  filtered, random = (np.asarray(x, np.float64) for x in (filtered, random))
  queries = random.shape[-1] if random.ndim == 3 else 0
  if not random.size or (
    filtered.ndim != 3 or filtered.shape[::2] != (queries, queries)
  ):
    raise ValueError(
      f'outcomes of shapes {list(filtered.shape)} without the top rows and'
      f' {list(random.shape)} without random ones: give [Q, R, Q] and [C, R, Q] of'
      ' the same queries'
    )
  own = np.einsum('qrq->rq', filtered)
  if not (np.isfinite(own).all() and np.isfinite(random).all()):
    raise ValueError(
      'outcomes are not finite: a model diverged in its training'
    )
  tokens = np.ones(queries) if tokens is None else np.asarray(tokens, float)
  if tokens.shape != (queries,) or not (tokens > 0).all():
    raise ValueError(
      f'tokens of shape {list(tokens.shape)}: give the number of target tokens of'
      f' each of the {queries} queries, from 1'
    )
  return own, random, tokens
