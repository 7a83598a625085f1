"""A small decoder on food reviews: every method against models trained again.

  python -m experiments.language --config=configs/language/tiny.py --workdir=DIR

Argument: `:smoke`. 800 reviews of 64 tokens, a decoder of a quarter of a million
parameters trained with AdamW, 50 queries, 100 repetitions of its own run without 1%
of the rows, 50 random halves with 2 seeds each.
"""

from configs.language import base
from experiments.shared import arguments

DAMPING = 0.1
SMOKE = ('grad_dot', 'ekfac')


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('tiny')
  c.damping = DAMPING
  c.methods = {**base.methods(DAMPING), 'dda': {'kind': 'dda'}}
  # At a rate of 3e-3 and bare Adam a run without 1% of its rows ends elsewhere
  # altogether (0.14 nats a token from run to run), and nothing predicts it. Here the
  # step is smooth in the gradients, of 64 tokens' sum, and it is 0.002.
  c.training.update(learning_rate=1e-3, betas=(0.95, 0.975), eps_root=1e-2)
  c.methods.cg.max_steps = 6
  c.qld.methods = ('unrolled', 'ekfac', 'trackstar', 'bm25')
  c.qld.token_methods = ('cg', 'ekfac', 'grad_dot')
  c.qld.update(queries=8, random=8)  # 64 trainings
  for name in ('source', 'source_adam'):
    c.methods[name].members = 1  # a minute each
  if a['smoke']:
    base.smoke(c)
    for name in set(c.methods) - set(SMOKE):
      del c.methods[name]
  return c
