"""The leaderboard of a Quanda run, with pictures of what is tested."""

import pathlib

import numpy as np

from experiments.quanda import metrics as metrics_lib
from tda_jax.report import cards, leaderboard
from tda_jax.storage import record

PICTURED_BY = 'ekfac'  # whose supporters are shown, or the first method's
OF_WORLD = {  # metrics -> the world whose rows show what they ask
  'class_detection': 'clean',
  'subclass_detection': 'grouped',
  'shortcut': 'shortcut',
  'mixed': 'mixed',
  'mislabel_auc': 'mislabelled',
  'cleaning': 'mislabelled',
}


def write(config, worlds, rows, claims, chances, best, workdir) -> str:
  """Writes leaderboard.html into the workdir; returns its path.

  Args:
    rows: of results.json.
    chances: metric -> what random scores are expected to reach.
    best: (a method, [Q] its strongest supporters in the clean world).
  """
  measured = {row['metric'] for row in rows}
  by_luck = {r['metric']: r for r in rows if r['method'] == 'random'}
  return leaderboard.write(
    pathlib.Path(workdir) / 'leaderboard.html',
    title=f'{config.experiment}: {config.setting}',
    about=ABOUT,
    metrics=[
      leaderboard.Metric(
        name=name,
        label=metric.label,
        definition=metric.definition,
        better=metric.better,
        chance=chances.get(name, by_luck.get(name, {}).get('value')),
      )
      for name, metric in metrics_lib.METRICS.items()
      if name in measured
    ],
    rows=[row for row in rows if row['metric'] in metrics_lib.METRICS],
    claims=claims,
    examples=examples(config, worlds, best),
    facts={**record.environment(), 'config': config.to_dict()},
  )


def examples(config, worlds, best) -> dict[str, list]:
  """Metric -> [(caption, image)] of rows and queries that it is about."""
  out = {}
  for metric, name in OF_WORLD.items():
    if worlds[name].task.shown is not None:
      out[metric] = PICTURED[name](worlds[name], config.examples, best)
  return out


def of_clean(world, count, best):
  """Queries, each with its strongest supporter by one method."""
  task, out = world.task, []
  method, supporters = best
  for q, i in enumerate(supporters[:count]):
    out += [
      _picture(world, 'queries', q, f'query {q}: {_label(task, "queries", q)}'),
      _picture(world, 'train', i, f'by {method}: {_label(task, "train", i)}'),
    ]
  return out


def of_groups(world, count, best):
  del best
  known, y = world.task.known, world.task.train['y']
  names = world.task.shown.get('classes')
  return [
    _picture(
      world,
      'train',
      i,
      f'{cards.label_text(known["labels"][i], names)}, group {y[i]}',
    )
    for i in range(count)
  ]


def of_shortcut(world, count, best):
  del best
  true, names = world.task.known['true'], world.task.shown.get('classes')
  return _misled(
    world, count, 'row', lambda q: cards.label_text(true[q], names)
  )


def of_mixed(world, count, best):
  del best
  return _misled(world, count, 'foreign row', lambda q: 'query')


def _misled(world, count, row, query):
  """Flagged rows, then queries that are taken for their class."""
  known = world.task.known
  taken = cards.label_text(known['label'], world.task.shown.get('classes'))
  rows = np.flatnonzero(known['flagged'])[:count]
  asked = np.flatnonzero(metrics_lib.misled(world))[:count]
  return [_picture(world, 'train', i, f'{row}: {taken}') for i in rows] + [
    _picture(world, 'queries', q, f'{query(q)} taken for {taken}')
    for q in asked
  ]


def of_mislabelled(world, count, best):
  del best
  known, names = world.task.known, world.task.shown.get('classes')
  return [
    _picture(
      world,
      'train',
      i,
      f'{cards.label_text(known["labels"][i], names)}, labelled'
      f' {_label(world.task, "train", i)}',
    )
    for i in np.flatnonzero(known['flagged'])[: 2 * count]
  ]


def _picture(world, part, i, caption):
  shown = world.task.shown
  high = max(shown['train'].max(), shown['queries'].max())
  return caption, np.asarray(shown[part][i]) / high


def _label(task, part, i):
  return cards.label_text(
    getattr(task, part)['y'][i], task.shown.get('classes')
  )


PICTURED = {
  'clean': of_clean,
  'grouped': of_groups,
  'shortcut': of_shortcut,
  'mixed': of_mixed,
  'mislabelled': of_mislabelled,
}
ABOUT = (
  'Each method is measured in worlds whose answer is known. Values are of the'
  ' mean scores of the models, with 95% intervals over queries (and subsets, of'
  ' the LDS; rows, of wrong labels); not over models, of which each world has'
  ' few. Random is the mean of several seeds, with their range.'
)
