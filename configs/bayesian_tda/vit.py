"""Noise of scores of a pretrained vision transformer with LoRA, as mnist3.

  JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS=1 python -m experiments.bayesian_tda \
      --config=configs/bayesian_tda/vit.py --workdir=DIR --config.model.path=FILE

Without the variable every program's text holds all weights of the base.

FILE is the model.safetensors of a ViT of the package transformers, which the
paper takes from google/vit-base-patch16-224-in21k (`--config.model.heads`, 12, for
one with other heads). Needs the package safetensors: pip install "tda_jax[vit]".
Adapters of rank 16 on queries and values and a new head are trained, from 10
seeds; the paper also drops 10% of the adapters' inputs.

Argument: `:smoke` (seconds, without a file: a tiny ViT of random weights, whose
figures say nothing). The whole is for a GPU: leave-one-out trains 15 · 10 models
in each of six parts; `--config.left_out.ways=()` leaves it out.
"""

from ml_collections import config_dict

from configs.bayesian_tda import base
from experiments.shared import arguments

KINDS = (('vit', False), ('vit', True))
TINY = {
  'side': 16, 'channels': 3, 'patch': 4, 'width': 16, 'heads': 2, 'blocks': 1,
  'hidden': 32,
}  # fmt: skip


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('vit')
  c.data.update(name='mnist5k', queries=300, symmetric=True)
  c.model = config_dict.create(
    kind='vit',  # 'random_vit': of `sizes`, with random weights
    path='',  # of model.safetensors
    heads=12,  # of attention, which the file does not tell
    lora={
      'rank': 16,
      'alpha': 16.0,
      'targets': ('*/query/kernel', '*/value/kernel'),
    },
  )
  c.training.schedule = 'linear'
  c.left_out.update(rows=15, members_at_once=10)
  c.batch_size = 16
  c.parts = base.parts({10: 15, 20: 15, 50: 15}, KINDS)
  if a['smoke']:
    base.smoke(c)
    c.model.update(kind='random_vit', sizes=TINY)
    c.model.lora.rank = 2
    c.parts = base.parts({4: 3}, (('random_vit', False), ('random_vit', True)))
  return c
