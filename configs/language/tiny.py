"""A small decoder on food reviews: every method against models trained again.

  python -m experiments.language --config=configs/language/tiny.py --workdir=DIR

Argument: `:smoke`. 800 reviews of 64 tokens, a decoder of a quarter of a million
parameters trained with AdamW, 50 queries, 100 repetitions of its own run without 1%
of the rows, 50 random halves with 2 seeds each.
"""

from configs.language import base
from experiments.shared import arguments

DAMPING = 1e-2
SMOKE = ('grad_dot', 'ekfac')


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('tiny')
  c.damping = DAMPING
  ekfac = {'kind': 'ekfac', 'damping': 'heuristic', 'batch_size': 32}
  c.methods = {
    'unrolled': {'kind': 'unrolled', 'members': 1},
    'cg': {
      'kind': 'cg',
      'damping': DAMPING,
      'max_steps': 10,
      'members': 1,
      'batch_size': 32,
      'precondition': {**ekfac, 'damping': DAMPING},
    },
    'astra': {
      'kind': 'astra',
      'damping': DAMPING,
      'steps': 50,
      'members': 1,
      'batch_size': 32,
      'precondition': {**ekfac, 'damping': DAMPING},
    },
    'ekfac': ekfac,
    'kfac': {**ekfac, 'kind': 'kfac'},
    'source': {'kind': 'source', 'batch_size': 32},
    'source_adam': {'kind': 'source', 'optimizer': 'adam', 'batch_size': 32},
    'trak': {'kind': 'trak', 'projection_dim': 256},
    'trackstar': {'kind': 'trackstar', 'second_moments': 'factored'},
    'logra': {'kind': 'logra', 'batch_size': 32},
    **base.FIRST_ORDER,
    'tracin': {'kind': 'tracin'},
    'dda': {'kind': 'dda'},
    'similarity': {'kind': 'similarity', 'pool': 'mean'},
    'random': {'kind': 'random'},
  }
  c.training.eps_root = 1e-8  # unrolling needs a smooth step; as bergson's
  c.qld.methods = ('unrolled', 'ekfac', 'trackstar', 'bm25', 'random')
  c.qld.queries = 20  # 100 trainings
  if a['smoke']:
    base.smoke(c)
    for name in set(c.methods) - set(SMOKE):
      del c.methods[name]
  return c
