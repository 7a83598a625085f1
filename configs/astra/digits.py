"""ASTRA on scikit-learn's digits: the quickstart.

  python -m experiments.astra --config=configs/astra/digits.py --workdir=DIR

Arguments: `:smoke` (seconds), `:quick` (the quickstart: fewer members and
methods), `:ablation=damping|steps|batch|preconditioner|projection` (the same
models and ground truth in the same workdir, other methods).

The common setting of the field's libraries: 1,000 rows, MLP 64-128-64-10, 100
half-subsets x 10 seeds. Expect an LDS of about .62 (one model) and .72 (ten
models) for the exact solve, under a ceiling of about .89.
"""

from configs.astra import base
from experiments.shared import arguments

DAMPING = (
  3e-3  # of ablations and kinds by name, near the best on validation subsets
)
COLD = {'temperature': 1e-3}  # at 1, draws leave where the loss is quadratic

SMOKE = {
    'grad_dot', 'ekfac', 'astra', 'cg', 'exact', 'trak', 'source',
}  # fmt: skip
QUICK = {
    'grad_dot', 'grad_cos', 'kfac', 'ekfac', 'neumann', 'astra_paper', 'astra',
    'cg', 'exact',
}  # fmt: skip


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, quick=False, ablation='')
  c = base.config('digits')
  c.truth.members_at_once = 50
  c.damping = DAMPING
  c.checkpoints = 6
  c.left_out.update(rows=50, repeats=20)
  damping = 'chosen:exact'
  refined = {
    'kind': 'astra',
    'damping': damping,
    'rounds': 8,
    'precondition': {
      'kind': 'ekfac',
      'damping': f'{damping}*10',
      'labels': 'exact',
    },
  }
  if a['ablation']:
    c.setting = f'digits_{a["ablation"]}'
    c.ablation = a['ablation']
    c.methods = base.ablation(a['ablation'], DAMPING, {}, base.EXACT)
    for settings in c.methods.values():
      settings.members = 3
    c.left_out.rows = 0
    if a['ablation'] == 'projection':
      c.claims = ('low_curvature_matters',)
    return base.smoke(c) if a['smoke'] else c
  c.claims = (
    'digits_levels',
    'solvers_agree',
    'fewer_steps_than_neumann',
    'converged_beats_early_stopped',
    'sets_beat_scores',
    'digits_ceiling',
  )
  c.choose = {
    'exact': {'kind': 'exact', 'members': 1},
    'ekfac': {'kind': 'ekfac', 'labels': 'exact', 'members': 1},
  }
  c.methods = {
    **base.FIRST_ORDER,
    'kfac': {'kind': 'kfac', 'damping': 'heuristic'},
    'ekfac': {'kind': 'ekfac', 'damping': 'heuristic', 'residual': True},
    'ekfac_exact_labels': {
      'kind': 'ekfac',
      'labels': 'exact',
      'damping': 'chosen:ekfac',
      'residual': True,
    },
    'neumann': {'kind': 'neumann', 'damping': damping, 'reports': 8},
    'astra_paper': {
      'kind': 'astra',
      'damping': damping,
      'step_per_damping': 0.1,
      'reports': 8,
    },
    'astra': refined,
    'cg': {'kind': 'cg', 'damping': damping, 'tolerance': 3e-3},
    'exact': {'kind': 'exact', 'damping': damping, 'memory_limit': 8e9},
    **base.TRAINING,
    'exact_source': {
      'kind': 'source',
      'solver': {'kind': 'exact', 'memory_limit': 8e9},
    },
    'unrolled': {'kind': 'unrolled'},
    'trak': {'kind': 'trak', 'projection_dim': 512},
    'logra': {'kind': 'logra'},
    'datainf': {'kind': 'datainf'},
    'arnoldi': {'kind': 'arnoldi'},
    'relatif': {'kind': 'relatif', 'inverse': {'kind': 'ekfac'}},
    'laplace': {
      'kind': 'laplace_influence',
      'inverse': {'kind': 'ekfac', 'labels': 'exact', 'damping': DAMPING},
      'draws': 4000,
      **COLD,
    },
    'bayesian': {
      'kind': 'bayesian_influence',
      'damping': DAMPING,
      'precondition': {'kind': 'ekfac', 'damping': DAMPING},
      'draws': 100,  # of each of 10 chains
      'burn_in': 100,
      'batch_size': 1000,  # all: at this temperature minibatches are noise
      **COLD,
    },
    'representer': {'kind': 'representer', 'l2': c.training.weight_decay},
    'similarity': {'kind': 'similarity', 'layer': 'Dense_2/kernel'},
    'random': {'kind': 'random'},
    'loss_only': {'kind': 'loss_only'},
  }
  c.sets = {'sets_exact': base.SETS}
  for name in (
    *('astra', 'neumann', 'astra_paper', 'exact_source', 'unrolled'),
    'bayesian',
  ):
    c.methods[name].members = 3  # a minute or so each
  if a['quick']:
    c.members = 3
    c.data.queries = 100
    c.truth.update(repeats=5, validation=10)
    c.left_out.rows = 0
    c.damping_grid = (1e-3, 3e-3, 1e-2)
    c.claims = ('solvers_agree', 'fewer_steps_than_neumann')
    del c.choose['ekfac'], c.sets['sets_exact']  # they take a minute
    for name in set(c.methods) - QUICK:
      del c.methods[name]
    for name in ('astra', 'neumann', 'astra_paper'):
      c.methods[name].members = 1
  if a['smoke']:
    base.smoke(c)
    for name in set(c.methods) - SMOKE:
      del c.methods[name]
    if 'ekfac' in c.choose:
      del c.choose['ekfac']
    c.claims = ('solvers_agree', 'sets_beat_scores')
  return c
