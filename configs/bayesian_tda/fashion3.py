"""Noise of scores on three classes of Fashion-MNIST.

  python -m experiments.bayesian_tda --config=configs/bayesian_tda/fashion3.py \
      --workdir=DIR --config.data.path=FOLDER

FOLDER holds the idx.gz files (Debian package dataset-fashion-mnist, or
github.com/zalandoresearch/fashion-mnist); empty: where that package puts them.
Arguments: `:smoke` (seconds), `:all`. T-shirts, trousers and pullovers; otherwise as
mnist3.
"""

from configs.bayesian_tda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, all=False)
  c = base.config('fashion3')
  c.data.update(name='fashion_mnist', pool=2, queries=300)
  c.left_out.rows = 15
  c.parts = c.parts if a['all'] else base.few(c.parts)
  return base.smoke(c) if a['smoke'] else c
