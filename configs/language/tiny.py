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
  c.methods = {**base.methods(DAMPING), 'dda': {'kind': 'dda'}}
  c.training.eps_root = 1e-8  # unrolling needs a smooth step; as bergson's
  c.qld.methods = ('unrolled', 'ekfac', 'trackstar', 'bm25', 'random')
  c.qld.queries = 20  # 100 trainings
  if a['smoke']:
    base.smoke(c)
    for name in set(c.methods) - set(SMOKE):
      del c.methods[name]
  return c
