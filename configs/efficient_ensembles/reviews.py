"""Efficient ensembles of small transformers on food reviews: LoRA adapters too.

  python -m experiments.efficient_ensembles \
      --config=configs/efficient_ensembles/reviews.py --workdir=DIR

Argument: `:smoke`. The Fine Foods reviews of R's modeldata (great or not), 1,000
rows, 100 queries, a transformer of 2 blocks and width 64; up to 10 models x 10
masks, and 5 adapters of rank 4 on each; 50 half-subsets x 3 seeds. Needs the
extra `data`.
"""

from configs.efficient_ensembles import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('reviews')
  c.task = 'experiments.shared.tasks:reviews'
  c.ensembles = ('naive', 'dropout:10', 'projections:10', 'lora:5')
  c.data.update(name='reviews', train=1000)
  c.data.length, c.data.vocabulary = 32, 1000  # tokens of a row, words known
  c.model.kind = 'transformer'
  c.members, c.models, c.variants = 10, (1, 3, 5, 10), (1, 3, 5, 10)
  c.training.update(learning_rate=0.02, epochs=10)
  c.lora.targets = ('Block_*/kernel',)
  c.lora.training.update(learning_rate=0.02, epochs=3)
  c.truth.update(subsets=50, repeats=3, members_at_once=10)
  c.methods.ekfac.update(models=3, variants=3)
  if a['smoke']:
    base.smoke(c)
    c.ensembles = ('naive', 'lora:2')  # each compiles a transformer anew
    c.methods = {'grad_dot': c.methods.grad_dot}
  return c
