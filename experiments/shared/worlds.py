"""Worlds: data changed on purpose, so that what must be found is known.

`config.data.world` names one of WORLDS and `config.data.worlds` has its
settings. Images are changed before they are standardised.
"""

import numpy as np

from tda_jax.data import images, prepare, worlds
from tda_jax.data import rows as rows_lib


def changed(data, train: dict, queries: dict) -> tuple[dict, dict, dict | None]:
  """(training rows, queries, what is known of them) of the config's world.

  Known are 'labels' [N] and 'query_labels' [Q], classes within the groups that
  a model is trained on; or 'flagged' [N], the rows that were changed, and
  'label', what a model is misled to and queries are asked about ('true' [Q]: what
  they are). None where nothing was changed.

  Raises:
    ValueError: unknown world, or as its function in `tda_jax.data.worlds`.
  """
  name = data.get('world')
  if not name:
    return train, queries, None
  if name not in WORLDS:
    raise ValueError(f'unknown world {name!r}: use one of {sorted(WORLDS)}')
  return WORLDS[name](train, queries, data.seed, **data.worlds[name])


def grouped(train, queries, seed, groups):
  """Classes are hidden in groups; subclass detection is to tell them."""
  classes = int(max(train['y'].max(), queries['y'].max())) + 1
  new, (labels, group) = worlds.grouped(train, classes, groups, seed)
  known = {'labels': labels, 'query_labels': np.asarray(queries['y'])}
  return new, {**queries, 'y': group[queries['y']]}, known


def shortcut(train, queries, seed, label, share, **patch):
  """A patch on most rows of a class, and on all queries."""
  patch = {'value': float(train['x'].max()), **patch}
  new, flagged = worlds.shortcut(train, label, share, seed, **patch)
  # The label is the patch's, so that scores explain why the patch wins.
  asked = worlds.patched(queries, **patch)
  asked = {**asked, 'y': np.full_like(queries['y'], label)}
  true = np.asarray(queries['y'])
  return new, asked, {'flagged': flagged, 'label': label, 'true': true}


def mixed(train, queries, seed, *, foreign, path, only, share, label):
  """Foreign images as rows of a class; queries are others of them."""
  n, q = rows_lib.count(train), rows_lib.count(queries)
  count = round(share * n)
  shape, scale = train['x'].shape[1:], train['x'].max()
  x = scale * _foreign(foreign, path, only, count + q, shape, seed)
  strange = {'x': x, 'y': np.full(count + q, label, train['y'].dtype)}
  part = lambda *ends: rows_lib.take(strange, slice(*ends))
  new, flagged = worlds.mixed(train, part(count), label, seed)
  return new, part(count, None), {'flagged': flagged, 'label': label}


def mislabelled(train, queries, seed, fraction):
  """Rows with the label of another class."""
  classes = int(max(train['y'].max(), queries['y'].max())) + 1
  new, _ = prepare.relabel(train, fraction, seed, classes, wrong=True)
  known = {'flagged': new['y'] != train['y'], 'labels': np.asarray(train['y'])}
  return new, queries, known


def _foreign(name, path, only, count, shape, seed):
  """Images [count, *shape] in [0, 1] of another source."""
  if name == 'photographs':
    return images.photographs(count, shape, seed)
  if name not in FOREIGN:
    raise ValueError(
      f'unknown foreign images {name!r}: use one of'
      f' {sorted(["photographs", *FOREIGN])}'
    )
  rows = FOREIGN[name](path)
  if only >= 0:
    rows = rows_lib.take(rows, np.flatnonzero(rows['y'] == only))
  (found,), _ = prepare.split(rows, seed, count)
  return found['x']


WORLDS = {
  'grouped': grouped,
  'shortcut': shortcut,
  'mixed': mixed,
  'mislabelled': mislabelled,
}
FOREIGN = {
  'mnist5k': lambda path: images.mnist5k(),
  'mnist': images.mnist,
  'fashion_mnist': images.fashion_mnist,
  'cifar10': images.cifar10,
  'svhn': images.svhn,
}
