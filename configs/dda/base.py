"""What the settings of DDA share. Not a setting itself."""

from ml_collections import config_dict

from configs import checkpoints

ADAPTERS = ('grad_dot', 'grad_cos', 'random')  # methods


def config(setting: str) -> config_dict.ConfigDict:
  """Defaults; every field is described here once."""
  c = config_dict.ConfigDict()
  c.experiment = 'dda'
  c.setting = setting
  c.task = 'experiments.shared.language_tasks:swaps'  # made by experiments.dda
  c.seed = 0
  c.bases = 3  # models trained on clean reports, or on what they are to know
  c.members = 3  # fine-tunings of each base, with rows of their own
  c.checkpoints = 6  # C snapshots of each fine-tuning
  c.batch_size = 200  # rows scored at once; rows of a block on disk
  c.betas = (0.25, 0.5, 1.0)  # beside 0
  c.data = config_dict.create(
    name='swaps',  # or 'xsum'
    path='',  # of its .jsonl or .parquet
    names=(),  # of it, 'NAME,WRONG NAME,OTHER NAME' of each pair
    words=60,  # of its documents, the first
    train=360,  # N rows of a fine-tuning
    queries=20,  # of all pairs of names
    held_out=16,  # documents of each pair, of which queries are chosen
    length=36,  # predictions of a row
    pairs=5,  # of a name and what it is swapped for
    planted=1,  # of these, the last ones, by which beta is chosen
    of_pair=36,  # rows of each name
    of_other=12,  # of another name that is swapped for the same one
    of_wrong=12,  # clean rows of the wrong name
    probability=0.6,  # that a row of a name is swapped
    partial=0.1,  # that one of the others is, in its last sentence alone
    style='old',  # of the summaries: as the base knows them, or 'new'
    sentences=2,  # of a summary
    knowledge='right',  # of the base of these names: 'nothing', 'right', 'swapped'
  )
  c.model = config_dict.create(
    kind='decoder', width=64, heads=4, blocks=2, hidden=128, tied=False
  )
  training = config_dict.create(
    optimizer='adamw',
    learning_rate=1e-3,
    schedule='constant',
    weight_decay=0.01,
    batch_size=32,
    epochs=6,
    augment=False,  # of images only
    momentum=0.9,  # of SGD only
  )
  c.training = training
  c.base = config_dict.ConfigDict(training)
  c.base.update(learning_rate=3e-3, schedule='triangular', epochs=3)
  c.base.train = 6000  # rows
  c.report = config_dict.create(queries=4, evidence=4)
  c.parts = config_dict.ConfigDict()  # name -> changes: cells of the map
  c.methods = config_dict.ConfigDict()  # name -> settings
  c.method = ''  # names of some methods or kinds, 'a,b'; empty: all methods
  c.damping = 1e-2  # of a kind that `method` names
  return c


def adapters(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """One base, SmolLM2-135M, of which LoRA adapters are fine-tuned and scored."""
  c.bases, c.batch_size = 1, 8
  c.model = checkpoints.model(checkpoints.SMOLLM2, rank=8)
  c.training.update(batch_size=8, weight_decay=0.0)
  c.parts = {'adapters': {}}
  c.methods = {name: {'kind': name} for name in ADAPTERS}
  c.report.queries = 2
  return c


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  c.bases = 1
  c.members = 2
  c.checkpoints = 2
  c.betas = (0.5, 1.0)
  c.base.update(train=1200, epochs=4, learning_rate=1e-2)
  c.model.update(width=32, heads=2, blocks=2, hidden=32)
  c.data.update(train=60, queries=4, held_out=12, pairs=2)
  c.data.update(of_pair=20, of_other=4, of_wrong=2, probability=0.9)
  c.training.update(epochs=6, batch_size=20, learning_rate=5e-3)
  c.report.update(queries=1, evidence=2)
  return c
