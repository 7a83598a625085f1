"""Limited access on 2,000 images of Fashion-MNIST.

  python -m experiments.limited_access \
      --config=configs/limited_access/fashion_mnist.py --workdir=DIR \
      --config.data.path=FOLDER

FOLDER holds the idx.gz files (Debian package dataset-fashion-mnist, or
github.com/zalandoresearch/fashion-mnist); empty: where that package puts them.
Argument: `:smoke` (seconds). Sizes, target and proxies are those of `mnist5k`.
"""

from configs.limited_access import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('fashion_mnist')
  return base.smoke(c) if a['smoke'] else c
