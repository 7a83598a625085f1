"""TRAK by the PyTorch package traker, on our weights, and ours beside it.

Its scores have our sign: positive supports the query.
"""

import logging
import tempfile
import time

import numpy as np
from trak import TRAKer

from scripts import benchmark
from scripts.torch_models import dataset, network
from tda_jax import trees
from tda_jax.methods import trak

SIZE = 512  # dimensions of the projection


def traker(task, runs) -> tuple[float, np.ndarray]:
  """(seconds a model, scores [N, Q]) of the ensemble of all members."""
  models = [
    network(trees.row(runs.params, e)) for e in range(trees.count(runs.params))
  ]
  train, queries = (
    dataset(rows).tensors for rows in (task.train, task.queries)
  )
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    made = TRAKer(
        models[0], 'image_classification', len(train[0]), folder, device='cpu',
        proj_dim=SIZE, use_half_precision=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    for e, model in enumerate(models):
      made.load_checkpoint(model.state_dict(), model_id=e)
      for x, y in zip(*(part.split(500) for part in train), strict=True):
        made.featurize([x, y], num_samples=len(x))
    made.finalize_features()
    for e, model in enumerate(models):
      made.start_scoring_checkpoint(
        'queries', model.state_dict(), e, len(queries[0])
      )
      made.score(queries, num_samples=len(queries[0]))
    scores = np.array(made.finalize_scores('queries'))
    return (time.perf_counter() - start) / len(models), scores


def ours(task, runs) -> tuple[float, np.ndarray]:
  """(seconds a model after compilation, scores [N, Q]) of the ensemble."""
  method = trak.trak_ensemble(SIZE, batch_size=500)
  call = benchmark.scorer(method, task, runs)
  scores = np.asarray(call())
  return benchmark.seconds(call, 3) / trees.count(runs.params), scores
