"""Makes the checkpoints and texts of the smoke runs of language models.

  python -m scripts.tiny_checkpoints tests/models/data

FOLDER/NAME/{config.json, model.safetensors, tokenizer.json}: a Llama and a GPT-2 of
two blocks with RANDOM weights, which know nothing, as the package transformers saves
them, with a byte-level tokenizer; FOLDER/wiki/{train,test}.txt: statements about
countries, laid out as WikiText is. Needs nothing but tda_jax.
"""

import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file

from tda_jax.data import facts, tokenizer

VOCABULARY, WIDTH, HIDDEN, BLOCKS = 300, 16, 24, 2
LLAMA = {
  'architectures': ['LlamaForCausalLM'],
  'vocab_size': VOCABULARY,
  'hidden_size': WIDTH,
  'intermediate_size': HIDDEN,
  'num_hidden_layers': BLOCKS,
  'num_attention_heads': 2,
  'num_key_value_heads': 1,
  'max_position_embeddings': 64,
  'rms_norm_eps': 1e-5,
  'tie_word_embeddings': True,
  'eos_token_id': tokenizer.END,
}
GPT2 = {
  'architectures': ['GPT2LMHeadModel'],
  'vocab_size': VOCABULARY,
  'n_positions': 64,
  'n_embd': WIDTH,
  'n_inner': HIDDEN,
  'n_layer': BLOCKS,
  'n_head': 2,
  'layer_norm_epsilon': 1e-5,
  'eos_token_id': tokenizer.END,
}


def llama() -> dict[str, tuple[int, ...]]:
  """Name -> shape of its tensors, matrices [O, I]."""
  shapes = {'model.embed_tokens.weight': (VOCABULARY, WIDTH)}
  shapes['model.norm.weight'] = (WIDTH,)
  for i in range(BLOCKS):
    of = {
      'input_layernorm': (WIDTH,),
      'post_attention_layernorm': (WIDTH,),
      'self_attn.q_proj': (WIDTH, WIDTH),
      'self_attn.k_proj': (WIDTH // 2, WIDTH),
      'self_attn.v_proj': (WIDTH // 2, WIDTH),
      'self_attn.o_proj': (WIDTH, WIDTH),
      'mlp.gate_proj': (HIDDEN, WIDTH),
      'mlp.up_proj': (HIDDEN, WIDTH),
      'mlp.down_proj': (WIDTH, HIDDEN),
    }
    shapes |= {f'model.layers.{i}.{n}.weight': shape for n, shape in of.items()}
  return shapes


def gpt2() -> dict[str, tuple[int, ...]]:
  """Name -> shape of its tensors, matrices [I, O]."""
  shapes = {'transformer.wte.weight': (VOCABULARY, WIDTH)}
  shapes['transformer.wpe.weight'] = (GPT2['n_positions'], WIDTH)
  of = {'transformer.ln_f': (WIDTH,)}
  for i in range(BLOCKS):
    block = {
      'ln_1': (WIDTH,),
      'attn.c_attn': (WIDTH, 3 * WIDTH),
      'attn.c_proj': (WIDTH, WIDTH),
      'ln_2': (WIDTH,),
      'mlp.c_fc': (WIDTH, HIDDEN),
      'mlp.c_proj': (HIDDEN, WIDTH),
    }
    of |= {f'transformer.h.{i}.{name}': shape for name, shape in block.items()}
  for name, shape in of.items():
    shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[-1:]}
  return shapes


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Random tensors: norms about 1, biases about 0."""
  rng = np.random.default_rng(0)
  return {
    name: np.float32(
      0.1 * rng.normal(size=shape)
      + (len(shape) == 1 and name.endswith('weight'))
    )
    for name, shape in shapes.items()
  }


def main(folder: str) -> None:
  folder, statements = pathlib.Path(folder), {}
  for seed, part in ((0, 'train'), (1, 'test')):
    said = facts.facts(60, seed=seed, paraphrases=3, queries=1).sentences
    statements[part] = [f' {one} \n' for one in said]
  made = tokenizer.trained(statements['train'], VOCABULARY)
  for name, config, shapes in (
    ('llama_bytes', LLAMA, llama()),
    ('gpt2_bytes', GPT2, gpt2()),
  ):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / 'config.json').write_text(json.dumps(config, indent=1))
    save_file(drawn(shapes), folder / name / 'model.safetensors')
    made.save(str(folder / name / 'tokenizer.json'), pretty=False)
  (folder / 'wiki').mkdir(exist_ok=True)
  for part, lines in statements.items():
    head = ' = Countries = \n \n'
    (folder / 'wiki' / f'{part}.txt').write_text(head + ''.join(lines))


if __name__ == '__main__':
  main(*sys.argv[1:])
