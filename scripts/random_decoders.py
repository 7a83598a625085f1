"""Makes the fixtures of the tests of language models with the package transformers.

  python -m scripts.random_decoders FOLDER [MINILM [SMOLLM]]

FOLDER/NAME/config.json and model.safetensors: decoders of 2 blocks with RANDOM
weights, which know nothing, and a BERT; FOLDER/NAME/known.npz: ids and what PyTorch
makes of them. With the folder of all-MiniLM-L6-v2, FOLDER/minilm.npz: vectors of a
few sentences; with the GGUF file of SmolLM2-135M-Instruct, FOLDER/smollm2.npz: ids
and logits of a sentence. Needs torch and transformers, for GGUF also gguf and
accelerate; made with 2.13.0 and 5.24.0.
"""

import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers as hf

IDS = 40
LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
  'rope_theta': 500.0,
}
SMALL = {
  'vocab_size': IDS,
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 64,
  'rms_norm_eps': 1e-5,
}
GPT2 = {'vocab_size': IDS, 'n_positions': 32, 'n_embd': 16, 'n_layer': 2}
DECODERS = {
  'llama': (hf.LlamaForCausalLM, hf.LlamaConfig, SMALL),
  'llama_tied': (
    hf.LlamaForCausalLM,
    hf.LlamaConfig,
    {**SMALL, 'tie_word_embeddings': True, 'rope_parameters': LLAMA3},
  ),
  'mistral': (
    hf.MistralForCausalLM,
    hf.MistralConfig,
    {**SMALL, 'head_dim': 8, 'sliding_window': 48},
  ),
  'qwen2': (hf.Qwen2ForCausalLM, hf.Qwen2Config, SMALL),
  'qwen2_tied': (
    hf.Qwen2ForCausalLM,
    hf.Qwen2Config,
    {**SMALL, 'tie_word_embeddings': True},
  ),
  'gpt2_tied': (hf.GPT2LMHeadModel, hf.GPT2Config, {**GPT2, 'n_head': 4}),
  'gpt2': (
    hf.GPT2LMHeadModel,
    hf.GPT2Config,
    {**GPT2, 'n_head': 2, 'tie_word_embeddings': False},
  ),
}
BERT = {
  'vocab_size': IDS,
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'max_position_embeddings': 32,
}
# Of several lengths, with words that are cut in pieces, and one in two.
SENTENCES = (
  'The capital of France is Paris.',
  'Paris is the capital city of France.',
  'I like cheese.',
  'Training data attribution asks which rows of a training set a prediction'
  ' rests upon, and influence functions are an answer by second derivatives.',
  'Ça va très bien, naïve façade!',
  '',
)
PROMPT = 'The capital of France is'


def moved(model):
  """The model with all parameters moved: at the start many are 0 or 1."""
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.3 * torch.randn(parameter.shape))
  return model.eval()


def save(model, folder):
  """The model's files, without those that a test does not read."""
  shutil.rmtree(folder, ignore_errors=True)
  model.save_pretrained(folder)
  (folder / 'generation_config.json').unlink(missing_ok=True)


@torch.no_grad()
def decoders(folder):
  for name, (kind, config, sizes) in DECODERS.items():
    torch.manual_seed(0)
    model = moved(kind(config(**sizes)))
    save(model, folder / name)
    ids = torch.randint(0, IDS, (2, 24))
    logits = model(ids).logits
    np.savez_compressed(folder / name / 'known.npz', ids=ids, logits=logits)


@torch.no_grad()
def bert(folder):
  torch.manual_seed(0)
  model = moved(hf.BertModel(hf.BertConfig(**BERT)))
  save(model, folder / 'bert')
  ids = torch.randint(1, IDS, (3, 9))
  real = torch.arange(9) < torch.tensor([[9], [5], [1]])
  x = pooled(model(ids, attention_mask=real).last_hidden_state, real)
  np.savez_compressed(
    folder / 'bert' / 'known.npz', ids=ids * real, real=real, rows=x
  )


def pooled(x, real):
  """The mean over real tokens, of length 1, as sentence-transformers has it."""
  real = real[..., None].float()
  mean = (x * real).sum(1) / real.sum(1).clamp(min=1e-9)
  return torch.nn.functional.normalize(mean, dim=1)


@torch.no_grad()
def minilm(folder, source):
  tokenizer = hf.AutoTokenizer.from_pretrained(source)
  model = hf.BertModel.from_pretrained(source).eval()
  given = tokenizer(
    [*SENTENCES],
    padding=True,
    truncation=True,
    max_length=256,
    return_tensors='pt',
  )
  x = pooled(model(**given).last_hidden_state, given['attention_mask'])
  np.savez_compressed(
    folder / 'minilm.npz', sentences=np.array(SENTENCES), rows=x
  )


@torch.no_grad()
def smollm(folder, source):
  source = pathlib.Path(source)
  given = {'gguf_file': source.name}
  tokenizer = hf.AutoTokenizer.from_pretrained(source.parent, **given)
  model = hf.AutoModelForCausalLM.from_pretrained(
    source.parent, dtype=torch.float32, **given
  ).eval()
  text = PROMPT + ' Paris, 1234 km from Kraków\n\tdef f(x): return x**2'
  ids = tokenizer(text)['input_ids']
  logits = model(torch.tensor([ids])).logits[0].numpy()
  np.savez_compressed(
    folder / 'smollm2.npz', text=text, ids=ids, logits=logits[:, ::500]
  )
  start = tokenizer(PROMPT, return_tensors='pt')
  print(tokenizer.decode(model.generate(**start, max_new_tokens=5)[0]))


def main(folder: str, *sources: str) -> None:
  folder = pathlib.Path(folder)
  decoders(folder)
  bert(folder)
  for make, source in zip((minilm, smollm), sources, strict=False):
    make(folder, source)


if __name__ == '__main__':
  main(*sys.argv[1:])
