"""Grad-Dot and EKFAC of texts by the PyTorch package bergson, without a GPU.

It reads the linear layers of the model without its head, here with their biases, so
ours leaves the head out as well. Its loss is the sum over positions, its gradients keep
their lengths, and its factors are of the data's labels (`use_dataset_labels`). A text
has the last target as its last id: it shifts ids itself. A query's gradient is that of
its loss, as a row's is: the scores have our sign.

Its commands read models and data by name and have queries, keys and values in one
layer; here are the functions that they call, on layers that are apart.
"""

import pathlib
import tempfile

import datasets
import numpy as np
from bergson import (
  CollectorComputer,
  GradientProcessor,
  IndexConfig,
  InMemoryCollector,
  Scorer,
)
from bergson.config.config import HessianConfig, InversionConfig
from bergson.hessians.hessian_approximations import fit_factored_hessians
from bergson.hessians.preconditioner import FactoredPreconditioner
from bergson.score.score_writer import InMemorySequenceScoreWriter

from scripts import torch_gpt2
from scripts.torch_models import torch

EKFAC = HessianConfig('kfac', ev_correction=True, use_dataset_labels=True)
# 0.1 · the mean eigenvalue of each layer, as ours is by default.
INVERSION = InversionConfig('damped_inverse', damping_factor=0.1)


def scores(train: dict, queries: dict, name: str) -> np.ndarray:
  """Scores [N, Q] of Grad-Dot or EKFAC."""
  model, rows = torch_gpt2.network(), texts(train)
  with tempfile.TemporaryDirectory() as folder:
    config = IndexConfig(f'{folder}/run', include_bias=True)
    config.partial_run_path.mkdir()
    vectors = collected(model, texts(queries), config).gradients
    if name != 'Grad-Dot':
      vectors = solved(model, rows, config, vectors)
    scorer = Scorer(
      vectors,
      list(vectors),
      InMemorySequenceScoreWriter(len(rows), len(queries['ids'])),
      torch.device('cpu'),
      torch.float32,
    )
    return collected(model, rows, config, scorer).scores.numpy()


def texts(rows: dict) -> datasets.Dataset:
  ids = np.concatenate([rows['ids'], rows['targets'][:, -1:]], 1)
  return datasets.Dataset.from_dict({'input_ids': ids})


def collected(model, rows, config, scorer=None) -> InMemoryCollector:
  """Gradients of the rows by layer or, with a scorer, their scores."""
  collector = InMemoryCollector(
    model=model.base_model,
    data=rows,
    cfg=config,
    processor=GradientProcessor(include_bias=True),
    scorer=scorer,
  )
  CollectorComputer(
    model, rows, collector=collector, batches=[[*range(len(rows))]], cfg=config
  ).run_with_collector_hooks()
  return collector


def solved(model, rows, config, vectors) -> dict:
  """(F + damping)⁻¹ of vectors by layer, by factors of the rows."""
  path = pathlib.Path(config.run_path)
  fit_factored_hessians(
    model,
    rows,
    config,
    EKFAC,
    target_modules=None,
    attention_cfgs={},
    batches=[[*range(len(rows))]],
    path=str(path),
    do_eigendecomposition=True,
  )
  factors = FactoredPreconditioner.from_path(
    path, inversion_cfg=INVERSION, ev_correction=True
  )
  return factors.apply(vectors)
