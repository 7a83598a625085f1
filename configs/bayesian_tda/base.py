"""What the settings of this experiment share. Not a setting itself."""

from ml_collections import config_dict

from configs import ensembles

STEP = {'optimizer': 'adam', 'learning_rate': 1e-3, 'weight_decay': 5e-3}
METHODS = {
  'additional_step': {'kind': 'additional_step', **STEP},
  'influence': {'kind': 'ekfac', 'damping': 5e-3},  # the paper: LiSSA
  'grad_dot': {'kind': 'grad_dot'},
  'grad_cos': {'kind': 'grad_cos'},
}
SIZES = {10: 30, 20: 20, 50: 10}  # rows per class -> epochs, to fit the rows
# Both networks with seeds of their own; the smaller with one start too.
KINDS = (('cnn2', False), ('cnn2', True), ('cnn3', False))


def config(setting: str, epochs: dict = SIZES) -> config_dict.ConfigDict:
  """Defaults; every field is described here once.

  A setting's own file changes data, rows left out and epochs.
  """
  c = config_dict.ConfigDict()
  c.experiment = 'bayesian_tda'
  c.setting = setting
  c.task = 'experiments.shared.tasks:images'  # module:function -> Task
  c.seed = 0
  c.measure = 'loss'  # of the queries, negative, as in the paper
  c.members = 10  # S seeds
  c.checkpoints = 15  # equally spaced in the run
  c.averaged = 5  # the last of them: the last third of the run, as in the paper
  c.batch_size = 256  # rows scored at once
  c.false_rate = 0.05  # of false discoveries among significant pairs
  c.data = config_dict.create(
    name=setting,
    seed=0,  # of the split
    path='',  # of the idx files
    classes=3,  # the first ones
    per_class=10,  # training rows of each; of each part
    queries=900,
    label_noise=0.0,
    pool=0,  # averages squares of so many pixels a side; 0: as they are
    symmetric=False,  # pixels of -1 to 1, as of a pretrained ViT; or standardised
  )
  c.model = config_dict.create(kind='cnn2', init='torch')
  c.training = config_dict.create(
    optimizer='adam',
    learning_rate=1e-3,
    schedule='constant',
    momentum=0.0,
    weight_decay=5e-3,
    batch_size=10,  # the paper's 32 would make one batch of the 30 rows
    epochs=15,
    augment=False,
    shared_init=False,  # all seeds start from the same parameters
  )
  ensembles.add(c)
  c.left_out = config_dict.create(
    ways=('loo', 'loo_continued'),  # training again, training on
    rows=0,  # L left out, one at a time; 0: all. Pairs are of these rows
    continued=0.5,  # epochs of training on, as a share of the first ones
    members_at_once=62,  # models trained together
  )
  c.parts = parts(epochs)  # name -> changes of this config
  c.methods = METHODS  # name -> settings (tda_jax.methods.registry)
  c.pictured = 12  # pairs of least noise
  c.report = config_dict.create(queries=12, evidence=6)
  c.method = ''  # names of some methods or kinds, 'a,b'; empty: all methods
  c.damping = 5e-3  # of a kind that `method` names
  return c


def parts(epochs: dict, kinds: tuple = KINDS) -> dict:
  """A part for each number of rows and (network, whether seeds share a start)."""
  return {
    f'{kind}_{size}' + ('_batches' if shared else ''): {
      'data': {'per_class': size},
      'model': {'kind': kind},
      'training': {'epochs': count, 'shared_init': shared},
    }
    for kind, shared in kinds
    for size, count in epochs.items()
  }


def few(parts: dict) -> dict:
  """The smaller network at every size, and all else at 20 rows of each class."""
  sizes = {f'cnn2_{size}' for size in SIZES}
  return {n: parts[n] for n in parts if n in sizes or '_20' in n}


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  c.members, c.checkpoints, c.averaged = 3, 3, 2
  c.data.queries = min(c.data.queries, 12)
  c.data.pool = 0 if c.setting == 'digits3' else 3
  c.left_out.update(rows=4, members_at_once=15)
  c.parts = {k: v for k, v in parts({4: 3}).items() if 'cnn3' not in k}
  return c
