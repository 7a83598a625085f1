"""Final-model-only attribution on UCI Energy Efficiency (heating load, Y1).

  python -m experiments.final_model_only \
      --config=configs/final_model_only/energy.py --workdir=DIR \
      --config.data.path=FILE

FILE: the sheet of ENB2012_data.xlsx (archive.ics.uci.edu/dataset/242) saved as
CSV, columns X1 to X8, Y1, Y2. Argument: `:smoke` (seconds). 691 rows, 77
queries, MLP 128-128, SGD .3, batch 128, 1,000 epochs, then SGD .03; 100 rows
left out. The paper trains further for 500 epochs with 100 seeds and deletes
rows; here 100 epochs with 20 seeds and weight 0, to take minutes on two cores.
"""

from configs.final_model_only import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('energy', grid=(1, 10, 100, 1000))
  c.data.update(train=691, queries=77, target='Y1', drop='Y2')
  c.training.update(learning_rate=0.3, batch_size=128, epochs=1000)
  c.further.update(
    learning_rate=0.03,
    batch_size=128,
    epochs=100,
    points=(1, 5, 10, 25, 50, 100),
  )
  return base.smoke(c) if a['smoke'] else c
