"""Final-model-only attribution on 1,000 images of Fashion-MNIST.

  python -m experiments.final_model_only \
      --config=configs/final_model_only/fashion_mnist.py --workdir=DIR \
      --config.data.path=FOLDER

FOLDER holds the idx.gz files (Debian package dataset-fashion-mnist, or
github.com/zalandoresearch/fashion-mnist); empty: where that package puts them.
Argument: `:smoke` (seconds). 100 queries, MLP 784-64-10, SGD .05, batch 64, 20
epochs, then .01 for 20 more; 100 rows left out x 20 seeds. The paper's images
are CIFAR-10 with a ResNet-9, whose further training takes GPUs. Minutes on two
cores.
"""

from configs.final_model_only import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('fashion_mnist')
  c.task = 'experiments.shared.tasks:images'
  c.data.update(train=1000, queries=100)
  c.model.widths = (64,)
  c.training.update(batch_size=64, epochs=20)
  c.further.update(
    learning_rate=0.01, batch_size=64, epochs=20, points=(1, 2, 5, 10, 20)
  )
  return base.smoke(c) if a['smoke'] else c
