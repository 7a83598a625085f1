"""Efficient ensembles of small CNNs on Fashion-MNIST.

  python -m experiments.efficient_ensembles \
      --config=configs/efficient_ensembles/fashion_mnist.py --workdir=DIR \
      --config.data.path=FOLDER

FOLDER: see configs/astra/fashion_mnist.py. Argument: `:smoke`. 2,000 rows, 100
queries, LeNet with dropout .1; up to 10 models, and 5 x 10 masks; 50 half-subsets
x 5 seeds.
"""

from configs.efficient_ensembles import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('fashion_mnist')
  c.task = 'experiments.shared.tasks:images'
  c.data.update(name='fashion_mnist', train=2000)
  c.model.kind = 'lenet'
  c.members, c.models, c.variants = 10, (1, 3, 5, 10), (1, 3, 10)
  c.varied = 5  # projections of a convolution take long
  c.ensembles = ('naive', 'dropout:10', 'projections:10')
  c.training.epochs = 15
  c.truth.update(subsets=50, repeats=5, members_at_once=2)
  c.methods.ekfac.update(models=5, variants=3)
  return base.smoke(c) if a['smoke'] else c
