"""Quanda's metrics of one method in every world: what, how, and by chance.

The metrics themselves are those of `tda_jax.evaluation`. Where the settings of
Quanda 0.5.0 differ: its class detection takes the 5 strongest supporters (here
1), and asks about the predicted class (here the true one); its shortcut
detection asks about the true class of a patched query (here about the one that
the patch makes of it, which is what the patched rows explain).
"""

from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import (
  agreement,
  bootstrap,
  brittleness,
  cleaning,
  detection,
  lds,
  sanity,
)


class Metric(NamedTuple):
  """A metric in words; `better`: 'higher' or 'lower'."""

  label: str
  definition: str
  better: str = 'higher'


NOT_MEASURED = (
  'the models are right, or misled, on no query that this is about: it is not'
  ' measured; train for more epochs'
)
METRICS = {  # in the order of tables
  'class_detection': Metric(
    'Class detection',
    'Share of queries whose strongest supporter is of their class.',
  ),
  'subclass_detection': Metric(
    'Subclass detection',
    'The same for the original classes of a model that was trained on groups'
    ' of classes.',
  ),
  'shortcut': Metric(
    'Shortcut detection',
    'AUPRC of the rows with a patch, for patched queries of other classes that'
    ' the patch misleads.',
  ),
  'mixed': Metric(
    'Mixed data sets',
    'AUPRC of the foreign rows, for foreign queries that are taken for their'
    ' class.',
  ),
  'mislabel_auc': Metric(
    'Mislabel AUC',
    'Area under the ROC curve of wrong labels by self-influence in the loss.',
  ),
  'mislabel_area': Metric(
    'Mislabel area',
    "Quanda's: area under the share of wrong labels found when rows are looked"
    ' through by self-influence.',
  ),
  'cleaning': Metric(
    'Dataset cleaning',
    'Accuracy after training without the rows of most self-influence, less that'
    ' without as many random ones.',
  ),
  'cardinality': Metric(
    'Top-k cardinality',
    'Different rows among the k strongest supporters of all queries, as a'
    ' share.',
  ),
  'randomisation': Metric(
    'Model randomisation',
    'Rank correlation with the scores of models with random parameters.',
    better='lower',
  ),
  'lds': Metric(
    'LDS',
    'Spearman correlation, over random halves of the rows, of summed scores'
    ' with retrained models.',
  ),
  'lds_kendall': Metric('LDS, Kendall', "The same by Kendall's τ."),
  'loo': Metric(
    'Leave-one-out',
    'Spearman correlation, over rows, with the effect of retraining without'
    ' the row.',
  ),
  'brittleness': Metric(
    'Brittleness',
    'Share of right queries that turn wrong after training without their k'
    ' strongest supporters.',
  ),
}


class Interval(NamedTuple):
  """A value and its 95% interval, over queries (and subsets, of an LDS).

  Attributes:
    n: queries, or rows, that it is a mean of; None: all.
  """

  value: float
  low: float
  high: float
  n: int | None = None


def measured(
  config, worlds, truth, left, name: str, scores, retrain: bool = True
) -> dict[str, Interval]:
  """Every metric that the scores allow.

  Args:
    truth: `findings.Truth` of the clean world.
    left: (rows left out, effects [L, R, Q]) there.
    scores: `worlds.Scores`; of some worlds, and without self-influence, what
      these allow.
    retrain: whether also those that train models for each method.
  """
  out, of = {}, scores.of
  if 'clean' in of:
    out |= of_clean(config, worlds['clean'], truth, left, scores)
  if 'grouped' in of:
    out |= of_groups(worlds['grouped'], of['grouped'])
  for world in ('shortcut', 'mixed'):
    if world in of:
      out |= of_flagged(world, worlds[world], of[world])
  if scores.self_influence is not None:
    out |= of_mislabelled(worlds['mislabelled'], scores.self_influence)
  if retrain and 'clean' in of:
    out |= flipped(config, worlds['clean'], name, of['clean'])
  if retrain and scores.self_influence is not None:
    noisy = worlds['mislabelled']
    out['cleaning'] = cleaned(config, noisy, name, scores.self_influence)
  out = {
    metric: x if isinstance(x, Interval) else _interval(x)
    for metric, x in out.items()
  }
  return {metric: out[metric] for metric in METRICS if metric in out}


def of_clean(config, world, truth, left, scores) -> dict:
  """Class detection, cardinality, randomisation, LDS and leave-one-out."""
  of, task = scores.of['clean'], world.task
  same = detection.class_detection(of, task.train['y'], task.queries['y'])
  out = {
    'class_detection': _of_hits(same),
    'cardinality': sanity.cardinality_interval(of, config.top),
  }
  if scores.randomised is not None:
    alike = sanity.randomisation(of, scores.randomised)
    out['randomisation'] = bootstrap.of_queries(alike)
  outcomes = truth.outcomes.mean(1)
  for metric, kind in (('lds', 'spearman'), ('lds_kendall', 'kendall')):
    out[metric] = lds.interval(of, outcomes, truth.subsets, kind=kind)
  rows, effects = left
  alike = agreement.spearman(of[rows], effects.mean(1))
  return {**out, 'loo': bootstrap.of_queries(alike)}


def of_groups(world, of) -> dict:
  """Subclass detection."""
  known, right = world.task.known, world.predicted == world.task.queries['y']
  if not right.any():
    logging.warning('subclass_detection: %s', NOT_MEASURED)
    return {}
  same = detection.class_detection(
    of, known['labels'], known['query_labels'], queries=right
  )
  return {'subclass_detection': _of_hits(same)}


def of_flagged(name: str, world, of) -> dict:
  """Shortcut or mixed data sets, over the queries that were misled."""
  kept = misled(world)
  if not kept.any():
    logging.warning('%s: %s', name, NOT_MEASURED)
    return {}
  flagged = world.task.known['flagged']
  values = detection.average_precision(of, flagged, queries=kept)
  return {name: _interval(bootstrap.of_queries(values), len(values))}


def misled(world) -> np.ndarray:
  """[Q] queries that are given the label of the flagged rows, and not theirs.

  Foreign queries have no label but that.
  """
  known = world.task.known
  kept = world.predicted == known['label']
  return kept & (known['true'] != known['label']) if 'true' in known else kept


def of_mislabelled(world, self_influence) -> dict:
  """Wrong labels by self-influence; 1.96 standard errors over rows."""
  out = {}
  for metric, of in (
    ('mislabel_auc', detection.auc),
    ('mislabel_area', detection.mislabel_area),
  ):
    value, error = of(self_influence, world.task.known['flagged'])
    low, high = np.clip((value - 1.96 * error, value + 1.96 * error), 0, 1)
    out[metric] = Interval(value, float(low), float(high), len(self_influence))
  return out


def flipped(config, world, name: str, of) -> dict:
  """Brittleness: right queries that turn wrong without their supporters."""
  settings, task = config.brittleness, world.task
  queries = rows_lib.take(task.queries, slice(0, settings.queries))
  before = world.leads['queries'][:, : settings.queries].T
  if not (before.mean(1) > 0).any():
    logging.warning('brittleness: %s', NOT_MEASURED)
    return {}
  after = brittleness.margins(
    task.problem,
    task.recipe,
    task.train,
    queries,
    brittleness.top_rows(of[:, : settings.queries], settings.removed),
    repeats=settings.repeats,
    key=jax.random.key(config.seed),
    path=world.folder / 'brittleness' / name,
    members_at_once=config.truth.members_at_once,
  )
  flips = brittleness.flips(before, after)
  return {'brittleness': _of_hits(flips)}


def cleaned(config, world, name: str, self_influence):
  """What accuracy gains by the rows of most self-influence being removed."""
  settings, task = config.cleaning, world.task
  count = round(settings.removed * len(self_influence))

  def leads(removed, folder):
    return brittleness.margins_without(
      task.problem,
      task.recipe,
      task.train,
      task.queries,
      removed,
      repeats=settings.repeats,
      key=jax.random.key(config.seed),
      path=world.folder / 'cleaning' / folder,
      kind='cleaning',
      members_at_once=config.truth.members_at_once,
    )

  others = cleaning.controls(
    len(self_influence), count, settings.controls, config.seed
  )
  control = leads(others, 'controls')
  (values,) = leads(cleaning.first(self_influence, count)[None], name)
  return bootstrap.of_queries(cleaning.gain(values, control))


def chances(config, worlds) -> dict[str, float]:
  """What random scores are expected to reach, of metrics without a model."""
  clean, groups = worlds['clean'].task, worlds['grouped'].task.known
  n, q = (rows_lib.count(part) for part in (clean.train, clean.queries))
  of_class = detection.random_class_detection
  wrong = len(worlds['mislabelled'].task.train['y'])
  precision = {
    name: detection.random_precision(worlds[name].task.known['flagged'])
    for name in ('shortcut', 'mixed')
  }
  return {
    'class_detection': of_class(clean.train['y'], clean.queries['y']),
    'subclass_detection': of_class(groups['labels'], groups['query_labels']),
    **precision,
    'mislabel_auc': 0.5,
    'mislabel_area': detection.random_area(wrong),
    'cleaning': 0.0,
    'cardinality': sanity.random_cardinality(n, q, config.top),
    'randomisation': 0.0,
    'lds': 0.0,
    'lds_kendall': 0.0,
    'loo': 0.0,
  }


def result_rows(by_method, costs, by_chance, worlds) -> list[dict]:
  """Every method and metric; random, over its seeds; how the models fit."""
  out = []
  for name, metrics in by_method.items():
    for metric, interval in metrics.items():
      row = {'method': name, 'metric': metric, **interval._asdict()}
      out.append({**row, 'seconds': costs.get(name)})
  for metric, values in by_chance.items():
    low, high = np.quantile(values, bootstrap.TAILS)
    out.append(
      {
        'method': 'random',
        'metric': metric,
        'value': values.mean(),
        'low': low,
        'high': high,
        'n': len(values),
      }
    )
  for name, w in worlds.items():
    for part, value in accuracies(w).items():
      cell = {'method': f'models, {name}', 'metric': f'accuracy, {part}'}
      out.append({**cell, 'value': value, 'n': len(w.runs.keys)})
  return out


def accuracies(world) -> dict[str, float]:
  """Mean accuracy of the models on rows and queries, or the share misled."""
  right = {p: float((leads > 0).mean()) for p, leads in world.leads.items()}
  if 'label' in (world.task.known or {}):  # queries' labels are not theirs
    return {'train': right['train'], 'misled': float(misled(world).mean())}
  return right


def _of_hits(hits) -> Interval:
  return Interval(*bootstrap.wilson(hits), len(hits))


def _interval(values, n: int | None = None) -> Interval:
  return Interval(values.value, values.low, values.high, n)
