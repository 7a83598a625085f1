"""A small decoder that learns facts: which methods find the rows that state one.

  python -m experiments.language --config=configs/language/facts.py --workdir=DIR

Argument: `:smoke`. 900 statements of 300 facts about countries, each said in three
ways, learned by heart; 150 questions ask for some of them in other words. MRR and
recall of the statements that answer, over all questions, and over those that the
model answers right and wrong.
"""

from configs.language import base
from experiments.shared import arguments

SMOKE = ('grad_cos', 'trackstar')
RANK = (48, 48)  # of a layer's sides, of width 96: half of each


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('facts')
  c.task = 'experiments.shared.language_tasks:facts'
  c.data.update(name='facts', train=900, queries=150, length=40, vocabulary=512)
  c.data.paraphrases = 3  # statements of each fact
  c.training.update(epochs=30, weight_decay=0.0)
  c.members = 1
  c.truth.subsets = 0  # nothing is retrained
  c.same_run.subsets = 0
  ekfac = {'kind': 'ekfac', 'damping': 'heuristic', 'batch_size': 32}
  c.methods = {
    'ekfac': ekfac,
    'kfac': {**ekfac, 'kind': 'kfac'},
    'trackstar': {
      'kind': 'trackstar',
      'second_moments': 'factored',
      'rank': RANK,
    },
    'logra': {'kind': 'logra', 'rank': RANK, 'batch_size': 32},
    'trak': {'kind': 'trak', 'projection_dim': 256},
    **base.FIRST_ORDER,
    'tracin': {'kind': 'tracin'},
    'similarity': {'kind': 'similarity', 'pool': 'mean'},
    'random': {'kind': 'random'},
  }
  if a['smoke']:
    base.smoke(c)
    c.data.update(train=36, length=40)
    c.truth.subsets = 0
    c.same_run.subsets = 0
    for name in set(c.methods) - set(SMOKE):
      del c.methods[name]
  return c
