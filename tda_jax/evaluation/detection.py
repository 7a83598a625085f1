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

from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import agreement
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.training.fit import Run


def self_influence(
  method: Method,
  problem: Problem,
  run: Run,
  train: dict,
  *,
  key: jax.Array | None = None,
  at_once: int = 256,
  name: str = 'the method',
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
    name: of the method, for errors and the bar.

  Raises:
    ValueError: bad rows; a solver diverged.
  """
  rows_lib.check(train, 'train')
  key = jax.random.key(0) if key is None else key
  rows = jax.tree.map(jnp.asarray, train)
  if method.own:
    own = jax.jit(lambda *given: method_lib.own(method, problem, *given))
    return _finite(np.asarray(own(run, rows, key)), name, method)

  @jax.jit
  def block(run, rows, batch, key):
    prepared = method_lib.prepare(
      method, problem, run, rows, batch.examples, key
    )
    scores = method_lib.score(method, problem, run, prepared, batch)
    return jnp.diagonal(scores), prepared

  found = []
  size = min(at_once, rows_lib.count(train))
  every = rows_lib.batches(train, size)
  total = -(-rows_lib.count(train) // size)
  for batch in tqdm.tqdm(every, name, total, disable=not progress):
    scores, prepared = block(run, rows, jax.tree.map(jnp.asarray, batch), key)
    method_lib.check_solution(prepared, name)
    found.append(np.asarray(scores)[batch.mask > 0])
  return np.concatenate(found)


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
  precision P_n and recall R_n of the rows that score as much or more
  (scikit-learn's `average_precision_score`; the same sum as torcheval's
  `binary_auprc`, which Quanda takes). From 0 to 1, larger is better; chance is
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
  kept = scores[:, _kept(queries, scores)]
  return np.array(
    [metrics.average_precision_score(flagged, column) for column in kept.T]
  )


def random_precision(flagged: np.ndarray) -> float:
  """Expected average precision of rows in random order.

  (H_N + (N − H_N)(r − 1)/(N − 1)) / N for r of N rows flagged, with H_N = Σ 1/n:
  above r/N by at most H_N/N.
  """
  flagged = np.asarray(flagged, bool)
  rows, found = len(flagged), flagged.sum()
  harmonic = (1 / np.arange(1, rows + 1)).sum()
  return float((harmonic + (rows - harmonic) * (found - 1) / (rows - 1)) / rows)
