"""ASTRA on Fashion-MNIST with 30% random labels, far from convergence.

  python -m experiments.astra --config=configs/astra/fashion_mnist_noisy.py \
      --workdir=DIR --config.data.path=FOLDER

As fashion_mnist, but the paper's FashionMNIST-N: lr .01, weight decay 3e-5,
3 epochs, λ = .10.
"""

from configs.astra import base, fashion_mnist, paper
from experiments.shared import arguments

DAMPING = 0.10


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, ablation='')
  c = fashion_mnist.get_config()
  own = paper.config('fashion_mnist_noisy', DAMPING, solver_members=3)
  for field in (
    'setting',
    'paper_damping',
    'damping',
    'damping_grid',
    'choose',
    'methods',
    'claims',
  ):
    c[field] = own[field]
  fashion_mnist.fewer(c, DAMPING)
  del c.choose.astra_paper, c.methods.astra_chosen
  c.data.label_noise = 0.3
  c.training.update(learning_rate=0.01, weight_decay=3e-5, epochs=3)
  if a['ablation']:
    paper.ablated(c, a['ablation'], DAMPING)
  return base.smoke(c) if a['smoke'] else c
