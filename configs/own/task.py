"""A task of one's own, by default the example: 178 wines, an MLP, five models.

  python -m experiments.own --config=configs/own/task.py --workdir=build/own
  python -m experiments.own --config=configs/own/task.py --workdir=build/mine \
    --config.task=my_module:my_function --config.members=5

My function is given this config and returns (problem, recipe or Run, train,
queries); see experiments/own/example.py. Half a minute for the example;
`:smoke` takes 20 s.
"""

from ml_collections import config_dict

from configs.astra import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg: str | None = None) -> config_dict.ConfigDict:
  given = arguments.parse(arg, smoke=False)
  c = base.config('task')
  c.experiment = 'own'
  c.task = 'experiments.own.example:wines'  # module:function
  c.members = 5
  c.data.name = 'own'
  c.model.widths = (16,)
  c.training.update(batch_size=20, epochs=60)
  c.truth.subsets = 0  # M retrained models for an LDS; 0: none
  c.methods = {  # name -> settings (tda_jax.methods.registry)
    'ekfac': {'kind': 'ekfac', 'damping': 'heuristic', 'residual': True},
    'grad_cos': {'kind': 'grad_cos'},
    'similarity': {'kind': 'similarity'},
  }
  c.report = config_dict.create(queries=12, evidence=6)
  if given['smoke']:
    c.members = 4
    c.training.epochs = 10
    c.report.update(queries=4, evidence=3)
  return c
