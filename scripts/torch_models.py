"""Our weights and rows as PyTorch's, for the comparisons with its packages.

Needs the extra `peers` (pip install "tda_jax[peers]") with a CPU build of torch.
"""

import time

import numpy as np

try:
  import torch
except ImportError as error:
  raise SystemExit(
    f'the comparison needs {error.name}: pip install "tda_jax[peers]"'
  ) from None


def network(params) -> torch.nn.Sequential:
  """The MLP of linen parameters as a torch module with the same weights."""
  modules = []
  for i in range(len(params)):
    layer = params[f'Dense_{i}']
    kernel, bias = np.array(layer['kernel']), np.array(layer['bias'])
    linear = torch.nn.Linear(*kernel.shape)
    linear.weight.data = torch.tensor(kernel.T.copy())
    linear.bias.data = torch.tensor(bias)
    modules += [linear, torch.nn.ReLU()]
  return torch.nn.Sequential(*modules[:-1])


def dataset(rows) -> torch.utils.data.TensorDataset:
  x = np.array(rows['x']).reshape(len(rows['x']), -1)
  return torch.utils.data.TensorDataset(
    torch.tensor(x), torch.tensor(np.array(rows['y'])).long()
  )


def margins(logits, labels):
  """log p_y − log(1 − p_y) of each row, [B]: our measure of classification."""
  own = labels[:, None] == torch.arange(logits.shape[-1])
  others = logits.masked_fill(own, -torch.inf).logsumexp(-1)
  return torch.where(own, logits, 0.0).sum(-1) - others


def timed(call, repeats: int = 2):
  """(least seconds of a call, what it gave); the first warms torch up."""
  best = np.inf
  for _ in range(repeats):
    start = time.perf_counter()
    found = call()
    best = min(best, time.perf_counter() - start)
  return best, found


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Mean over queries of Pearson's correlation of scores [N, Q]."""
  corr = [
    np.corrcoef(ours[:, q], theirs[:, q])[0, 1] for q in range(ours.shape[1])
  ]
  return float(np.mean(corr))
