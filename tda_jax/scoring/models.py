"""Scores of several models: by model, and the uncertainty of each pair."""

import os
import pathlib

import jax
import numpy as np

from tda_jax import parallel, trees
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import significance
from tda_jax.evaluation.factors import Factors, shares
from tda_jax.evaluation.significance import Uncertainty
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.scoring.streaming import score
from tda_jax.storage import files, fingerprint, record
from tda_jax.storage import scores as store_lib
from tda_jax.trees import PyTree


def by_model(
  method: Method,
  problem: Problem,
  runs: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  path: str | os.PathLike,
  *,
  variants: int = 1,
  name: str | None = None,
  key: jax.Array | int | None = None,
  batch_size: int = 256,
  attributes: dict | None = None,
  progress: bool = True,
) -> tuple[Factors, list[dict]]:
  """Scores of one method by model: (`evaluation.factors` of I models, facts).

  Runs are I models with D = `variants` each, model by model. The variants of one
  model are not independent draws: their mean is the model's score. TRAK of more
  than one member has two factors, stored in `path`/slopes and `path`/kernel; the
  scores of all other methods are stored in `path`, as in `score`.

  Args:
    variants: D.
    method, problem, runs, train, queries, path, name, key, batch_size,
      attributes, progress: see `score`.

  Returns:
    (factors, each [I, N, Q], or [I, N, 1] if it does not depend on the query; for
    each member what scoring it recorded: seconds, residuals, damping).
  """
  path = pathlib.Path(path)
  count = trees.count(getattr(runs, 'params', runs))
  parts = [(path, method, queries)]
  if method.factors and count > 1:
    one = rows_lib.take(queries, slice(1))
    parts = [
      (path / f.name, f.method, queries if f.of_queries else one)
      for f in method.factors
    ]
  factors, by_part = [], []
  for folder, part, part_queries in parts:
    label = name if len(parts) == 1 else f'{name or ""}/{folder.name}'
    scores = score(
      part,
      problem,
      runs,
      train,
      part_queries,
      folder,
      name=label,
      key=key,
      batch_size=batch_size,
      attributes=attributes,
      progress=progress,
    )
    scores = np.asarray(scores)
    scores = scores.reshape(-1, variants, *scores.shape[1:])
    single = variants == 1
    factors.append(scores[:, 0] if single else scores.mean(1, dtype=np.float64))
    by_part.append(facts(folder, count))
  by_member = [
    {**member[-1], 'seconds': sum(part['seconds'] for part in member)}
    for member in zip(*by_part, strict=True)
  ]
  return tuple(factors), by_member


def facts(path: str | os.PathLike, count: int) -> list[dict]:
  """What scoring recorded for each member: seconds, residuals, damping.

  Args:
    path: that `score` got.
    count: number of members.
  """
  out = []
  for e in range(count):
    fields = record.read_json(pathlib.Path(path) / str(e) / 'facts.json')
    fields.pop('store')
    fields.pop('blocks', None)  # of queries
    seconds = fields.pop('prepare_seconds') + fields.pop('score_seconds')
    out.append({**fields, 'seconds': seconds})
  return out


def kept_uncertainty(
  path: str | os.PathLike, factors: Factors, rate: float = 0.05
) -> Uncertainty:
  """The uncertainty of each pair's score over more than one model.

  It is stored in `path`, if that can be written, as [N, 4, Q]: mean, standard
  error, p of Student's t, and 1 where the score is significant.

  Args:
    rate: of false discoveries.
  """
  scores = shares(factors)
  out = significance.uncertainty(scores, rate=rate)
  fields = ('mean', 'standard_error', 'p', 'significant')
  values = np.stack([getattr(out, field) for field in fields], 1)
  holders = pathlib.Path(path).absolute().parents
  there = next(p for p in holders if p.exists())
  if not files.writable(there) or not parallel.owner():
    return out
  store = store_lib.create(
    path,
    values.shape,
    len(values),
    {
      'fields': fields,
      'models': len(scores),
      'false_discovery_rate': rate,
      'scores': fingerprint.digest(scores),
    },
  )
  if not store_lib.done(store).all():
    store_lib.write(store, 0, values)
  return out
