"""ASTRA on Fashion-MNIST, the paper's setting (Tables 2 and 3).

  python -m experiments.astra --config=configs/astra/fashion_mnist.py \
      --workdir=DIR --config.data.path=FOLDER

FOLDER holds the idx.gz files (Debian package dataset-fashion-mnist, or
github.com/zalandoresearch/fashion-mnist); empty: where that package puts them.
Arguments: `:smoke`, `:ablation=damping|steps|batch|preconditioner|projection`.

6,144 rows, 100 queries, MLP 512-256-128, SGD momentum .9, lr .03, weight decay
1e-3, batch 64, 20 epochs; 100 half-subsets x 10 seeds (the paper: 50), λ =
.0052. About two hours and a half on two cores, eleven minutes of them retraining.
"""

from configs.astra import base, paper
from experiments.shared import arguments

DAMPING = 0.0052
# The largest eighth of the dual, then conjugate gradients.
EXACT = {'kind': 'exact', 'memory_limit': 7e8, 'tolerance': 3e-2}


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, ablation='')
  c = paper.config('fashion_mnist', DAMPING, solver_members=10)
  c.task = 'experiments.shared.tasks:images'
  c.data.update(name='fashion_mnist', train=6144, queries=100)
  c.model.widths = (512, 256, 128)
  c.training.update(
    learning_rate=0.03,
    schedule='constant',
    weight_decay=1e-3,
    batch_size=64,
    epochs=20,
  )
  c.truth.update(repeats=10, validation=8, members_at_once=4)
  c.paper_repeats = 50
  c.claims = (*c.claims, 'source_levels')
  fewer(c, DAMPING)
  c.choose.exact = {**EXACT, 'members': 1}
  c.methods.exact_chosen = {**EXACT, 'damping': 'chosen:exact'}
  del c.methods.unrolled  # hours, of a run that is not smooth in its weights
  if a['ablation']:
    paper.ablated(c, a['ablation'], DAMPING)
  return base.smoke(c) if a['smoke'] else c


def fewer(c, damping):
  """What two cores can solve: fewer models and a looser tolerance."""
  c.methods.neumann.members, c.methods.astra_source.members = 3, 2
  del c.methods.cg  # as exact, without what its preconditioner saves
  members = c.methods.astra_paper.members
  c.methods.exact = {**EXACT, 'damping': damping, 'members': members}
  c.sets = {'sets_exact': {**base.SETS, 'members': 1}}  # 16 s a set
