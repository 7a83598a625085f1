"""Our methods beside those of PyTorch packages, on the same weights.

  python -m scripts.peers [--members=10] [--subsets=50] [--repeats=5]

Writes results/peers.json. Needs the extra `peers` with a CPU build of torch; what
a package that is absent would be compared for is left out, and a line says so.
Seconds: ours after compilation, theirs after a warm-up; ratios hold within one
run. All scores have our sign when they are compared.

Digits, one model with its checkpoints: TracIn and Arnoldi (captum), DataInf
(dattri). MNIST-5k: TRAK (traker) of the first 1, 5 and 10 members, seconds a
model, and its LDS against models retrained on half the rows.
"""

import argparse
import importlib
import pathlib
import time
from importlib import metadata

import jax
import numpy as np

from configs.astra import digits, mnist5k
from experiments import tasks
from scripts import benchmark, torch_models
from scripts.benchmark import figure
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.evaluation import lds
from tda_jax.inverses import arnoldi, datainf
from tda_jax.methods import influence, tracin
from tda_jax.storage import record
from tda_jax.training import members
from tda_jax.training.fit import Run

RESULTS = benchmark.RESULTS.with_name('peers.json')
PACKAGES = {'captum': 'captum', 'dattri': 'dattri', 'traker': 'trak'}
SIZES = (1, 5, 10)  # members of TRAK
RANK, STEPS = 50, 200  # of Arnoldi
# Of Arnoldi: captum's default, of the Hessian summed over the rows.
SUMMED_DAMPING = 1e-3


def digits_model():
  """(task, run of one model with its checkpoints)."""
  config = digits.get_config()
  task = tasks.load(config)
  runs = members.train(
      task.problem, task.recipe, task.train, jax.random.split(benchmark.KEY, 1),
      checkpoints=config.checkpoints,
  )  # fmt: skip
  first = trees.row((runs.params, runs.checkpoints), 0)
  return task, Run(*first, runs.learning_rates, runs.steps)


def captum() -> list[dict]:
  from scripts import peers_captum

  task, run = digits_model()
  damping = SUMMED_DAMPING / rows_lib.count(task.train)
  solver = arnoldi.arnoldi(
      damping, rank=RANK, steps=STEPS, batch_size=500, curvature='hessian'
  )  # fmt: skip
  return [
    *compared(
      'TracIn, digits',
      'captum',
      timed(tracin.tracin(), task, run),
      peers_captum.tracin(task, run),
    ),
    *compared(
      'Arnoldi, digits',
      'captum',
      timed(influence.influence(solver), task, run),
      peers_captum.arnoldi(task, run, RANK, STEPS, damping),
    ),
  ]


def dattri() -> list[dict]:
  from scripts import peers_dattri

  task, run = digits_model()
  solver = datainf.datainf(digits.DAMPING, batch_size=500)
  return compared(
    'DataInf, digits',
    'dattri',
    timed(influence.influence(solver), task, run),
    peers_dattri.datainf(task, run, digits.DAMPING),
  )


def traker(count: int, subsets: int, repeats: int) -> list[dict]:
  """TRAK of the first members, and its LDS unless `subsets` is 0."""
  from scripts import peers_trak

  task = tasks.load(mnist5k.get_config())
  keys = jax.random.split(benchmark.KEY, count)
  runs = members.train(task.problem, task.recipe, task.train, keys)
  first = lambda n: Run(
    jax.tree.map(lambda leaf: leaf[:n], runs.params), None, None, None
  )
  if subsets:
    outcomes, chosen = peers_trak.truth(task, subsets, repeats)
  peers_trak.traker(task, first(1))  # warms torch up
  rows = []
  for n in (size for size in SIZES if size <= count):
    name = f'TRAK, {n} member{"s" * (n > 1)}, mnist5k'
    ours = peers_trak.ours(task, first(n))
    theirs = peers_trak.traker(task, first(n))
    rows += compared(name, 'traker', ours, theirs, 'seconds a model')
    if subsets:
      found = [
        lds.lds(scores, outcomes, chosen).mean() for _, scores in (ours, theirs)
      ]
      rows += [
        figure(name, 'lds', found[0]),
        figure(f'traker {name}', 'lds', found[1]),
        figure(name, 'lds above traker', found[0] - found[1]),
      ]
  return rows


def timed(method, task, run) -> tuple[float, np.ndarray]:
  """(seconds after compilation, scores [N, Q])."""
  call = benchmark.scorer(method, task, run)
  return benchmark.seconds(call), np.asarray(call())


def compared(name, package, ours, theirs, unit='seconds') -> list[dict]:
  """Figures of two pairs (seconds, scores)."""
  alike = torch_models.agreement(ours[1], theirs[1])
  return [
    figure(name, unit, ours[0]),
    figure(f'{package} {name}', unit, theirs[0]),
    figure(name, 'speedup', theirs[0] / ours[0]),
    figure(name, f'pearson with {package}', alike),
  ]


def claims(rows) -> list[dict]:
  """What was promised, against what was measured."""
  trak = [f'TRAK, {n} member{"s" * (n > 1)}, mnist5k' for n in SIZES]
  goals = [
      ('TracIn, digits', 'pearson with captum', 0.99),
      ('DataInf, digits', 'pearson with dattri', 0.99),
      *((name, 'lds above traker', -0.03) for name in trak),
      *(
          (name, 'speedup', 5)
          for name in (
              'TracIn, digits', 'Arnoldi, digits', 'DataInf, digits', *trak
          )
      ),
  ]  # fmt: skip
  return benchmark.judged(rows, goals)


def importable(package: str) -> bool:
  """Whether the package can be compared with; a line says why not."""
  try:
    importlib.import_module(PACKAGES[package])
  except ImportError as error:
    print(f'{package} is left out: {error} (pip install "tda_jax[peers]")')
    return False
  return True


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--members', type=int, default=max(SIZES))
  parser.add_argument('--subsets', type=int, default=50)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--results', type=pathlib.Path, default=RESULTS)
  args = parser.parse_args()
  start, facts = time.monotonic(), record.environment()
  parts = {
    'captum': captum,
    'dattri': dattri,
    'traker': lambda: traker(args.members, args.subsets, args.repeats),
  }
  found = [package for package in parts if importable(package)]
  rows = benchmark.measured(*(parts[package] for package in found))
  record.results(args.results, 'peers', 'agreement', rows, claims(rows))
  versions = {name: metadata.version(name) for name in ('torch', *found)}
  benchmark.sign(args.results, start, facts, **versions)


if __name__ == '__main__':
  main()
