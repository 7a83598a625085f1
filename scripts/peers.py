"""Our methods beside those of PyTorch packages, on the same weights.

  python -m scripts.peers [--members=10] [--subsets=50] [--repeats=5] [--only=A,B]

Writes results/peers.json. Needs the extra `peers` with a CPU build of torch; what
a package that is absent would be compared for is left out, and a line says so.
With --only, the figures of these parts (captum, datainf, representer, traker)
replace those in the file, which keeps the others.
Seconds: ours after compilation, theirs after a warm-up; ratios hold within one
run. All scores have our sign when they are compared.

Digits, one model with its checkpoints: TracIn and Arnoldi (captum), DataInf
(dattri); representer points (dattri), compared on the layer that dattri trains
on, and the LDS of both, ours with the model as it is, the labels of the data
and the margin. MNIST-5k: TRAK (traker) of the first 1, 5 and 10 members,
seconds a model, and its LDS. LDS: against models retrained on half the rows.
"""

import argparse
import importlib
import pathlib
import tempfile
import time
from importlib import metadata

import jax
import numpy as np

from configs.astra import digits, mnist5k
from experiments.shared import tasks
from scripts import benchmark, torch_models
from scripts.benchmark import figure
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.data import subsets as subsets_lib
from tda_jax.evaluation import lds, retraining
from tda_jax.inverses import arnoldi, datainf
from tda_jax.methods import influence, representer, tracin
from tda_jax.run import Run
from tda_jax.storage import record
from tda_jax.training import members

RESULTS = benchmark.RESULTS.with_name('peers.json')
PARTS = {  # part -> (package, its module)
  'captum': ('captum', 'captum'),
  'datainf': ('dattri', 'dattri'),
  'representer': ('dattri', 'dattri'),
  'traker': ('traker', 'trak'),
}
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


def of_captum() -> list[dict]:
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


def of_datainf() -> list[dict]:
  from scripts import peers_dattri

  task, run = digits_model()
  solver = datainf.datainf(digits.DAMPING, batch_size=500)
  return compared(
    'DataInf, digits',
    'dattri',
    timed(influence.influence(solver), task, run),
    peers_dattri.datainf(task, run, digits.DAMPING),
  )


def of_representer(subsets: int, repeats: int) -> list[dict]:
  """Representer points, and their LDS unless `subsets` is 0."""
  from scripts import peers_dattri

  name, (task, run) = 'representer, digits', digits_model()
  l2 = digits.get_config().training.weight_decay
  method = representer.representer(l2)
  theirs, same = peers_dattri.representer(task, run, l2)
  rows = compared(name, 'dattri', timed(method, *same), theirs)
  if subsets:
    _, ours = timed(method, task, run)
    rows += levels(
      name, 'dattri', ours, theirs[1], *truth(task, subsets, repeats)
    )
  return rows


def of_traker(count: int, subsets: int, repeats: int) -> list[dict]:
  """TRAK of the first members, and its LDS unless `subsets` is 0."""
  from scripts import peers_trak

  task = tasks.load(mnist5k.get_config())
  keys = jax.random.split(benchmark.KEY, count)
  runs = members.train(task.problem, task.recipe, task.train, keys)
  first = lambda n: Run(
    jax.tree.map(lambda leaf: leaf[:n], runs.params), None, None, None
  )
  if subsets:
    found = truth(task, subsets, repeats)
  peers_trak.traker(task, first(1))  # warms torch up
  rows = []
  for n in (size for size in SIZES if size <= count):
    name = f'TRAK, {n} member{"s" * (n > 1)}, mnist5k'
    ours = peers_trak.ours(task, first(n))
    theirs = peers_trak.traker(task, first(n))
    rows += compared(name, 'traker', ours, theirs, 'seconds a model')
    if subsets:
      rows += levels(name, 'traker', ours[1], theirs[1], *found)
  return rows


def timed(method, task, run) -> tuple[float, np.ndarray]:
  """(seconds after compilation, scores [N, Q])."""
  call = benchmark.scorer(method, task, run)
  return benchmark.seconds(call), np.asarray(call())


def truth(task, count: int, repeats: int):
  """(outcomes [M, Q], subsets) of retraining on half the rows."""
  chosen = subsets_lib.half_subsets(0, rows_lib.count(task.train), count)
  with tempfile.TemporaryDirectory() as folder:
    found = retraining.outcomes(
      task.problem,
      task.recipe,
      task.train,
      task.queries,
      chosen,
      repeats=repeats,
      key=jax.random.key(1),
      path=pathlib.Path(folder) / 'store',
      members_at_once=25,
    )
  return found.mean(1), chosen


def levels(name, package, ours, theirs, outcomes, subsets) -> list[dict]:
  """LDS of two scores [N, Q]."""
  a, b = (
    lds.lds(scores, outcomes, subsets).mean() for scores in (ours, theirs)
  )
  return [
    figure(name, 'lds', a),
    figure(f'{package} {name}', 'lds', b),
    figure(name, f'lds above {package}', a - b),
  ]


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
      ('representer, digits', 'pearson with dattri', 0.99),
      ('representer, digits', 'lds above dattri', -0.03),
      *((name, 'lds above traker', -0.03) for name in trak),
      *(
          (name, 'speedup', 5)
          for name in (
              'TracIn, digits', 'Arnoldi, digits', 'DataInf, digits',
              'representer, digits', *trak,
          )
      ),
  ]  # fmt: skip
  return benchmark.judged(rows, goals)


def importable(part: str) -> bool:
  """Whether the part's package is here; a line says why not."""
  package, module = PARTS[part]
  try:
    importlib.import_module(module)
  except ImportError as error:
    print(f'{part} is left out: {error} (pip install "tda_jax[peers]")')
    return False
  return True


def merged(found: dict, rows: list[dict]) -> list[dict]:
  """The rows of a results file, those measured anew in place of the old."""
  key = lambda row: (row['method'], row['metric'])
  new = {key(row): row for row in rows}
  kept = [new.pop(key(row), row) for row in found['rows']]
  return [*kept, *new.values()]


def joined(before: dict, run: dict) -> dict:
  """What a file says of the two runs that it comes from."""
  both = {
    field: ', '.join((before[field], run[field]))
    for field in ('commit', 'date')
  }
  return {
    **run,
    **both,
    'command': f'{before["command"]} && {run["command"]}',
    'seconds': before['seconds'] + run['seconds'],
    'versions': before['versions'] | run['versions'],
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--members', type=int, default=max(SIZES))
  parser.add_argument('--subsets', type=int, default=50)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--results', type=pathlib.Path, default=RESULTS)
  parser.add_argument('--only', default='')
  args = parser.parse_args()
  chosen = args.only.split(',') if args.only else list(PARTS)
  if unknown := set(chosen) - set(PARTS):
    parser.error(f'--only={args.only}: {unknown} are none of {[*PARTS]}')
  start, facts = time.monotonic(), record.environment()
  parts = {
    'captum': of_captum,
    'datainf': of_datainf,
    'representer': lambda: of_representer(args.subsets, args.repeats),
    'traker': lambda: of_traker(args.members, args.subsets, args.repeats),
  }
  chosen = [part for part in chosen if importable(part)]
  rows = benchmark.measured(*(parts[part] for part in chosen))
  before = record.read_json(args.results) if args.only else None
  rows = merged(before, rows) if before else rows
  record.results(args.results, 'peers', 'agreement', rows, claims(rows))
  packages = ('torch', *(PARTS[part][0] for part in chosen))
  versions = {name: metadata.version(name) for name in packages}
  benchmark.sign(args.results, start, facts, **versions)
  if before:
    content = record.read_json(args.results)
    run = joined(before['run'], content['run'])
    record.write_json(args.results, {**content, 'run': run})


if __name__ == '__main__':
  main()
