"""Final-model-only attribution on scikit-learn's breast cancer: two classes.

  python -m experiments.final_model_only \
      --config=configs/final_model_only/breast_cancer.py --workdir=DIR

Argument: `:smoke` (seconds). 469 rows, 100 queries, MLP 128-128, SGD .05 for 50
epochs, then .005 for 50 more; 100 rows left out x 20 seeds. Not one of the
paper's tables. Minutes on two cores.
"""

from configs.final_model_only import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('breast_cancer')
  c.data.update(train=469, queries=100)
  c.training.epochs = 50
  c.methods.trak.ridge = 1e-3  # without, the kernel is singular to rounding
  return base.smoke(c) if a['smoke'] else c
