"""ASTRA on UCI Concrete, the paper's setting (Tables 2 and 3).

  python -m experiments.astra --config=configs/astra/concrete.py --workdir=DIR

Arguments: `:smoke`, `:ablation=damping|steps|batch|preconditioner|projection`.

896 rows, 103 queries, MLP 128-128-128, SGD momentum .9, lr .03, weight decay
1e-5, batch 32, 20 epochs; 100 half-subsets x 100 seeds. λ = .0017.
"""

from configs.astra import base, paper
from experiments.shared import arguments

DAMPING = 0.0017


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, ablation='')
  c = paper.config('concrete', DAMPING, solver_members=10)
  c.task = 'experiments.shared.tasks:table'
  c.data.update(name='concrete', train=896, queries=103)
  c.model.update(widths=(128, 128, 128), init='torch')  # He init diverges
  c.training.update(
    learning_rate=0.03,
    schedule='constant',
    weight_decay=1e-5,
    batch_size=32,
    epochs=20,
  )
  c.truth.update(repeats=100, members_at_once=50)
  c.choose.exact = {'kind': 'exact', 'members': 1}
  c.methods.exact = {'kind': 'exact', 'damping': DAMPING}
  c.methods.exact_chosen = {'kind': 'exact', 'damping': 'chosen:exact'}
  c.methods.cg.update(tolerance=1e-3, members=2)
  c.methods.neumann.members = c.methods.astra_source.members = 5
  c.methods.trak.projection_dim = 512
  c.methods.exact_source = {
    'kind': 'source',
    'solver': {'kind': 'exact'},
  }
  c.methods.unrolled.members = 5
  c.methods.astra = {
    'kind': 'astra',
    'damping': DAMPING,
    'rounds': 8,
    'members': 2,
    'precondition': {'kind': 'ekfac', 'damping': 10 * DAMPING},
  }
  c.sets = {'sets_exact': base.SETS}
  c.claims = (*c.claims, 'solvers_agree')
  if a['ablation']:
    paper.ablated(c, a['ablation'], DAMPING, base.EXACT)
  return base.smoke(c) if a['smoke'] else c
