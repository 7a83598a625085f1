"""What the settings of the language experiment share. Not a setting itself."""

from ml_collections import config_dict

from configs import checkpoints, ensembles

FIXTURES = 'tests/models/data'  # tiny checkpoints of random weights
FIRST_ORDER = {
  'grad_dot': {'kind': 'grad_dot'},
  'grad_cos': {'kind': 'grad_cos'},
}


def config(setting: str) -> config_dict.ConfigDict:
  """Defaults; every field is described here once."""
  c = config_dict.ConfigDict()
  c.experiment = 'language'
  c.setting = setting
  # module:function -> Task
  c.task = 'experiments.shared.language_tasks:documents'
  c.seed = 0
  c.members = 2  # models trained on all rows
  c.checkpoints = 6  # C snapshots of each, for methods that follow training
  c.batch_size = 64  # rows scored at once; rows of a block on disk
  c.embedding = ''  # 'minilm', or a folder of it, for a row of its cosines
  c.data = config_dict.create(
    name='reviews',  # or a file of documents: .txt, .jsonl, .parquet
    seed=0,  # of the split
    train=800,
    queries=50,
    length=64,  # predictions of a row; documents are cut
    vocabulary=512,  # tokens of the tokenizer, trained on the training rows
  )
  c.model = config_dict.create(
    kind='decoder',
    width=96,
    heads=4,
    blocks=2,
    hidden=256,
    tied=False,  # whether the head is the embedding
  )
  c.training = config_dict.create(
    optimizer='adamw',
    learning_rate=3e-3,
    schedule='triangular',  # up for a fifth of the run, then down to 0
    weight_decay=0.01,
    eps_root=0.0,  # within the root of Adam's step, which is smooth above 0
    batch_size=32,
    epochs=3,
    augment=False,  # of images only
    momentum=0.9,  # of SGD only
  )
  c.truth = config_dict.create(
    subsets=50,  # M random halves
    validation=10,  # M that dampings are chosen on
    fraction=0.5,
    repeats=2,  # R new seeds for each
    members_at_once=2,  # models trained together; on a GPU more are faster
  )
  ensembles.add(c)
  c.same_run = config_dict.create(
    subsets=100,  # M runs again without some rows
    dropped=0.01,  # share of the rows that each is without
    members=1,  # models whose runs are repeated
  )
  c.qld = config_dict.create(
    methods=(),  # whose top rows are removed; each takes a training a query
    token_methods=(),  # whose top tokens are removed; likewise
    queries=50,  # the first of them, at most
    random=20,  # removals of random tokens
  )
  c.damping_grid = (1e-3, 1e-2, 1e-1)
  c.choose = config_dict.ConfigDict()  # methods whose damping is chosen
  c.report = config_dict.create(queries=6, evidence=3)
  c.methods = config_dict.ConfigDict()  # name -> settings
  c.method = ''  # names of some methods or kinds, 'a,b'; empty: all methods
  c.damping = 1e-2  # of a kind that `method` names
  return c


def methods(damping: float, batch_size: int = 32) -> dict[str, dict]:
  """Every method of the tables, of one damping."""
  ekfac = {'kind': 'ekfac', 'damping': 'heuristic', 'batch_size': batch_size}
  solved = {
    'damping': damping,
    'members': 1,
    'batch_size': batch_size,
    'precondition': {**ekfac, 'damping': damping},
  }
  source = {'kind': 'source', 'batch_size': batch_size}
  trak = {'kind': 'trak', 'projection_dim': 256}
  return {
    'unrolled': {'kind': 'unrolled', 'members': 1},
    'cg': {'kind': 'cg', 'max_steps': 10, **solved},
    'astra': {'kind': 'astra', 'steps': 50, **solved},
    'ekfac': ekfac,
    'kfac': {**ekfac, 'kind': 'kfac'},
    'source': source,
    'source_adam': {**source, 'optimizer': 'adam'},
    'trak': trak,
    'trak_8': {**trak, 'projections': 8},
    'trackstar': {'kind': 'trackstar', 'second_moments': 'factored'},
    'logra': {'kind': 'logra', 'batch_size': batch_size},
    **FIRST_ORDER,
    'tracin': {'kind': 'tracin'},
    'similarity': {'kind': 'similarity', 'pool': 'mean'},
    'random': {'kind': 'random'},
  }


def checkpoint(c: config_dict.ConfigDict, path: str, rank: int) -> None:
  """Makes the model one that was trained, whose tokenizer cuts the texts.

  Args:
    path, rank: see `checkpoints.model`.
  """
  c.model = checkpoints.model(path, rank)
  del c.data.vocabulary
  c.lora.training = c.training.to_dict()


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  shrink(c)
  c.data.vocabulary = 300
  c.model.update(width=8, heads=2, blocks=1, hidden=12)
  return c


def shrink(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks all but the model."""
  c.members = 1
  c.checkpoints = 3
  c.data.update(train=32, queries=4, length=12)
  c.training.update(epochs=2, batch_size=8)
  c.truth.update(subsets=6, validation=4, repeats=2, members_at_once=6)
  c.same_run.update(subsets=6, dropped=0.1)
  c.qld.update(queries=3, random=4)
  c.report.update(queries=2, evidence=2)
  return c
