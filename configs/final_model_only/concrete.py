"""Final-model-only attribution on UCI Concrete.

  python -m experiments.final_model_only \
      --config=configs/final_model_only/concrete.py --workdir=DIR

Argument: `:smoke` (seconds). 927 rows, 103 queries, MLP 128-128, SGD .1, batch
128, 1,000 epochs, then SGD .03; 100 rows left out. The paper trains further for
500 epochs with 100 seeds and deletes rows; here 50 epochs with 20 seeds and
weight 0, to take minutes on two cores.
"""

from configs.final_model_only import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('concrete')
  c.data.update(train=927, queries=103)
  c.training.update(learning_rate=0.1, batch_size=128, epochs=1000)
  c.further.update(learning_rate=0.03, batch_size=128)
  return base.smoke(c) if a['smoke'] else c
