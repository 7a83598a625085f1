"""Grad-Dot and EKFAC of texts by the PyTorch package dattri-llm.

Its TracIn at the parameters that the model has is Grad-Dot, and its EKFAC is of the
data's labels alone. A query's target is the loss, as a row's is: the scores have our
sign. It reads all linear layers with their biases, the head too. It knows rows by
what is in them: they must differ.
"""

import tempfile

import numpy as np
from dattri_llm import (
  AttributionArguments,
  AttributionTask,
  EKFACAttributor,
  HookManagerConfig,
  TracInAttributor,
)

from scripts import torch_gpt2

LAYERS = [r'\.parts\.\d+$', '^lm_head$']
# A multiple of each layer's mean eigenvalue, as ours is by default.
DAMPING = {'damping': 0.1, 'relative_damping': True}
METHODS = {
  'Grad-Dot': (TracInAttributor, {}),
  'EKFAC data labels': (EKFACAttributor, DAMPING),
}


def scores(train: dict, queries: dict, name: str) -> np.ndarray:
  """Scores [N, Q] of one of METHODS."""
  attributor, settings = METHODS[name]
  task = AttributionTask(
    lambda model, batch: torch_gpt2.summed_loss(model, *batch),
    torch_gpt2.network(),
  )
  with tempfile.TemporaryDirectory() as folder:
    arguments = AttributionArguments(
      folder,
      use_cpu=True,
      per_device_train_batch_size=len(train['ids']),
      per_device_eval_batch_size=len(queries['ids']),
    )
    found = attributor(arguments, task=task).attribute(
      torch_gpt2.dataset(train),
      torch_gpt2.dataset(queries),
      hook_config=HookManagerConfig(linear_io=LAYERS),
      **settings,
    )
  return found.scores.detach().numpy()
