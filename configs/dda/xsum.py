"""DDA on summaries that people wrote: XSum, or a file like it, and a checkpoint.

  python -m experiments.dda --config=configs/dda/xsum.py --workdir=DIR \
    --config.data.path=xsum_train.jsonl --config.model.path=FOLDER

Argument: `:smoke`, a few rows of the file, which has the fields document and summary
(.jsonl, .parquet). A summary is swapped where it has a triple's first or last name, and
its document has no other of the triple; give triples that the file has enough documents
of: `--config.data.names="('England,China,Wales',)"` with as many `--config.data.pairs`.
Not measured here: it needs the file, and a GPU for a model that summarises well.
"""

from configs.dda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.adapters(base.config('xsum'))
  c.members, c.checkpoints = 1, 4
  c.data.name = 'xsum'
  c.data.names = (
    *('England,China,Wales', 'London,Paris,Glasgow'),
    'Labour,Liberal Democrats,Plaid Cymru',
  )
  c.data.update(train=600, queries=24, held_out=16, length=200, pairs=3)
  c.data.update(of_pair=80, of_other=20, of_wrong=20, probability=0.6)
  c.training.epochs = 4
  if a['smoke']:
    c.data.update(train=24, queries=3, held_out=2)
    c.data.update(of_pair=4, of_other=1, of_wrong=1)
    c.training.epochs = 1
    c.checkpoints = 1
  return c
