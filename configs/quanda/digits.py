"""Quanda's metrics on scikit-learn's 8 x 8 digits, with exact solves.

  python -m experiments.quanda --config=configs/quanda/digits.py --workdir=DIR

Argument: `:smoke` (seconds). 1,000 rows, 100 queries, MLP 64-64-32-10; a patch
of 3 x 3 pixels, pieces of photographs as foreign rows, 10% of the labels wrong;
50 half-subsets x 5 seeds.
"""

from configs.quanda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('digits')
  c.task = 'experiments.shared.tasks:digits'
  c.model.update(kind='mlp', widths=(64, 32))
  c.data.worlds.shortcut.size = 3
  c.training.update(learning_rate=0.05, epochs=40)
  c.truth.update(repeats=5, members_at_once=25)
  c.left_out.repeats = 5
  c.brittleness.queries, c.chance_retrained = 20, 10
  c.methods.exact = {'kind': 'exact', 'damping': c.damping}
  c.methods.unrolled = {'kind': 'unrolled', 'without': ('own', 'randomised')}
  return base.smoke(c) if a['smoke'] else c
