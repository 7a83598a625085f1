"""ASTRA on a subset of CIFAR-10 with ResNet-9, the paper's setting.

  python -m experiments.astra --config=configs/astra/cifar10.py --workdir=DIR \
      --config.data.path=FOLDER

FOLDER holds data_batch_1.bin to data_batch_5.bin and test_batch.bin
(cifar-10-binary.tar.gz, www.cs.toronto.edu/~kriz/cifar.html). For an
accelerator: 5,000 ResNets are retrained (`:smoke` runs anywhere, on a narrow
one). Group norm stands for batch norm, which has no per-example gradient.

3,072 rows, 100 queries, SGD momentum .9, triangular lr to .4, weight decay
1e-3, batch 512, 25 epochs, crops and mirror images; 100 half-subsets x 50
seeds; λ = .014, step .01·λ, batch 128.
"""

from configs.astra import base, paper
from experiments.shared import arguments

DAMPING = 0.014


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, ablation='')
  c = paper.config('cifar10', DAMPING, solver_members=10)
  c.task = 'experiments.shared.tasks:images'
  c.data.update(name='cifar10', train=3072, queries=100)
  c.model.update(kind='resnet9', widths=(64, 128, 256, 128))
  c.training.update(
    learning_rate=0.4,
    schedule='triangular',
    weight_decay=1e-3,
    batch_size=512,
    epochs=25,
    augment=True,
  )
  c.truth.update(repeats=50, members_at_once=10)
  c.methods.trak.projection_dim = 2048  # a kernel of more is singular
  c.methods.astra_paper.update(step_per_damping=0.01, batch_size=128)
  if a['ablation']:
    paper.ablated(c, a['ablation'], DAMPING)
  if a['smoke']:
    base.smoke(c)
    c.update(members=1, checkpoints=0)
    c.model.update(widths=(8, 8, 8, 8), groups=4)
    c.data.update(train=32, queries=8)
    c.truth.update(subsets=4, validation=2)
    c.choose = {}
    for name in set(c.methods) - {'grad_dot', 'ekfac'}:
      del c.methods[name]  # ASTRA's descent alone compiles as long as all else
  return c
