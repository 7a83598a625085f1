"""Final-model-only attribution on scikit-learn's diabetes.

  python -m experiments.final_model_only \
      --config=configs/final_model_only/diabetes.py --workdir=DIR

Argument: `:smoke` (seconds). 365 rows, 77 queries, MLP 128-128, SGD .05 for 200
epochs, then .005 for 50 more; 100 rows left out x 20 seeds (the paper: 100).
Not one of the paper's tables. About 3 minutes on two cores.
"""

from configs.final_model_only import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('diabetes')
  c.data.update(train=365, queries=77)
  # Elsewhere the Hessian is indefinite at this damping, and LiSSA diverges.
  c.methods.lissa_hessian_x100 = {
    **c.methods.lissa_x100,
    'curvature': 'hessian',
  }
  c.plotted = (*c.plotted, 'lissa_hessian_x100')
  return base.smoke(c) if a['smoke'] else c
