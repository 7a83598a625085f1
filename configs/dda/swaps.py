"""Names swapped in summaries: is a swap found, with and without the base's scores?

  python -m experiments.dda --config=configs/dda/swaps.py --workdir=DIR

Argument: `:smoke`. 3 bases of 0.1 million parameters for each of three kinds of
knowledge, 3 fine-tunings of each in 8 settings: a map of what the base knows of the
names (nothing, the truth, swaps) by how far fine-tuning overfits, and a format of
summaries that is new to the base. Debias is expected to help nowhere, denoise and
contrast everywhere.
"""

from configs.dda import base
from experiments.shared import arguments

OVERFITTED = {'training': {'epochs': 16, 'learning_rate': 2e-3}}
SMOKE = ('grad_dot', 'contrast_pair')


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('swaps')
  kinds = {
    'right': {},
    'new_format': {'data': {'style': 'new'}},
    'swapped': {'data': {'knowledge': 'swapped'}},
    'nothing': {'data': {'knowledge': 'nothing'}},
  }
  c.parts = {
    name + ending: {**changes, **more}
    for name, changes in kinds.items()
    for ending, more in (('', {}), ('_overfitted', OVERFITTED))
  }
  few = {'members': 1}  # dear ones: of one fine-tuning of each base
  c.methods = {
    'grad_dot': {'kind': 'grad_dot'},
    'cosine_rows': {
      'kind': 'dda', 'denoise': False, 'normalised': 'rows', **few,
    },
    'ekfac': {'kind': 'ekfac', 'damping': 'heuristic', **few},
    'contrast_pair': {
      'kind': 'contrast_pair', 'denoise': False, 'pooled': True, **few,
    },
    'grad_cos': {'kind': 'grad_cos'},
    'trak': {'kind': 'trak', 'projection_dim': 128, **few},
    'embedding': {'kind': 'similarity', 'pool': 'mean'},
    'random': {'kind': 'random'},
  }  # fmt: skip
  if a['smoke']:
    base.smoke(c)
    c.parts = {'right_overfitted': {}}
    for name in set(c.methods) - set(SMOKE):
      del c.methods[name]
  return c
