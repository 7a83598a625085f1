"""A GPT-2 of the tests as a PyTorch module with plain linear layers, and its rows.

The model is a fixture (`scripts.random_decoders`): two blocks with random weights.
Its queries, keys and values are layers of their own, as they are here. Needs the
packages transformers and safetensors.
"""

import pathlib

import numpy as np

from scripts.torch_models import torch

FOLDER = (
  pathlib.Path(__file__).parents[1] / 'tests' / 'models' / 'data' / 'gpt2'
)
LENGTH = 24
HINT = 'pip install "tda_jax[peers_decoder]"'


class Parts(torch.nn.Module):
  """x W + b of several layers side by side."""

  def __init__(self, conv, count: int):
    super().__init__()
    weights, biases = conv.weight.data.T, conv.bias.data
    self.parts = torch.nn.ModuleList(
      _linear(w, b)
      for w, b in zip(weights.chunk(count), biases.chunk(count), strict=True)
    )

  def forward(self, x):
    return torch.cat([part(x) for part in self.parts], -1)


def _linear(weight, bias):
  linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
  linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
  return linear


def network():
  """The fixture in PyTorch, with plain linear layers."""
  try:
    import transformers
  except ImportError as error:
    raise SystemExit(f'the comparison needs {error.name}: {HINT}') from None

  model = transformers.GPT2LMHeadModel.from_pretrained(
    FOLDER, attn_implementation='eager'
  ).eval()
  for block in model.transformer.h:
    block.attn.c_attn = Parts(block.attn.c_attn, 3)
    for owner, name in (
      (block.attn, 'c_proj'),
      (block.mlp, 'c_fc'),
      (block.mlp, 'c_proj'),
    ):
      setattr(owner, name, Parts(getattr(owner, name), 1))
  return model


def summed_loss(model, ids, targets):
  """Cross-entropies of the next tokens, summed over positions and rows."""
  logits = model(input_ids=ids, use_cache=False).logits
  return torch.nn.functional.cross_entropy(
    logits.flatten(0, 1), targets.flatten(), reduction='sum'
  )


def rows_of(count: int, seed: int, vocabulary: int) -> dict:
  """Rows of random tokens, all of which count."""
  ids = np.random.default_rng(seed).integers(
    0, vocabulary, (count, LENGTH + 1), np.int32
  )
  mask = np.ones((count, LENGTH), np.float32)
  return {'ids': ids[:, :-1], 'targets': ids[:, 1:], 'mask': mask}


def dataset(rows: dict) -> torch.utils.data.TensorDataset:
  """Pairs (ids, targets)."""
  return torch.utils.data.TensorDataset(
    *(torch.tensor(rows[name]).long() for name in ('ids', 'targets'))
  )
