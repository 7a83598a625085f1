"""Quanda's metrics on Fashion-MNIST, LeNet-5 or ResNet-9.

  python -m experiments.quanda --config=configs/quanda/fashion_mnist.py \
      --workdir=DIR --config.data.path=FOLDER

FOLDER: see configs/astra/fashion_mnist.py. Arguments: `:smoke` (seconds),
`:model=lenet|resnet9` (a narrow ResNet). 1,000
rows, 50 queries; a white patch of 12 x 12 pixels on T-shirts, ones of MNIST
as foreign rows, 10% of the labels wrong; 50 half-subsets x 2 seeds.
"""

from configs.quanda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, model='lenet')
  c = base.config('fashion_mnist')
  base.convolutional(c)
  c.data.worlds.mixed.update(foreign='mnist5k', only=1)
  c.training.epochs = 12
  if a['model'] == 'resnet9':
    base.resnet9(c)
  return base.smoke(c) if a['smoke'] else c
