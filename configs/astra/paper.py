"""The ASTRA paper's own settings share this. Not a setting itself.

λ, the step rule, batch size and decay are Table 3's; networks, optimizers and
sizes Table 2's. 10 models; the iterative solvers on fewer of them, since each
costs minutes on two cores (`members` of a method).
"""

from configs.astra import base


def config(setting: str, damping: float, solver_members: int):
  """Methods at the paper's damping, and at one chosen on validation subsets."""
  c = base.config(setting)
  c.checkpoints = 6
  c.paper_damping = c.damping = damping
  few = {'members': solver_members}
  c.damping_grid = tuple(damping * f for f in (0.1, 0.3, 1.0, 3.0, 10.0))
  stopped = {'kind': 'astra', 'step_per_damping': 0.1}
  c.choose = {
    'ekfac': {'kind': 'ekfac', 'members': 1},
    'astra_paper': {**stopped, 'members': 1},
  }
  c.methods = {
      **base.FIRST_ORDER,
      'ekfac': {'kind': 'ekfac', 'damping': damping},
      'ekfac_chosen': {'kind': 'ekfac', 'damping': 'chosen:ekfac'},
      'neumann': {
          'kind': 'neumann', 'damping': damping, 'reports': 8, **few,
      },
      'astra_paper': {**stopped, 'damping': damping, 'reports': 8, **few},
      'astra_chosen': {**stopped, 'damping': 'chosen:astra_paper', **few},
      'cg': {'kind': 'cg', 'damping': damping, 'tolerance': 1e-2, **few},
      'trak': {'kind': 'trak', 'projection_dim': 4096},
      **base.TRAINING,
      'astra_source': {
          'kind': 'source', 'solver': stopped, **few,
      },
      'unrolled': {'kind': 'unrolled', 'members': 1},
  }  # fmt: skip
  c.claims = (
    'astra_beats_ekfac',
    'astra_beats_ekfac_chosen',
    'gain_grows_with_ensembling',
    'fewer_steps_than_neumann',
    'converged_beats_early_stopped',
    'astra_source_beats_source',
    'sets_beat_scores',
  )
  return c


def ablated(c, name: str, damping: float, solver: dict = base.CG):
  """The same models and truth with the methods of an ablation."""
  c.setting = f'{c.setting}_{name}'
  c.ablation = name
  c.methods = base.ablation(name, damping, {'step_per_damping': 0.1}, solver)
  for settings in c.methods.values():
    settings.members = min(settings.get('members', 3), 3)
  c.choose = {}
  c.claims = ('low_curvature_matters',) if name == 'projection' else ()
  return c
