"""Efficient ensembles of MLPs on scikit-learn's digits.

  python -m experiments.efficient_ensembles \
      --config=configs/efficient_ensembles/digits.py --workdir=DIR

Argument: `:smoke` (seconds). 1,000 rows, 100 queries, MLP 64-128-64-10 with
dropout .1; up to 25 models x 25 masks, or 5 checkpoints, or models of halves of
the rows; 100 half-subsets x 5 seeds.
Datamodels are fitted to up to 1,000 more models of halves.
"""

from configs.efficient_ensembles import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('digits')
  c.checkpoints = 5  # at the ends of a run's fifths
  c.training.epochs = 30
  c.truth.repeats = 5
  c.retrained = (100, 300, 1000)
  c.methods.cg = {
    'kind': 'cg', 'damping': 3e-3, 'tolerance': 1e-2, 'models': 5, 'varied': 1,
    'variants': 3,
  }  # fmt: skip
  c.methods.astra = {
    'kind': 'astra', 'damping': 3e-3, 'rounds': 2, 'batch_size': 512,
    'models': 3, 'varied': 1, 'variants': 3,
    'precondition': {'kind': 'ekfac', 'damping': 3e-2},
  }  # fmt: skip
  if a['smoke']:
    return base.smoke(c)
  c.ensembles = (*c.ensembles, 'checkpoints:5', 'halves')
  return c
