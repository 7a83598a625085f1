"""Noise of scores on digits 0, 1 and 2 of scikit-learn, 8 x 8 pixels.

  python -m experiments.bayesian_tda --config=configs/bayesian_tda/digits3.py \
      --workdir=DIR

Arguments: `:smoke` (seconds); `:networks`, CNNs of 2 and 3 layers on 20 rows of
each class, 15 left out. 10, 20 and 50 rows of each class, 300 queries; a CNN of
2 layers; 10 seeds, 30 rows left out.
"""

from configs.bayesian_tda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, networks=False)
  c = base.config('digits3')
  c.task = 'experiments.shared.tasks:digits'
  c.data.queries = 300
  c.left_out.rows = 30
  if a['networks']:
    c.setting, c.left_out.rows = 'digits3_networks', 15
    kept = ('cnn2_20', 'cnn3_20')
  else:
    kept = [name for name in c.parts if 'cnn2' in name]
  c.parts = {name: c.parts[name] for name in kept}
  return base.smoke(c) if a['smoke'] else c
