"""TRAK by the PyTorch package traker, on the same weights, and ours beside it.

  python -m scripts.peers_trak [--members=5] [--subsets=50] [--repeats=5]

Needs the extra `peers`, with a CPU build of torch. MNIST-5k: seconds a model and,
unless --subsets=0, LDS of the first 1, 5 and 10 members against retrained models;
ratios hold within one run.
"""

import argparse
import logging
import pathlib
import tempfile
import time

import jax
import numpy as np

from configs.astra import mnist5k
from experiments import tasks
from scripts import benchmark, compare_peers
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.data import subsets
from tda_jax.evaluation import lds, retraining
from tda_jax.methods import trak
from tda_jax.training import members
from tda_jax.training.fit import Run

try:
  import torch
  from trak import TRAKer
except ImportError as error:
  raise SystemExit(
    f'the comparison needs {error.name}: pip install "tda_jax[peers]"'
  ) from None

SIZE = 512
SIZES = (1, 5, 10)


def traker(task, runs, size: int = SIZE) -> tuple[float, np.ndarray]:
  """(seconds a model, scores [N, Q]) of the ensemble of all members."""
  models = [
    compare_peers.network(trees.row(runs.params, e))
    for e in range(trees.count(runs.params))
  ]
  train, queries = (
    compare_peers.dataset(rows).tensors for rows in (task.train, task.queries)
  )
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    made = TRAKer(
        models[0], 'image_classification', len(train[0]), folder, device='cpu',
        proj_dim=size, use_half_precision=False,
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


def ours(task, runs, projection: str, size: int = SIZE):
  """(seconds a model after compilation, scores [N, Q]) of the ensemble."""
  method = trak.trak_ensemble(size, projection=projection, batch_size=500)
  call = benchmark.scorer(method, task, runs)
  scores = np.asarray(call())
  return benchmark.seconds(call, 3) / trees.count(runs.params), scores


def truth(task, count: int, repeats: int):
  """(outcomes [M, Q], subsets) of retraining on half the rows."""
  chosen = subsets.half_subsets(0, rows_lib.count(task.train), count)
  with tempfile.TemporaryDirectory() as folder:
    found = retraining.outcomes(
        task.problem, task.recipe, task.train, task.queries, chosen, repeats,
        jax.random.key(1), pathlib.Path(folder) / 'store', at_once=25,
    )  # fmt: skip
  return found.mean(1), chosen


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--members', type=int, default=5)
  parser.add_argument('--subsets', type=int, default=50)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--dense', action='store_true')
  args = parser.parse_args()
  torch.manual_seed(0)
  task = tasks.load(mnist5k.get_config())
  keys = jax.random.split(benchmark.KEY, args.members)
  runs = members.train(task.problem, task.recipe, task.train, keys)
  if args.subsets:
    outcomes, chosen = truth(task, args.subsets, args.repeats)
  for count in (n for n in SIZES if n <= args.members):
    some = Run(jax.tree.map(lambda x, n=count: x[:n], runs.params), *[None] * 3)
    theirs, reference = traker(task, some)
    found = {'traker': (theirs, reference)}
    for kind in ('factored', 'dense')[: 1 + args.dense]:
      found[kind] = ours(task, some, kind)
    for name, (seconds, scores) in found.items():
      value = np.nan
      if args.subsets:
        value = lds.lds(scores, outcomes, chosen).mean()
      alike = compare_peers.agreement(scores, reference)
      print(
        f'{count:2} models  {name:9} {seconds:7.3f} s a model '
        f' {theirs / seconds:5.1f} x  LDS {value:.3f}  Pearson {alike:.3f}',
        flush=True,
      )


if __name__ == '__main__':
  main()
