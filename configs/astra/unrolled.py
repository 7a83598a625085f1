"""Exact unrolling on digits: its own run, and the mean over seeds.

  python -m experiments.astra --config=configs/astra/unrolled.py --workdir=DIR

Arguments: `:smoke`, `:activation=gelu|relu|tanh`.

The digits setting with a smooth network and a gentle training (a larger rate or
more epochs bend the path more: the removal of ten rows is then no longer
linear). `lds_same_run` asks about the model's own run, retrained with the same
initialisation and order of rows but without a random 1% of them; `lds_single`
about the mean over seeds of models of random halves.
"""

from configs.astra import base, digits
from experiments.shared import arguments

OTHERS = ('source', 'ekfac', 'grad_dot')


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, activation='gelu')
  c = digits.get_config()
  c.setting = f'unrolled_{a["activation"]}'
  c.model.activation = a['activation']
  c.members = 3
  c.training.update(learning_rate=0.01, epochs=15)
  c.left_out.rows = 0
  c.same_run.update(subsets=100, members=3)
  c.choose = {}
  c.sets = {}
  c.methods = {
    'unrolled': {'kind': 'unrolled'},
    'exact': {**base.EXACT, 'damping': digits.DAMPING, 'memory_limit': 8e9},
    **{name: c.methods[name] for name in OTHERS},
  }
  c.claims = ('unrolled_predicts_its_run',)
  return base.smoke(c) if a['smoke'] else c
