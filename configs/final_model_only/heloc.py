"""Final-model-only attribution on FICO HELOC: two classes.

  python -m experiments.final_model_only \
      --config=configs/final_model_only/heloc.py --workdir=DIR \
      --config.data.path=FILE

FILE: heloc_dataset_v1.csv (community.fico.com, or Kaggle), target column
RiskPerformance. Argument: `:smoke` (seconds). 4,000 rows (the paper: 8,883),
100 queries, MLP 128-128, SGD .001, batch 128, 1,000 epochs, then SGD 1e-4; 100
rows left out. The paper trains further for 200 epochs with 100 seeds and
deletes rows; here 16 epochs with 20 seeds and weight 0, to take minutes on two
cores.
"""

from configs.final_model_only import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('heloc')
  c.data.update(
    train=4000, queries=100, target='RiskPerformance', classification=True
  )
  c.training.update(learning_rate=1e-3, batch_size=128, epochs=1000)
  c.further.update(
    learning_rate=1e-4, batch_size=128, epochs=16, points=(1, 2, 4, 8, 16)
  )
  return base.smoke(c) if a['smoke'] else c
