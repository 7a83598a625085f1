"""FASTTRACK at 100,000 sentences: what the index costs, and whether it still finds.

  python -m experiments.fasttrack --config=configs/fasttrack/large.py --workdir=DIR

Argument: `:smoke`. Claims, encoder and judge are those of `facts.py`; no decoder is
trained and no gradient method scored, so that all time is the index's, the judge's
training, and the tracing of 100 claims.
"""

from configs.fasttrack import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.config('large')
  c.data.train = 100_000
  c.tracing.controls = 0  # each judges all sentences
  if a['smoke']:
    base.smoke(c)
    c.tracing.controls = 0
  return c
