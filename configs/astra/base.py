"""What the settings of the ASTRA experiment share. Not a setting itself."""

from ml_collections import config_dict

from configs import ensembles

# Order is that of the table. damping 'chosen:NAME': see config.choose.
FIRST_ORDER = {
  'grad_dot': {'kind': 'grad_dot'},
  'grad_cos': {'kind': 'grad_cos'},
}
TRAINING = {  # those that follow the run by its checkpoints
  'tracin': {'kind': 'tracin'},
  'source': {'kind': 'source'},
}
CG = {'kind': 'cg', 'tolerance': 1e-3, 'max_steps': 500}
EXACT = {'kind': 'exact'}
# Newton's steps on each set's own objective, by the dual's largest rows.
SETS = {'damping': 'chosen', 'steps': 3, 'tolerance': 1e-2}
ABLATIONS = (
  'damping',
  'steps',
  'batch',
  'preconditioner',
  'projection',
)


def config(setting: str) -> config_dict.ConfigDict:
  """Defaults; every field is described here once."""
  c = config_dict.ConfigDict()
  c.experiment = 'astra'
  c.setting = setting
  c.task = 'experiments.shared.tasks:digits'  # module:function -> Task
  c.seed = 0
  c.members = 10  # models trained on all rows
  c.checkpoints = 0  # C snapshots of each, for methods that follow training
  c.batch_size = 256  # rows scored at once; rows of a block on disk
  c.data = config_dict.create(
    name='digits',
    seed=0,  # of the split and of label noise
    path='',  # folder of the files, for data that no package ships
    train=1000,
    queries=200,
    label_noise=0.0,  # share of training labels drawn anew at random
    target='y',  # column of a user's table
    classification=False,  # whether it holds classes
    one_hot=False,  # text becomes one column for each value
    drop='',  # columns to leave out, 'a,b'
    length=64,  # of texts, in words
    vocabulary=2000,  # word ids
  )
  c.model = config_dict.create(
    kind='mlp',  # 'mlp', 'lenet', 'resnet9', 'transformer'
    widths=(128, 64),
    activation='relu',  # of an MLP: 'relu', 'gelu' or 'tanh'
    init='he',  # of an MLP: 'he', or 'torch' for PyTorch's uniform default
    groups=32,  # of a ResNet's group norm
    dropout=0.0,  # of an MLP, LeNet or transformer, in training
    width=64,  # of a transformer's tokens; a multiple of `heads`
    heads=4,  # of its attention
    blocks=2,  # how many it has
    hidden=128,  # width of the perceptrons in them
  )
  c.training = config_dict.create(
    learning_rate=0.05,
    schedule='linear',  # 'constant', 'linear' to 0, 'triangular' in 0-1/5-1,
    # 'cyclic': a cosine to 0 in each of `cycles`
    cycles=1,
    momentum=0.9,
    weight_decay=1e-3,
    batch_size=50,
    epochs=40,
    augment=False,  # random crops and mirror images
  )
  c.truth = config_dict.create(
    subsets=100,  # M reported
    validation=20,  # M that dampings are chosen on
    fraction=0.5,
    repeats=10,  # R models a subset
    members_at_once=50,  # models trained together
  )
  ensembles.add(c)
  c.left_out = config_dict.create(rows=0, repeats=0)  # leave-one-out
  c.same_run = config_dict.create(
    subsets=0,  # M; 0: none
    dropped=0.01,  # share of the rows that each is without
    members=0,  # models whose runs are repeated
  )
  c.damping_grid = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
  c.choose = config_dict.ConfigDict()  # methods whose damping is chosen
  c.methods = (
    config_dict.ConfigDict()
  )  # name -> settings (tda_jax.methods.registry)
  # Predictions of sets, name -> arguments of tda_jax.newton; damping 'chosen' is
  # the best of damping_grid on validation subsets.
  c.sets = config_dict.ConfigDict()
  c.ablation = ''  # name of the one that the methods are
  c.method = ''  # names of some methods or kinds, 'a,b'; empty: all methods
  c.damping = 1e-3  # of a kind that `method` names
  c.claims = ()  # experiments.astra.claims
  c.paper_damping = 0.0  # marked in plots
  c.paper_repeats = 0  # R of the paper, to which LDS are corrected; 0: none
  c.report = config_dict.create(queries=12, evidence=6)
  return c


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  c.members = 2
  c.checkpoints = min(c.checkpoints, 3)
  c.data.train = min(c.data.train, 128)
  c.data.queries = min(c.data.queries, 16)
  c.lora.training.epochs = 2
  c.training.epochs = min(c.training.epochs, 5)
  c.training.batch_size = min(c.training.batch_size, 32)
  c.model.widths = tuple(min(w, 16) for w in c.model.widths)
  c.truth.update(subsets=8, validation=4, repeats=2, members_at_once=16)
  c.left_out.update(rows=min(c.left_out.rows, 3), repeats=2)
  c.same_run.update(subsets=min(c.same_run.subsets, 8), members=1, dropped=0.1)
  c.damping_grid = (1e-1,)
  c.report.update(queries=4, evidence=3)
  for settings in c.sets.values():
    settings.update(members=2, steps=1)
  for settings in c.methods.values():
    if 'steps' in settings:
      settings.steps = 20
    if 'rounds' in settings:
      settings.rounds = 2
    if 'members' in settings:
      settings.members = 1
    if 'draws' in settings:
      settings.draws = 4
    if 'burn_in' in settings:
      settings.burn_in = 2
    if 'projection_dim' in settings:
      settings.projection_dim = 32
  return c


def ablation(name: str, damping, base: dict, solver: dict = CG) -> dict:
  """The methods of an ablation: variants of ASTRA (and EKFAC) at `damping`.

  Args:
    base: settings of ASTRA that are not varied.
    solver: of a converged solution; `exact` where its Gram matrix fits.
  """
  astra = {'kind': 'astra', 'damping': damping, **base}
  if name == 'damping':
    grid = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    kinds = {
      'ekfac': {'kind': 'ekfac'},
      'astra_paper': {**astra, 'step_per_damping': 0.1},
      solver['kind']: solver,
    }
    return {
      f'{kind}_{value:.0e}': {**settings, 'damping': value, 'curve': kind}
      for kind, settings in kinds.items()
      for value in grid
    }
  if name == 'steps':
    return {
      f'{kind}_{steps}': {**settings, 'steps': steps}
      for kind, settings in {
        'astra': astra,
        'neumann': {'kind': 'neumann', 'damping': damping},
      }.items()
      for steps in (25, 50, 100, 200, 400, 800)
    }
  if name == 'batch':
    return {
      f'astra_batch_{size}': {**astra, 'batch_size': size}
      for size in (32, 64, 128, 256, 512)
    }
  if name == 'preconditioner':
    kinds = {
      'none': {'kind': 'identity'},
      'diagonal': {'kind': 'diagonal', 'damping': damping},
      'kfac': {'kind': 'kfac', 'damping': damping},
      'ekfac': {'kind': 'ekfac', 'damping': damping},
    }
    return {
      f'astra_{kind}': {**astra, 'precondition': settings}
      for kind, settings in kinds.items()
    }
  if name == 'projection':
    return {
      'exact': {**solver, 'damping': damping},
      **{
        f'above_1e-{i}': {
          **solver,
          'damping': damping,
          'project_above': 10.0**-i,
        }
        for i in range(1, 6)
      },
    }
  raise ValueError(f'unknown ablation {name!r}: use one of {ABLATIONS}')
