"""Final-model-only attribution on Folktables: ACSIncome, Massachusetts, 2018.

  python -m experiments.final_model_only \
      --config=configs/final_model_only/folktables.py --workdir=DIR \
      --config.data.path=FILE

FILE: an NPZ of one-hot features x and labels y, made where the network is with
the package folktables:

  import folktables, numpy, pandas
  source = folktables.ACSDataSource('2018', '1-Year', 'person')
  people = source.get_data(['MA'], download=True)
  x, y, _ = folktables.ACSIncome.df_to_pandas(people)
  coded = [c for c in x if c not in ('AGEP', 'WKHP')]
  x = pandas.get_dummies(x, columns=coded)
  numpy.savez('acs.npz', x=x.to_numpy('float32'), y=y.to_numpy().ravel())

Argument: `:smoke` (seconds). 4,000 rows (the paper: 30,085), 100 queries, MLP
128-128, SGD .01, batch 128, 100 epochs, then SGD .001; 100 rows left out. The
paper trains further for 25 epochs with 100 seeds and deletes rows; here 3
epochs with 20 seeds and weight 0, to take minutes on two cores.
"""

from configs.final_model_only import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('folktables')
  c.data.update(train=4000, queries=100, classification=True)
  c.training.update(learning_rate=0.01, batch_size=128, epochs=100)
  c.further.update(
    learning_rate=0.001, batch_size=128, epochs=3, points=(0.25, 0.5, 1, 2, 3)
  )
  return base.smoke(c) if a['smoke'] else c
