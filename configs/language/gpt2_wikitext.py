"""GPT-2 on WikiText-2: the two protocols of the published tables.

  hf download openai-community/gpt2 config.json model.safetensors tokenizer.json \
    --local-dir build/gpt2
  hf download --repo-type dataset Salesforce/wikitext \
    wikitext-2-raw-v1/train-00000-of-00001.parquet \
    wikitext-2-raw-v1/test-00000-of-00001.parquet --local-dir build/wikitext
  python -m experiments.language --config=configs/language/gpt2_wikitext.py \
    --workdir=DIR

Arguments: `:protocol=bergson` (the default), `:protocol=bae`, `:smoke`. Other files:
`--config.model.path=FOLDER`, `--config.data.name=FILE` and `--config.data.test=FILE`.
The whole model is fine-tuned on 4,656 pieces of 512 tokens. bergson: batches of 256,
4 epochs, 50 queries, the same run again without a random 1% of the pieces, 100
times. bae (Bae et al. 2024, and kronfluence): batches of 8, 3 epochs, 481 queries,
100 random halves with 5 seeds each. For a GPU of 80 GB or more, days of it;
`--config.method=ekfac,grad_dot` takes some of the methods.
"""

from configs.language import base
from experiments.shared import arguments

PIECES = 'build/wikitext/wikitext-2-raw-v1/%s-00000-of-00001.parquet'
PROTOCOLS = ('bergson', 'bae')


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, protocol='bergson')
  if a['protocol'] not in PROTOCOLS:
    raise ValueError(
      f'protocol={a["protocol"]}: give one of {", ".join(PROTOCOLS)}'
    )
  c = base.config(f'gpt2_wikitext_{a["protocol"]}')
  c.task = 'experiments.shared.language_tasks:chunks'
  c.members, c.batch_size = 1, 8
  c.data.update(name=PIECES % 'train', test=PIECES % 'test')
  c.data.update(train=4656, length=511)  # 512 tokens
  c.truth.members_at_once = 1
  of = {'bergson': _bergson, 'bae': _bae}
  of[a['protocol']](c)
  base.checkpoint(c, 'build/gpt2', rank=0)
  c.model.remat = True
  if a['protocol'] == 'bae':
    c.model.leave_out = ('embedding', 'positions')
  if a['smoke']:
    small = c.truth.subsets, c.same_run.subsets
    base.shrink(c)
    c.truth.subsets, c.same_run.subsets = (6 if n else 0 for n in small)
    c.model.path = f'{base.FIXTURES}/gpt2_bytes'
    c.data.update(
      name=f'{base.FIXTURES}/wiki/train.txt',
      test=f'{base.FIXTURES}/wiki/test.txt',
    )
    for name in set(c.methods) - {'grad_dot', 'ekfac'}:
      del c.methods[name]
  return c


def _bergson(c):
  c.data.queries = 50
  c.training.update(
    learning_rate=8e-4,
    betas=(0.95, 0.975),
    eps_root=1e-8,
    warmup=0.25,
    last=0.1,
    batch_size=256,
    epochs=4,
  )
  c.truth.subsets = 0
  c.same_run.update(subsets=100, dropped=0.01)
  c.damping = 0.1
  c.methods = base.methods(c.damping, batch_size=8)
  c.qld.methods = (*c.methods, 'bm25', 'embedding')
  c.qld.token_methods = ('cg', 'ekfac', 'grad_dot')
  c.qld.random = 3


def _bae(c):
  c.data.queries = 481
  c.training.update(
    learning_rate=3e-5, schedule='constant', batch_size=8, epochs=3
  )
  c.truth.update(subsets=100, repeats=5)
  c.same_run.subsets = 0
  c.damping = 1e-8
  c.methods = base.methods(c.damping, batch_size=8)
  del c.methods['unrolled']  # of 1,746 steps
  del c.training.eps_root
