"""What the settings of this experiment share. Not a setting itself."""

from ml_collections import config_dict

from configs import ensembles

DISTIL = {'alpha': 0.5}
# How a proxy differs from the target; a guess of the hyperparameters differs
# too, since they are not known.
SAME = {'training': {'learning_rate': 0.02, 'batch_size': 100, 'epochs': 30}}
WIDTH = {
  'model': {'widths': (64,)},
  'training': {'learning_rate': 0.03, 'batch_size': 100, 'epochs': 30},
}
LENET = {
  'model': {'kind': 'lenet'},
  'training': {'learning_rate': 0.02, 'batch_size': 50, 'epochs': 10},
}
LOGISTIC = {
  'model': {'widths': ()},
  'training': {'learning_rate': 0.01, 'batch_size': 50, 'epochs': 20},
}


def control(proxy: dict) -> dict:
  """The target in all but its hyperparameters, which are those of the proxy."""
  return {'training': {**proxy['training']}}


def config(setting: str) -> config_dict.ConfigDict:
  """Defaults; every field is described here once."""
  c = config_dict.ConfigDict()
  c.experiment = 'limited_access'
  c.setting = setting
  c.task = 'experiments.shared.tasks:images'  # module:function -> Task
  c.seed = 0
  c.members = 5  # E models of the target, and of each proxy
  c.checkpoints = 4  # C snapshots of each, for TracIn
  c.batch_size = 256  # rows scored at once; rows of a block on disk
  # Which loss of a distilled proxy its training rows are scored by: 'own', what
  # it was trained by, or 'cross_entropy'. A method may have its own: TRAK needs
  # a loss that is a function of the measure.
  c.score_loss = 'own'
  c.data = config_dict.create(
    name=setting,
    seed=0,  # of the split and of label noise
    path='',  # folder of the files, for data that no package ships
    train=2000,
    queries=100,
    held_out=0,  # of a proxy: rows to train on instead
    label_noise=0.0,
  )
  c.model = config_dict.create(kind='mlp', widths=(128, 64), init='he')
  c.training = config_dict.create(
    learning_rate=0.05,
    schedule='linear',  # 'constant', 'linear' to 0
    momentum=0.9,
    weight_decay=1e-3,
    batch_size=50,
    epochs=20,
    augment=False,
    distillation=dict(
      alpha=0.0,  # share of the target's logits in the loss; 0: labels only
      temperature=2.0,
      direction='teacher||student',
    ),
  )
  ensembles.add(c)
  c.truth = config_dict.create(
    subsets=50,  # M
    fraction=0.5,
    repeats=5,  # R models a subset
    members_at_once=25,  # models trained together
  )
  c.mislabelled = config_dict.create(
    fraction=0.1,  # of training labels drawn anew at random
    methods=('grad_dot', 'ekfac', 'tracin'),
    batch_size=500,  # rows that are queries at a time
  )
  c.brittleness = config_dict.create(
    scores=('s0_target/ekfac', 's1_same/ekfac', 's4_lenet/ekfac', 'random'),
    removed=100,  # k supporters of a query
    queries=25,
    repeats=2,
    members_at_once=25,
  )
  c.methods = {  # name -> settings (tda_jax.methods.registry)
    'grad_dot': {'kind': 'grad_dot'},
    'grad_cos': {'kind': 'grad_cos'},
    'tracin': {'kind': 'tracin'},
    'ekfac': {'kind': 'ekfac', 'damping': 'heuristic'},
    'trak': {
      'kind': 'trak',
      'projection_dim': 512,
      'ridge': 1e-3,  # a logistic model's kernel is singular without
      'score_loss': 'cross_entropy',
    },
    'representer': {'kind': 'representer', 'l2': 1e-3},
  }
  c.report = config_dict.create(queries=12, evidence=6)
  c.method = ''  # names of some methods or kinds, 'a,b'; empty: all methods
  c.damping = 1e-3  # of a kind that `method` names
  # name -> what differs from the fields above. S0 is the target itself, or what
  # has all that is known of it and the hyperparameters of a proxy.
  c.proxies = {
    's0_target': {},
    's0_same': control(SAME),
    's0_width': control(WIDTH),
    's0_lenet': control(LENET),
    's0_logistic': control(LOGISTIC),
    's1_same': distilled(SAME),
    's2_same': SAME,
    's1_width': distilled(WIDTH),
    's2_width': WIDTH,
    's3_lenet': distilled(LENET),
    's4_lenet': LENET,
    's3_logistic': distilled(LOGISTIC),
    's4_logistic': LOGISTIC,
    's5_held_out': {'data': {'held_out': 2000}},
    's5_init': {'training': {'epochs': 0}, 'checkpoints': 0},
  }
  # Claims: (control, proxy) of the same hyperparameters, of which the control is
  # to be the better; which pairs differ by distillation only; which models have
  # not seen the rows. Of S2's own architecture no control differs but by seed.
  c.controlled = (
    ('s0_same', 's1_same'),
    ('s0_width', 's1_width'),
    ('s0_width', 's2_width'),
    ('s0_lenet', 's3_lenet'),
    ('s0_lenet', 's4_lenet'),
    ('s0_logistic', 's3_logistic'),
    ('s0_logistic', 's4_logistic'),
  )
  c.distilled = (
    ('s1_same', 's2_same'),
    ('s1_width', 's2_width'),
    ('s3_lenet', 's4_lenet'),
    ('s3_logistic', 's4_logistic'),
  )
  c.unseen = ('s5_held_out', 's5_init')
  return c


def distilled(proxy: dict) -> dict:
  """The same proxy, distilled from the target's logits."""
  return {
    **proxy,
    'training': {**proxy['training'], 'distillation': DISTIL},
  }


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  c.members = 2
  c.checkpoints = 2
  c.data.update(train=128, queries=12)
  c.model.widths = (16,)
  c.training.epochs = 3
  c.truth.update(subsets=8, repeats=2, members_at_once=16)
  c.mislabelled.update(methods=('grad_dot',), batch_size=64)
  c.brittleness.update(
    scores=('s0_target/grad_dot', 'random'),
    removed=20,
    queries=6,
    members_at_once=6,
  )
  c.methods = {name: c.methods[name] for name in ('grad_dot', 'tracin')}
  trained = ('s0_width', 's1_width', 's2_width')
  kept = ('s0_target', *trained, 's5_held_out', 's5_init')
  c.proxies = {name: c.proxies[name] for name in kept}
  for name in trained:
    c.proxies[name].training.epochs = 3
  for name in trained[1:]:
    c.proxies[name].model.widths = (8,)
  c.proxies.s5_held_out.data.held_out = 128
  c.controlled = (('s0_width', 's1_width'), ('s0_width', 's2_width'))
  c.distilled = (('s1_width', 's2_width'),)
  return c
