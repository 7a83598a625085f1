"""TracIn and Arnoldi by the PyTorch package captum, on our weights.

Their scores are ∇test_loss · ∇loss, with the inverse Hessian between them for
Arnoldi. The test loss is minus our measure, so that the sign is ours:
positive supports the query.
"""

import pathlib
import tempfile

import numpy as np
import torch
from captum.influence import TracInCP
from captum.influence._core.arnoldi_influence_function import (
  ArnoldiInfluenceFunction,
)

from scripts.torch_models import dataset, margins, network, timed
from tda_jax import trees


class MinusMargin(torch.nn.Module):
  reduction = 'sum'  # captum asks a loss how it reduces the batch

  def forward(self, logits, labels):
    return -margins(logits, labels).sum()


LOSSES = {
  'loss_fn': torch.nn.CrossEntropyLoss(reduction='sum'),
  'test_loss_fn': MinusMargin(),
  'sample_wise_grads_per_batch': True,  # the fast way of the two it has
}


def tracin(task, run) -> tuple[float, np.ndarray]:
  """(seconds, scores [N, Q]) of TracInCP over the run's checkpoints.

  The learning rate it reads with a checkpoint is the share η_c·t_c/N by which
  our TracIn weighs it.
  """
  shares = run.learning_rates * np.diff(run.steps, prepend=0)
  shares = shares / len(task.train['y'])
  with tempfile.TemporaryDirectory() as folder:
    files = [
      _saved(folder, c, trees.row(run.checkpoints, c), share)
      for c, share in enumerate(shares)
    ]
    return _scored(
      lambda model, train: TracInCP(
        model, train, files, _load, batch_size=len(train), **LOSSES
      ),
      task,
      run,
    )


def arnoldi(task, run, rank, steps, damping) -> tuple[float, np.ndarray]:
  """(seconds, scores [N, Q]) of influence by the Hessian's top eigenvectors.

  Args:
    rank, steps, damping: of `tda_jax.arnoldi`. Their Hessian is a sum over the
      rows, and their damping with it. They keep the largest eigenvalues above
      0, where ours are the largest in size.
  """
  with tempfile.TemporaryDirectory() as folder:
    file = _saved(folder, 0, run.params, 1.0)
    return _scored(
      lambda model, train: ArnoldiInfluenceFunction(
          model, train, file, _load, batch_size=len(train),
          projection_dim=rank, arnoldi_dim=steps,
          hessian_reg=damping * len(train), **LOSSES,
      ),
      task,
      run,
    )  # fmt: skip


def _scored(make, task, run):
  """`make` and the scores of all pairs by it, timed together."""
  model, train = network(run.params), dataset(task.train)
  queries = dataset(task.queries).tensors
  seconds, scores = timed(lambda: make(model, train).influence(queries))
  return seconds, scores.detach().numpy().T


def _saved(folder, c, params, rate) -> str:
  file = str(pathlib.Path(folder) / f'checkpoint_{c}.pt')
  state = network(params).state_dict()
  torch.save({'state': state, 'rate': float(rate)}, file)
  return file


def _load(model, file) -> float:
  """Fills the model from a file; its learning rate."""
  saved = torch.load(file)
  model.load_state_dict(saved['state'])
  return saved['rate']
