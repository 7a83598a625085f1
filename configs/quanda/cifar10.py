"""Quanda's benchmark on CIFAR-10, ResNet-9: its own settings.

  python -m experiments.quanda --config=configs/quanda/cifar10.py --workdir=DIR \
      --config.data.path=FOLDER --config.data.worlds.mixed.path=SVHN

FOLDER holds the binary files of CIFAR-10 (configs/astra/cifar10.py), SVHN
train_32x32.mat (ufldl.stanford.edu/housenumbers). For an accelerator. Argument:
`:smoke` (a narrow ResNet; needs the files too). 40,000 rows (80%), 1,000 queries;
a yellow patch of 15 x 15 pixels on 75% of a class; learning rates and epochs of
each world are Quanda's. Group norm stands for batch norm, which has no
per-example gradient.
"""

from configs.quanda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('cifar10')
  c.data.update(train=40000, queries=1000)
  c.data.worlds.mixed.update(foreign='svhn', only=0)
  c.data.worlds.shortcut.update(share=0.75, size=15)
  c.data.worlds.shortcut.value = (1.0, 1.0, 0.0)  # yellow
  c.model.update(kind='resnet9', widths=(64, 128, 256, 128))
  c.training.update(
    learning_rate=0.2,
    schedule='triangular',
    weight_decay=5e-4,
    batch_size=512,
    epochs=36,
    augment=True,
  )
  c.worlds.grouped.training = {'learning_rate': 0.4}
  c.worlds.shortcut.training = {'learning_rate': 0.1, 'epochs': 96}
  c.worlds.mixed.training = {'learning_rate': 0.1, 'epochs': 96}
  c.worlds.mislabelled.training = {'epochs': 24}
  c.truth.update(subsets=100, repeats=2)
  base.at_full_size(c)
  return base.smoke(c) if a['smoke'] else c
