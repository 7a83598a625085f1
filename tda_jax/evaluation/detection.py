"""Does the method find the rows that caused a prediction, or are mislabelled?

The strongest supporters of a query should be of its class. Where a patch or
foreign rows mislead a model, the rows that did so are known. A row that supports
itself most has a label that had to be memorised.
"""

import numpy as np

from tda_jax.evaluation import agreement


def class_detection(
  scores: np.ndarray,
  labels: np.ndarray,
  query_labels: np.ndarray,
  *,
  k: int = 1,
  queries: np.ndarray | None = None,
) -> np.ndarray:
  """Share of each query's k strongest supporters that are of its class, [Q].

  From 0 to 1, larger is better; chance is the share of the query's class among
  the rows. Tied scores share their places: the value is the mean over all orders
  of the tied rows, so that scores that are all equal have the value of chance.

  Subclass detection is this metric with labels that the model never saw: it was
  trained on groups of classes (`worlds.grouped`), and `labels` and
  `query_labels` are the classes within them.

  Sources: Hanawa et al. 2021, "Evaluation of Similarity-based Explanations"
  (identical class test, k = 1), https://arxiv.org/abs/2006.04528; Bareeva et al.
  2024, Quanda (k = 5 by default), https://arxiv.org/abs/2410.07158

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
  selected = _selected(queries, scores)
  scores, same = scores[:, selected], labels[:, None] == query_labels[selected]
  last = np.partition(scores, len(scores) - k, axis=0)[len(scores) - k]
  above, tied = scores > last, scores == last
  places = k - above.sum(0)
  share = (same & tied).sum(0) / tied.sum(0)
  return ((same & above).sum(0) + places * share) / k


def random_class_detection(
  labels: np.ndarray, query_labels: np.ndarray
) -> float:
  """Expected `class_detection` of random scores: the share of a query's class.

  The mean over queries [Q] of the share of the rows [N] with the query's label.
  """
  return float(np.mean(np.asarray(labels)[:, None] == query_labels))


def average_precision(
  scores: np.ndarray,
  flagged: np.ndarray,
  *,
  queries: np.ndarray | None = None,
) -> np.ndarray:
  """Area under the precision-recall curve of flagged rows, of each query, [Q].

  Σ_n (R_n − R_{n−1}) P_n over the distinct scores from the largest down, with
  precision P_n and recall R_n of the rows that score as much or more. It equals
  scikit-learn's `average_precision_score` and torcheval's `binary_auprc`, which
  Quanda uses. From 0 to 1, larger is better; chance is `random_precision`, about
  the share of flagged rows; scores that are all equal have exactly that share.

  Shortcut detection (Quanda, after Koh & Liang 2017,
  https://arxiv.org/abs/1703.04730): the flagged rows have the patch
  (`worlds.shortcut`, of class c). All queries have it (`worlds.patched`), and
  those count whose class is not c although c is predicted:
  `queries=(labels != c) & (predicted == c)`.

  Mixed data sets (Quanda, after Hammoudeh & Lowd 2022,
  https://arxiv.org/abs/2201.10055): the foreign rows are flagged
  (`worlds.mixed`), and queries are other foreign rows; Quanda can keep only those
  that are predicted to be of the class that the foreign rows were given.

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
  scores = scores[:, _selected(queries, scores)]
  order = np.argsort(-scores, axis=0)
  scores, hits = np.take_along_axis(scores, order, 0), flagged[order]
  precision = hits.cumsum(0) / np.arange(1, len(scores) + 1)[:, None]
  # Tied rows are taken together: their precision is that at the last of them.
  place = np.arange(len(scores))[:, None]
  last = np.ones(scores.shape, bool)
  last[:-1] = scores[:-1] != scores[1:]
  ends = np.where(last, place, len(scores))
  ends = np.minimum.accumulate(ends[::-1], axis=0)[::-1]
  precision = np.take_along_axis(precision, ends, 0)
  return (precision * hits).sum(0) / flagged.sum()


def random_precision(flagged: np.ndarray) -> float:
  """Expected average precision of rows in random order.

  (H_N + (N − H_N)(r − 1)/(N − 1)) / N for r of N rows flagged, with H_N = Σ 1/n:
  above r/N by at most H_N/N.
  """
  flagged = np.asarray(flagged, bool)
  rows, positives = len(flagged), flagged.sum()
  harmonic = (1 / np.arange(1, rows + 1)).sum()
  return float(
    (harmonic + (rows - harmonic) * (positives - 1) / (rows - 1)) / rows
  )


def auc(scores: np.ndarray, flagged: np.ndarray) -> tuple[float, float]:
  """Area under the ROC curve and its standard error.

  The probability that a flagged row has a larger score than one that is not,
  ties counted half; 0.5 is chance. The error is NaN if only one row is flagged,
  or only one is not: the spread of a group of one is not known.

  Source of the error: DeLong, DeLong & Clarke-Pearson 1988,
  https://doi.org/10.2307/2531595

  Args:
    scores: [N].
    flagged: [N] bool.

  Raises:
    ValueError: shapes that differ, scores that are not finite, all rows
      flagged or none.
  """
  from sklearn import metrics

  scores, flagged = _two_groups(scores, flagged)
  above, below = scores[flagged], scores[~flagged]
  # For each row, the share of the other group that scores on the right side.
  wins = _share_below(below, above), 1 - _share_below(above, below)
  measurable = min(len(above), len(below)) > 1
  error = (
    sum(w.var(ddof=1) / len(w) for w in wins) ** 0.5 if measurable else np.nan
  )
  return float(metrics.roc_auc_score(flagged, scores)), float(error)


def detection_curve(scores: np.ndarray, flagged: np.ndarray) -> np.ndarray:
  """Share of the flagged rows among the first n, for n from 1 to N, [N].

  Rows are taken from the largest score down, tied ones in the order of the data.
  (Quanda adds 1e-4 · index to the scores instead, which reorders rows whose
  scores differ by less than that.) Arguments and errors as in `auc`.
  """
  scores, flagged = _two_groups(scores, flagged)
  order = np.argsort(-scores, kind='stable')
  return np.cumsum(flagged[order]) / flagged.sum()


def mislabel_area(
  scores: np.ndarray, flagged: np.ndarray
) -> tuple[float, float]:
  """(Area under `detection_curve` over the share of rows, its standard error).

  The area of trapezoids between the N points, divided by N, as in Quanda (after
  Kwon et al. 2024, DataInf, https://arxiv.org/abs/2310.00902). Larger is better;
  1/2 − 1/(2N²) is chance. For r of N rows
  flagged it is from r/(2N) to 1 − r/(2N) − 1/(2rN): .95 at most at 10% noise.
  Without ties it is r/(2N) + (1 − r/N) AUC, less 1/(2rN) where the first row is
  flagged, so that its error is 1 − r/N times that of the AUC.

  Args:
    scores: [N], for example `self_influence` in the loss.
    flagged: [N] bool, rows of a wrong label.

  Raises:
    ValueError: as `auc`.
  """
  curve = detection_curve(scores, flagged)
  area = np.trapezoid(curve) / len(curve)
  _, error = auc(scores, flagged)
  return float(area), error * (1 - float(np.mean(np.asarray(flagged, bool))))


def random_area(rows: int) -> float:
  """Expected `mislabel_area` of N rows in random order, 1/2 − 1/(2N²)."""
  return 0.5 - 0.5 / rows**2


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


def _selected(queries, scores):
  """Indices of the queries that count."""
  all_queries = np.arange(scores.shape[1])
  if queries is None:
    return all_queries
  queries = np.asarray(queries)
  if queries.dtype == bool and queries.shape != all_queries.shape:
    raise ValueError(
      f'a mask of {queries.size} queries for scores of {len(all_queries)}: give'
      ' one flag for each'
    )
  selected = all_queries[queries] if queries.size else all_queries[:0]
  if not selected.size:
    raise ValueError(
      'no query is left: none of them is one that this metric is about'
    )
  return selected


def _share_below(values, points):
  """The share of `values` below each of the points, ties counted half."""
  values = np.sort(values)
  sides = [np.searchsorted(values, points, side) for side in ('left', 'right')]
  return np.mean(sides, 0) / len(values)
