"""Quanda's benchmark on full MNIST, LeNet-5: its own settings.

  python -m experiments.quanda --config=configs/quanda/mnist.py --workdir=DIR \
      --config.data.path=FOLDER --config.data.worlds.mixed.path=FASHION

FOLDER and FASHION hold the four idx files of MNIST and of Fashion-MNIST. For an
accelerator. Argument: `:smoke` (seconds; needs the files too). 48,000 rows (80%),
1,000 queries; SGD .1, batch 64, 15 epochs, 5 checkpoints; the shortcut Adam .01
and 50 epochs, wrong labels Adam .001 and 200 epochs; LDS by Adam .01 and 5 epochs
of its own is here that of the clean world's training, 100 half-subsets.
"""

from configs.quanda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('mnist')
  c.data.update(train=48000, queries=1000)
  c.data.worlds.mixed.update(foreign='fashion_mnist', only=0)
  c.training.update(
    learning_rate=0.1,
    schedule='constant',
    momentum=0.0,
    weight_decay=0.0,
    batch_size=64,
    epochs=15,
  )
  c.worlds.shortcut.training = base.adam(0.01, 50)
  c.worlds.mislabelled.training = base.adam(1e-3, 200)
  c.truth.update(subsets=100, repeats=2)
  base.at_full_size(c)
  return base.smoke(c) if a['smoke'] else c
