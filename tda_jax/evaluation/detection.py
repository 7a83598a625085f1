"""Are the rows found that must be behind a prediction, or have a wrong label?

A query's first rows should be of its class; a model misled by a patch or by
foreign rows was misled by rows that are known; a row that supports itself most
has a label that had to be remembered.
"""

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from sklearn import metrics

from tda_jax import door
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import agreement
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem, PyTree
from tda_jax.run import Run


@door.verb('self_influence', 'at_once')
def self_influence(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  *,
  key: jax.Array | int | None = None,
  at_once: int = 256,
  name: str | None = None,
  progress: bool = False,
) -> np.ndarray:
  """score[i, i] of every training row, [N]: each is its own query.

  As all scores it is of the problem's measure; for self-influence in the loss
  give a problem whose measure is minus the loss.

  Grad-Dot, Grad-Cos, influence by Kronecker factors, TRAK and representer points
  need no gradient of a query for it (`Method.own`): one pass over the rows.
  Others take rows `at_once`, and only scores of a row for those beside it are
  computed. The method is prepared for each of these blocks on all rows, with
  the same key, so that what it fits is the same.

  Args:
    run: one model; or members, for an `ensemble` method.
    at_once: memory grows with it; what the method fits is fitted N / at_once
      times.
    name: of the method, for errors and the bar; None: its own.

  Raises:
    ValueError: bad rows; a solver diverged.
  """
  entered = door.enter(method, problem, run, train, None, key)
  door.check_batch_size(at_once, 'at_once')
  run, train, _, key, _ = entered
  name = name or method_lib.name_of(method)
  rows = jax.tree.map(jnp.asarray, train)
  if method.own:
    own = jax.jit(lambda *given: method_lib.own(method, problem, *given))
    return door.finite(np.asarray(own(run, rows, key)), name, method.cure)

  @jax.jit
  def block(run, rows, batch, key):
    prepared = method_lib.prepare(
      method, problem, run, rows, batch.examples, key
    )
    scores = method_lib.score(method, problem, run, prepared, batch)
    return jnp.diagonal(scores), prepared

  found, short, worst = [], [], []
  size = min(at_once, rows_lib.count(train))
  every = rows_lib.batches(train, size)
  total = -(-rows_lib.count(train) // size)
  for batch in tqdm.tqdm(every, name, total, disable=not progress):
    scores, prepared = block(run, rows, jax.tree.map(jnp.asarray, batch), key)
    method_lib.check_solution(prepared, name, method.cure)
    found.append(np.asarray(scores)[batch.mask > 0])
    if prepared.solution is not None:
      counts = batch.mask > 0
      short.append(~np.asarray(prepared.solution.converged)[..., counts])
      residuals = np.asarray(prepared.solution.residuals)
      if residuals.size:
        worst.append(residuals[..., -1, :][..., counts].max())
  if short:
    share = np.concatenate(short, -1).mean()
    door.say_short(share, max(worst, default=None), name, level=4)
  return door.finite(np.concatenate(found), name, method.cure)


def class_detection(
  scores: np.ndarray,
  labels: np.ndarray,
  query_labels: np.ndarray,
  *,
  k: int = 1,
  queries: np.ndarray | None = None,
) -> np.ndarray:
  """Share of each query's k strongest supporters that are of its class, [Q].

  Hanawa et al. 2021, "Evaluation of similarity-based explanations" (identical
  class test, k = 1); Bareeva et al. 2024, Quanda, whose class has k = 5 by
  default. From 0 to 1, larger is better; chance is the share of the query's
  class among the rows.

  Subclass detection is this with labels that the model never saw: it was
  trained on groups of classes (`worlds.grouped`), and `labels` and
  `query_labels` are the classes within them.

  Tied scores share their places: it is the mean over all orders of the tied, so
  that scores that are all equal are at chance.

  Args:
    scores: [N, Q].
    labels: [N] of the rows.
    query_labels: [Q].
    queries: which to keep, a [Q] mask or indices (None: all). Quanda's filter
      keeps those whose class (for subclasses: whose group) is predicted.

  Raises:
    ValueError: shapes that do not fit, scores that are not finite, k not from 1
      to N, no query kept.
  """
  scores = agreement.matrix(scores, 'scores')
  labels, query_labels = np.asarray(labels), np.asarray(query_labels)
  if scores.shape != (*labels.shape, *query_labels.shape):
    raise ValueError(
      f'scores {list(scores.shape)}, labels {list(labels.shape)} of rows and'
      f' {list(query_labels.shape)} of queries: give [N, Q], [N] and [Q]'
    )
  if not 1 <= k <= len(scores):
    raise ValueError(f'k={k} of {len(scores)} rows: give 1 to {len(scores)}')
  kept = _kept(queries, scores)
  scores, same = scores[:, kept], labels[:, None] == query_labels[kept]
  last = np.partition(scores, len(scores) - k, axis=0)[len(scores) - k]
  above, tied = scores > last, scores == last
  places = k - above.sum(0)
  share = (same & tied).sum(0) / tied.sum(0)
  return ((same & above).sum(0) + places * share) / k


def average_precision(
  scores: np.ndarray,
  flagged: np.ndarray,
  *,
  queries: np.ndarray | None = None,
) -> np.ndarray:
  """Area under the precision-recall curve of flagged rows, of each query, [Q].

  Σ_n (R_n − R_{n−1}) P_n over the distinct scores from the largest down, with
  precision P_n and recall R_n of the rows that score as much or more: what
  scikit-learn's `average_precision_score` is, and torcheval's `binary_auprc`,
  which Quanda takes. From 0 to 1, larger is better; chance is
  `random_precision`, about the share of flagged rows, and scores that are all
  equal have just that share.

  Shortcut detection (Quanda, after Koh & Liang 2017): rows are flagged that
  have the patch (`worlds.shortcut`, of class c); queries all have it
  (`worlds.patched`), and those are kept whose class is not c and whose
  prediction is: `queries=(labels != c) & (predicted == c)`.

  Mixed data sets (Quanda, after Hammoudeh & Lowd 2022): the foreign rows are
  flagged (`worlds.mixed`), and queries are other foreign rows; Quanda can keep
  those that are predicted to be of the class that the foreign rows were given.

  Args:
    scores: [N, Q].
    flagged: [N] bool.
    queries: which to keep, a [Q] mask or indices; None: all.

  Raises:
    ValueError: shapes that do not fit, scores that are not finite, all rows
      flagged or none, no query kept.
  """
  scores = agreement.matrix(scores, 'scores')
  flagged = _two_groups(scores[:, 0], flagged)[1]
  scores = scores[:, _kept(queries, scores)]
  order = np.argsort(-scores, axis=0)
  scores, found = np.take_along_axis(scores, order, 0), flagged[order]
  precision = found.cumsum(0) / np.arange(1, len(scores) + 1)[:, None]
  # Of tied rows all are taken: precision is that at the last of them.
  place = np.arange(len(scores))[:, None]
  last = np.ones(scores.shape, bool)
  last[:-1] = scores[:-1] != scores[1:]
  ends = np.where(last, place, len(scores))
  ends = np.minimum.accumulate(ends[::-1], axis=0)[::-1]
  precision = np.take_along_axis(precision, ends, 0)
  return (precision * found).sum(0) / flagged.sum()


def random_precision(flagged: np.ndarray) -> float:
  """Expected average precision of rows in random order.

  (H_N + (N − H_N)(r − 1)/(N − 1)) / N for r of N rows flagged, with H_N = Σ 1/n:
  above r/N by at most H_N/N.
  """
  flagged = np.asarray(flagged, bool)
  rows, found = len(flagged), flagged.sum()
  harmonic = (1 / np.arange(1, rows + 1)).sum()
  return float((harmonic + (rows - harmonic) * (found - 1) / (rows - 1)) / rows)


def auc(scores: np.ndarray, flagged: np.ndarray) -> tuple[float, float]:
  """Area under the ROC curve and its standard error (DeLong et al. 1988).

  The chance that a flagged row has a larger score than one that is not, ties
  counted half: .5 is chance. The error is NaN where one row only is flagged, or
  not flagged, of whose group nothing tells the spread.

  Args:
    scores: [N].
    flagged: [N] bool.

  Raises:
    ValueError: shapes that differ, scores that are not finite, all rows
      flagged or none.
  """
  scores, flagged = _two_groups(scores, flagged)
  above, below = scores[flagged], scores[~flagged]
  # Of each row: the share of the other group that is on the right side of it.
  wins = _share_below(below, above), 1 - _share_below(above, below)
  known = min(len(above), len(below)) > 1
  error = sum(w.var(ddof=1) / len(w) for w in wins) ** 0.5 if known else np.nan
  return float(metrics.roc_auc_score(flagged, scores)), float(error)


def found_curve(scores: np.ndarray, flagged: np.ndarray) -> np.ndarray:
  """Share of the flagged rows among the first n, for n from 1 to N, [N].

  Rows are taken from the largest score down, tied ones in their order in the
  data. Quanda adds 1e-4 · index to the scores instead, which reorders rows
  whose scores differ by less than that.

  Args, errors: as in `auc`.
  """
  scores, flagged = _two_groups(scores, flagged)
  order = np.argsort(-scores, kind='stable')
  return np.cumsum(flagged[order]) / flagged.sum()


def mislabel_area(
  scores: np.ndarray, flagged: np.ndarray
) -> tuple[float, float]:
  """Area under `found_curve` over the share of rows seen; its standard error.

  Trapezoids between the N points, over N, as Quanda has it (after Kwon et al.
  2024, DataInf). Larger is better; 1/2 − 1/(2N²) is chance. For r of N rows
  flagged it is from r/(2N) to 1 − r/(2N) − 1/(2rN): .95 at most at 10% noise.
  Without ties it is r/(2N) + (1 − r/N) AUC, less 1/(2rN) where the first row is
  flagged, so that its error is 1 − r/N times that of the AUC.

  Args:
    scores: [N], for example `self_influence` in the loss.
    flagged: [N] bool, rows of a wrong label.

  Raises:
    ValueError: as `auc`.
  """
  curve = found_curve(scores, flagged)
  area = np.trapezoid(curve) / len(curve)
  _, error = auc(scores, flagged)
  return float(area), error * (1 - float(np.mean(np.asarray(flagged, bool))))


def _two_groups(scores, flagged):
  scores, flagged = np.asarray(scores, np.float64), np.asarray(flagged, bool)
  if scores.ndim != 1 or scores.shape != flagged.shape:
    raise ValueError(
      f'scores {scores.shape} and flags {flagged.shape}: give one of each a row'
    )
  if not np.isfinite(scores).all():
    raise ValueError('scores are not finite: run the stage that makes them')
  if flagged.all() or not flagged.any():
    raise ValueError(
      'an area under the curve compares two groups, and'
      f' {flagged.sum()} of {len(flagged)} rows are flagged: flag some'
    )
  return scores, flagged


def _kept(queries, scores):
  """Indices of the queries to keep."""
  every = np.arange(scores.shape[1])
  if queries is None:
    return every
  queries = np.asarray(queries)
  if queries.dtype == bool and queries.shape != every.shape:
    raise ValueError(
      f'a mask of {queries.size} queries for scores of {len(every)}: give one'
      ' flag for each'
    )
  kept = every[queries] if queries.size else every[:0]
  if not kept.size:
    raise ValueError(
      'no query is left: none of them is one that this metric is about'
    )
  return kept


def _share_below(values, of):
  """Of each of `of`: the share of `values` below it, ties counted half."""
  values = np.sort(values)
  sides = [np.searchsorted(values, of, side) for side in ('left', 'right')]
  return np.mean(sides, 0) / len(values)
