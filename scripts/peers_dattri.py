"""DataInf by the PyTorch package dattri, on our weights.

Its scores are ∇target · inverse · ∇loss. The target is minus our measure, so
that the sign is ours: positive supports the query.
"""

import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorDataInf
from dattri.task import AttributionTask

from scripts.torch_models import dataset, margins, network, timed

QUERIES = 50  # at once; it holds QUERIES² gradients of a layer


def datainf(task, run, damping: float) -> tuple[float, np.ndarray]:
  """(seconds, scores [N, Q]) of DataInf with one damping in every layer."""
  model = network(run.params)
  train, queries = dataset(task.train), dataset(task.queries)
  loader = torch.utils.data.DataLoader
  # It transforms the queries anew for every batch of rows: one batch.
  train, queries = loader(train, len(train)), loader(queries, QUERIES)

  def loss(params, data):
    logits = torch.func.functional_call(model, params, data[0])
    return torch.nn.functional.cross_entropy(logits, data[1])

  def target(params, data):
    logits = torch.func.functional_call(model, params, data[0])
    return -margins(logits, data[1]).sum()

  def scored():
    given = AttributionTask(loss, model, model.state_dict(), target)
    attributor = IFAttributorDataInf(given, regularization=damping)
    attributor.cache(train)
    return attributor.attribute(train, queries)

  seconds, scores = timed(scored)
  return seconds, scores.detach().numpy()
