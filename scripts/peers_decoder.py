"""A GPT-2 with random weights: our scores of texts beside kronfluence's.

  python -m scripts.peers_decoder

Writes results/peers_decoder.json. Needs the extra `peers` and the packages
transformers and safetensors. The model is a fixture of the tests
(`scripts.random_decoders`): two blocks, whose queries, keys and values kronfluence is
given as layers of their own, as they are here. Rows are random tokens; blocks are
those of all matrices but the embeddings; labels are those of the data. Seconds: ours
after compilation, theirs after a warm-up.
"""

import pathlib
import tempfile
import time

import jax
import numpy as np

import tda_jax as tda
from scripts import benchmark, compare_peers, torch_models
from scripts.torch_models import torch
from tda_jax.models import decoder, read_decoder
from tda_jax.storage import record

FOLDER = (
  pathlib.Path(__file__).parents[1] / 'tests' / 'models' / 'data' / 'gpt2'
)
RESULTS = benchmark.RESULTS.with_name('peers_decoder.json')
LAYERS = ('query', 'key', 'value', 'out', 'up', 'down')
ONLY = (*(f'block_*/{name}/*' for name in LAYERS), 'head')
ROWS, QUERIES, LENGTH = 64, 8, 24
OURS = {  # name -> (our method, kronfluence's strategy)
  'Grad-Dot': (tda.grad_dot(), 'identity'),
  'EKFAC data labels': (tda.influence(tda.ekfac(labels='data')), 'ekfac'),
}
SAME = 'pearson with kronfluence'


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


class Texts(compare_peers.Task):
  """Sums of cross-entropies of the next token; measurement: the same."""

  def compute_train_loss(self, batch, model, sample=False):
    logits = model(input_ids=batch[0], use_cache=False).logits
    assert not sample  # labels are the data's
    return torch.nn.functional.cross_entropy(
      logits.flatten(0, 1), batch[1].flatten(), reduction='sum'
    )

  def compute_measurement(self, batch, model):
    return self.compute_train_loss(batch, model)


def _linear(weight, bias):
  linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
  linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
  return linear


def network():
  """The fixture in PyTorch, with plain linear layers."""
  import transformers

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


def rows_of(count: int, seed: int, vocabulary: int) -> dict:
  """Rows of random tokens, all of which count."""
  ids = np.random.default_rng(seed).integers(
    0, vocabulary, (count, LENGTH + 1), np.int32
  )
  mask = np.ones((count, LENGTH), np.float32)
  return {'ids': ids[:, :-1], 'targets': ids[:, 1:], 'mask': mask}


def kronfluence(train, queries, strategy: str) -> np.ndarray:
  """Scores [N, Q] of kronfluence."""
  of = lambda rows: torch.utils.data.TensorDataset(
    *(torch.tensor(rows[n]).long() for n in ('ids', 'targets'))
  )
  model = compare_peers.prepare_model(network(), Texts())
  with tempfile.TemporaryDirectory() as folder:
    analyzer = compare_peers.Analyzer(
      'compare', model, Texts(), cpu=True, output_dir=folder,
      disable_tqdm=True, disable_model_save=True,
    )  # fmt: skip
    analyzer.fit_all_factors(
      'factors',
      of(train),
      per_device_batch_size=ROWS,
      factor_args=compare_peers.FactorArguments(
        strategy=strategy, use_empirical_fisher=True
      ),
    )
    analyzer.compute_pairwise_scores(
      'scores', 'factors', of(queries), of(train),
      per_device_query_batch_size=QUERIES, per_device_train_batch_size=ROWS,
      score_args=compare_peers.ScoreArguments(damping_factor=None),
    )  # fmt: skip
    return analyzer.load_pairwise_scores('scores')['all_modules'].numpy().T


def compared() -> list[dict]:
  """Seconds of both, and how alike their scores are."""
  params, sizes = read_decoder.read(FOLDER)
  params = jax.tree.map(jax.numpy.asarray, params)
  problem = tda.language_modeling(decoder.decoder(sizes)[1], only=ONLY)
  train, queries = (
    rows_of(count, seed, sizes.vocabulary)
    for seed, count in enumerate((ROWS, QUERIES))
  )
  found = []
  for name, (method, strategy) in OURS.items():
    call = lambda method=method: tda.attribute(
      method, problem, params, train, queries
    )
    ours, own = torch_models.timed(call)
    theirs, other = torch_models.timed(
      lambda strategy=strategy: kronfluence(train, queries, strategy)
    )
    name = f'{name}, random GPT-2'
    found += [
      benchmark.figure(name, 'seconds', ours),
      benchmark.figure(f'kronfluence {name}', 'seconds', theirs),
      benchmark.figure(name, SAME, torch_models.agreement(own, other)),
    ]
  return found


def main():
  start, facts = time.monotonic(), record.environment()
  rows = benchmark.measured(compared)
  goals = [(f'{name}, random GPT-2', SAME, 0.999) for name in OURS]
  claims = benchmark.judged(rows, goals)
  record.results(RESULTS, 'peers', 'a decoder', rows, claims)
  benchmark.sign(RESULTS, start, facts)


if __name__ == '__main__':
  main()
