"""What the settings of this experiment share. Not a setting itself."""

from ml_collections import config_dict

WORLDS = {  # name -> what it changes
  'clean': {'data': {'world': ''}},
  'grouped': {'data': {'world': 'grouped'}},
  'shortcut': {'data': {'world': 'shortcut'}},
  'mixed': {'data': {'world': 'mixed'}},
  'mislabelled': {'data': {'world': 'mislabelled'}},
}


def methods(damping: float, l2: float, projection_dim: int) -> dict:
  """Every method of the library that scores a model in seconds.

  `without`: what takes too long by it or says nothing: 'own', a solve for every
  row, or a self-influence that is the same for all rows or in the order of
  another method's; 'randomised', parameters that no training led to; a world.
  """
  slow = {'without': ('own',)}
  ekfac = {'kind': 'ekfac', 'damping': damping}
  return {
    'similarity': {'kind': 'similarity', **slow},
    'similarity_dot': {'kind': 'similarity_dot'},
    'representer': {'kind': 'representer', 'l2': l2},
    'grad_dot': {'kind': 'grad_dot'},
    'grad_cos': {'kind': 'grad_cos', **slow},
    'additional_step': {'kind': 'additional_step', **slow},
    'tracin': {'kind': 'tracin'},
    # The ridge is for self-influence in the loss, whose gradients vanish.
    'trak': {'kind': 'trak', 'projection_dim': projection_dim, 'ridge': 1e-3},
    'logra': {'kind': 'logra', 'damping': damping},
    'diagonal': {'kind': 'diagonal', 'damping': damping},
    'kfac': {'kind': 'kfac', 'damping': damping},
    'ekfac': ekfac,
    'relatif': {'kind': 'relatif', 'inverse': ekfac, **slow},
    'displaced': {'kind': 'displaced', 'inverse': ekfac, **slow},
    'arnoldi': {'kind': 'arnoldi', 'steps': 100, **slow},
    'datainf': {'kind': 'datainf', 'damping': damping},
    'lissa': {'kind': 'lissa', 'damping': damping, **slow},
    'neumann': {'kind': 'neumann', 'damping': damping, **slow},
    'cg': {
      'kind': 'cg',
      'damping': damping,
      'tolerance': 1e-2,
      'precondition': {'kind': 'ekfac', 'damping': 10 * damping},
      **slow,
    },
    'astra': {
      'kind': 'astra',
      'damping': damping,
      'steps': 60,
      'batch_size': 512,  # smaller ones diverge where labels are wrong
    },
    'source': {'kind': 'source', 'segments': 5},
    'loss_only': {'kind': 'loss_only'},
  }


def config(setting: str, damping: float = 1e-2) -> config_dict.ConfigDict:
  """Defaults; every field is described here once."""
  c = config_dict.ConfigDict()
  c.experiment = 'quanda'
  c.setting = setting
  c.task = 'experiments.shared.tasks:images'  # module:function -> Task
  c.seed = 0
  c.members = 1  # models in every world, which score together
  c.checkpoints = 5  # C snapshots of each, for methods that follow training
  c.batch_size = 256  # rows scored at once
  c.data = config_dict.create(
    name=setting,
    seed=0,  # of the split and of what worlds change
    path='',  # folder of the files, for data that no package ships
    train=1000,
    queries=100,
    pool=0,  # averages squares of so many pixels a side; 0: as they are
    world='',  # which of these; each world of `worlds` below sets it
    worlds=dict(  # experiments.shared.worlds
      grouped=dict(groups=2),
      shortcut=dict(label=0, share=0.95, size=12, corner=(0, 0)),
      mixed=dict(
        foreign='photographs',  # or data that is read from `path`
        path='',
        only=-1,  # the one class of them that is taken; -1: all
        share=0.16,  # foreign rows for each other row
        label=0,
      ),
      mislabelled=dict(fraction=0.1),  # of rows with a wrong label
    ),
  )
  c.model = config_dict.create(
    kind='lenet',
    widths=(64, 128, 256, 128),  # of a ResNet-9; layers of an MLP
    groups=32,
    init='he',
  )
  c.training = config_dict.create(
    optimizer='sgd',
    learning_rate=0.05,
    schedule='linear',  # 'constant', 'linear' to 0, 'triangular'
    momentum=0.9,
    weight_decay=1e-3,
    batch_size=50,
    epochs=8,
    augment=False,
  )
  c.worlds = WORLDS  # name -> what differs from the fields above
  c.truth = config_dict.create(
    subsets=50,  # M
    fraction=0.5,
    repeats=2,  # R models a subset
    # Models trained together, here and below: one on each of two cores, since
    # a CPU trains a convolutional network fastest alone.
    members_at_once=2,
  )
  c.left_out = config_dict.create(rows=20, repeats=3)  # leave-one-out
  c.brittleness = config_dict.create(
    removed=50,  # k supporters of a query
    queries=12,
    repeats=1,
  )
  c.cleaning = config_dict.create(
    removed=0.1,  # share of the rows that is removed
    repeats=5,  # models trained without them
    controls=5,  # random sets of as many
  )
  c.top = 5  # k of the cardinality
  c.self_influence_batch_size = (
    500  # rows that are queries at a time, in self-influence
  )
  c.chance = 20  # seeds of random scores
  c.chance_retrained = 5  # of them, for metrics that train models
  c.damping = damping  # of a kind that `method` names
  c.methods = methods(damping, 1e-3, 512)  # name -> tda_jax.methods.registry
  c.method = ''  # names of some methods or kinds, 'a,b'; empty: all methods
  c.examples = 6  # pictures of each metric's test cases
  return c


def convolutional(c: config_dict.ConfigDict) -> None:
  """Less of the solvers that multiply by the curvature.

  Without a preconditioner they take minutes in each world: Arnoldi on the clean
  one only, LiSSA and Neumann not at all.
  """
  c.data.queries = 50
  # 1,000 with the foreign ones: the programs of other worlds.
  c.worlds.mixed.data.train = 862
  clean_only = ('own', 'randomised', 'grouped', 'shortcut', 'mixed')
  c.methods.arnoldi.update(steps=40, rank=20, without=clean_only)
  for name in ('lissa', 'neumann'):
    del c.methods[name]
  c.methods.cg.without = c.methods.astra.without = ('own', 'randomised')
  # The paper's schedule; a step that is found is too long for some models.
  c.methods.astra.update(steps=200, batch_size=256, step_per_damping=0.1)


def resnet9(c: config_dict.ConfigDict) -> None:
  """A narrow ResNet-9 in place of the LeNet, by methods of one pass."""
  c.setting = f'{c.setting}_resnet9'
  c.model.update(kind='resnet9', widths=(16, 32, 64, 32), groups=8)
  c.training.update(learning_rate=0.1, schedule='triangular')
  at_full_size(c)


def at_full_size(c: config_dict.ConfigDict) -> None:
  """Leaves out what needs a solve for each query."""
  for name in {'lissa', 'neumann', 'cg', 'arnoldi'} & set(c.methods):
    del c.methods[name]
  c.methods.astra.without = ('own',)


def adam(learning_rate: float, epochs: int) -> dict:
  """Changes of the training."""
  return {
    'optimizer': 'adam',
    'learning_rate': learning_rate,
    'epochs': epochs,
  }


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  c.checkpoints = 2
  if c.model.kind == 'resnet9':
    c.model.update(widths=(16, 16, 16, 16), groups=4)
  for changes in c.worlds.values():
    if 'training' in changes:
      del changes['training']
    if 'train' in changes.data:
      del changes.data['train']
  c.data.update(train=128, queries=24)
  c.training.epochs = 4
  c.truth.update(subsets=6, repeats=2, members_at_once=12)
  c.left_out.update(rows=3, repeats=2)
  c.brittleness.update(removed=10, queries=4)
  c.cleaning.update(repeats=2, controls=2)
  c.chance, c.chance_retrained, c.examples = 4, 1, 2
  kept = ('similarity', 'grad_dot', 'ekfac')
  c.methods = {name: c.methods[name] for name in kept}
  return c
