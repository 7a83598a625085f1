"""What the settings of FASTTRACK share. Not a setting itself."""

from ml_collections import config_dict


def config(setting: str) -> config_dict.ConfigDict:
  """Defaults; every field is described here once."""
  c = config_dict.ConfigDict()
  c.experiment = 'fasttrack'
  c.setting = setting
  c.task = 'experiments.shared.language_tasks:claims'  # module:function -> Task
  c.seed = 0
  c.members = 1  # decoders trained on the corpus
  c.checkpoints = 2  # C of TracIn
  c.batch_size = 64  # rows scored at once
  c.data = config_dict.create(
    name='claims',  # or 'vitaminc', 'ftrace'
    path='',  # of their .jsonl
    claims='',  # of ftrace: the .jsonl of its queries
    seed=0,
    train=3000,  # N sentences
    queries=100,  # Q claims
    length=32,  # predictions of a sentence; longer ones are cut
    vocabulary=512,  # tokens of the tokenizer, trained on the sentences
  )
  c.model = config_dict.create(
    kind='decoder', width=64, heads=4, blocks=2, hidden=160, tied=False
  )
  c.training = config_dict.create(
    optimizer='adamw',
    learning_rate=3e-3,
    schedule='triangular',  # up for a fifth of the run, then down to 0
    weight_decay=0.0,
    batch_size=32,
    epochs=10,
    augment=False,  # of images only
    momentum=0.9,  # of SGD only
  )
  c.tracing = config_dict.create(
    encoder='minilm',  # or 'words': TF-IDF, a stand-in that needs no file
    path='',  # folder of all-MiniLM-L6-v2; '': of the package that ships it
    most=100,  # sentences of a leaf
    branches=10,  # of a split
    fuzz=85,  # of 100: how alike words must be
    way='fused',  # of tda_jax.tracing.candidates
    budget=30,  # sentences judged a claim
    budgets=(5, 10, 20, 30),  # of the curve, none above `budget`
    controls=3,  # claims of which all sentences are judged
  )
  c.judge = config_dict.create(
    kind='trained',  # or 'endpoint': OPENAI_BASE_URL and OPENAI_API_KEY
    steps=500,  # of training
    batch_size=32,
    learning_rate=1e-4,
    blocks=3,  # of the encoder that are trained, from the last down
    length=40,  # tokens of a pair; longer ones are cut
    sentences=4000,  # of other countries, that it learns from
    claims=580,  # likewise
    hard=8,  # nearest sentences that do not support, of each claim
    held_out=0.2,  # share of those claims, for calibration and threshold
    model='',  # of an endpoint
    calls=0,  # budget of an endpoint; 0: without end
    at_once=4,  # calls in flight
  )
  c.report = config_dict.create(queries=8, evidence=4)
  c.methods = config_dict.ConfigDict()  # name -> settings
  c.method = ''  # names of some methods or kinds, 'a,b'; empty: all methods
  c.damping = 1e-2  # of a kind that `method` names
  return c


def smoke(c: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shrinks a setting to seconds; every stage still runs."""
  c.data.update(train=120, queries=6, length=24, vocabulary=300)
  c.model.update(width=8, heads=2, blocks=1, hidden=12)
  c.training.update(epochs=2, batch_size=16)
  c.tracing.update(
    encoder='words',
    most=20,
    branches=4,
    budget=10,
    budgets=(5, 10),
    controls=2,
    fuzz=100,
  )
  c.judge.update(
    steps=10, batch_size=8, sentences=60, claims=8, hard=2, blocks=1
  )
  c.report.update(queries=2, evidence=2)
  return c
