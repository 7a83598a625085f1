"""Noise of scores on digits 0, 1 and 2 of scikit-learn, 8 x 8 pixels.

  python -m experiments.bayesian_tda --config=configs/bayesian_tda/digits3.py \
      --workdir=DIR

Argument: `:smoke` (seconds). 10, 20 and 50 rows of each class, 300 queries;
a CNN of 2 layers; 10 seeds, 30 rows left out. Two networks: mnist3.
"""

from configs.bayesian_tda import base
from experiments import arguments


def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('digits3')
  c.task = 'experiments.tasks:digits'
  c.data.queries = 300
  c.left_out.rows = 30
  c.parts = {name: part for name, part in c.parts.items() if 'cnn2' in name}
  return base.smoke(c) if a['smoke'] else c
