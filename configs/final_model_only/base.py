"""What the settings of this experiment share. Not a setting itself."""

from ml_collections import config_dict

from configs import ensembles

GRID = (0.1, 1, 10, 100)  # dampings, in mean squares of a gradient's entry
FIRST_ORDER = {
  'grad_dot': {'kind': 'grad_dot'},
  'grad_cos': {'kind': 'grad_cos'},
}
# Those without such a damping: DataInf has one for each layer, TRAK none.
OTHERS = {
  'datainf': {'kind': 'datainf'},
  'trak': {'kind': 'trak', 'projection_dim': 128},
}
# name -> settings without damping; each is run at every damping of the grid.
SECOND_ORDER = {
  'exact': {'kind': 'exact'},
  'displaced_exact': {'kind': 'displaced', 'inverse': {'kind': 'exact'}},
  'ekfac': {'kind': 'ekfac'},
}
# The same at the largest damping only: what costs most, or repeats another.
LARGEST = {
  'cg': {'kind': 'cg', 'tolerance': 1e-3, 'max_steps': 1000},
  'lissa': {'kind': 'lissa', 'steps': 400},
  'astra': {'kind': 'astra', 'steps': 200},
}


def config(setting: str, grid: tuple = GRID) -> config_dict.ConfigDict:
  """Defaults; every field is described here once.

  A table's own setting changes data, sizes and learning rates; methods stay.
  """
  c = config_dict.ConfigDict()
  c.experiment = 'final_model_only'
  c.setting = setting
  c.task = 'experiments.shared.tasks:table'  # module:function -> Task
  c.seed = 0
  c.measure = 'loss'  # of the queries, negative; '' is the problem's own
  c.members = 1  # the model
  c.checkpoints = 0
  c.batch_size = 256  # rows scored at once
  c.data = config_dict.create(
    name=setting,
    seed=0,  # of the split
    path='',  # the file, for data that no package ships
    train=0,
    queries=100,
    target='y',  # column of a user's table
    drop='',  # columns to leave out, 'a,b'
    classification=False,  # whether it holds classes
    one_hot=False,  # text becomes one column for each value
    label_noise=0.0,
  )
  c.model = config_dict.create(
    kind='mlp', widths=(128, 128), activation='relu', init='torch'
  )
  c.training = config_dict.create(
    learning_rate=0.05,
    schedule='constant',
    momentum=0.0,
    weight_decay=0.0,
    batch_size=32,
    epochs=200,
    augment=False,
  )
  ensembles.add(c)
  c.further = config_dict.create(
    **{**c.training.to_dict(), 'learning_rate': 0.005, 'epochs': 50},
    points=(1, 2, 5, 10, 25, 50),  # epochs at which queries are measured
    rows=100,  # L left out, one at a time
    repeats=20,  # R seeds
    mode='zero weight',  # or 'every batch', 'delete'
    subtract_mean=True,  # the paper's second adjustment
    members_at_once=101,  # models trained together
  )
  c.methods = methods(grid)  # name -> settings (tda_jax.methods.registry)
  c.plotted = (
    *FIRST_ORDER,
    *OTHERS,
    *(_name(name, grid[-1]) for name in (*SECOND_ORDER, *LARGEST)),
  )
  c.method = ''  # names of some methods or kinds, 'a,b'; empty: all methods
  c.damping = 1e-2  # of a kind that `method` names
  return c


def methods(grid: tuple) -> dict:
  """All methods, 'NAME_xF' at a damping of F mean squared entries (0_1: .1)."""

  def damped(settings, factor):
    damping = {'damping': f'chosen:mean_square*{factor:g}'}
    if 'inverse' in settings:
      return {**settings, 'inverse': {**settings['inverse'], **damping}}
    return {**settings, **damping}

  many = {
    _name(name, factor): damped(settings, factor)
    for name, settings in SECOND_ORDER.items()
    for factor in grid
  }
  few = {
    _name(name, grid[-1]): damped(settings, grid[-1])
    for name, settings in LARGEST.items()
  }
  return {**FIRST_ORDER, **OTHERS, **many, **few}


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  c.data.train = min(c.data.train, 96)
  c.data.queries = min(c.data.queries, 12)
  c.model.widths = tuple(min(w, 16) for w in c.model.widths)
  c.training.epochs = min(c.training.epochs, 5)
  c.further.update(
    epochs=3, points=(1, 3), rows=8, repeats=4, members_at_once=18
  )
  last = c.plotted[-1].rpartition('_x')[-1]
  kept = ('grad_dot', f'exact_x{last}', f'displaced_exact_x{last}')
  c.methods = {name: c.methods[name] for name in kept}
  return c


def _name(method, factor):
  return f'{method}_x{factor:g}'.replace('.', '_')  # names have no dots
