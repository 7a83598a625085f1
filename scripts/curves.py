"""How seconds and peak memory grow with the size of everything but rows and outputs.

  python -m scripts.curves    # about 3 minutes; writes results/scale_curves.json

By number of parameters, of queries, of members trained together, and of devices that
are faked on this machine; each point in a process of its own, whose peak memory it is.
`scripts.scale` has rows on the disk and outputs.
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import optax

import tda_jax as tda
from scripts import benchmark, hlo
from tda_jax import parallel
from tda_jax.data import rows as rows_lib
from tda_jax.models import mlp
from tda_jax.scoring import programs
from tda_jax.storage import record

WIDTH, CLASSES = 64, 32
ROWS = 2000
HIDDEN = {'1e4': 64, '1e5': 272, '1e6': 952, '1e7': 3115}  # units of two layers
QUERIES = (10, 100, 1000, 10_000)
MEMBERS = (1, 10, 100)
DEVICES = (1, 2, 4, 8)
KEY = jax.random.key(0)


def rows_of(count: int) -> dict[str, np.ndarray]:
  """Random rows."""
  random = np.random.default_rng(0)
  x = random.standard_normal((count, WIDTH), dtype=np.float32)
  return {'x': x, 'y': random.integers(0, CLASSES, count).astype(np.int32)}


def model(hidden: int) -> tuple[Callable, Callable]:
  """(init, apply) of an MLP with two layers of `hidden` units."""
  return mlp.mlp((hidden, hidden), CLASSES, (WIDTH,), jax.nn.relu)


def scored(hidden: int, queries: int) -> dict[str, float]:
  """Seconds to fit EKFAC, and to score all rows for all queries."""
  init, apply = model(hidden)
  problem, params, train = tda.classification(apply), init(KEY), rows_of(ROWS)
  method = tda.influence(tda.ekfac(1e-3))
  asked = {name: column[:queries] for name, column in rows_of(10_000).items()}
  start = time.perf_counter()
  fitted = tda.fit(method, problem, params, train)
  fit = time.perf_counter() - start
  tda.attribute(method, problem, params, train, asked, fitted=fitted)
  return {'fit': fit, 'scores': time.perf_counter() - start - fit}


def trained(members: int) -> dict[str, float]:
  """Seconds to train members together, 200 steps."""
  init, apply = model(HIDDEN['1e4'])
  rate = lambda steps: optax.constant_schedule(0.05)
  recipe = tda.Recipe(init, lambda steps: optax.sgd(0.05), rate, 100, 10)
  start = time.perf_counter()
  run = tda.train(
    tda.classification(apply), recipe, rows_of(ROWS), np.arange(members)
  )
  jax.block_until_ready(run.params)
  return {'train': time.perf_counter() - start}


def divided() -> dict[str, float]:
  """Operations of one device in the compiled fit, and in the scores of all rows."""
  init, apply = model(HIDDEN['1e5'])
  problem, key = tda.classification(apply), KEY
  method = tda.influence(tda.ekfac(1e-3, batch_size=2048))
  with parallel.all_devices():
    rows = tda.Run(init(key)), rows_of(2048), rows_of(64)
    run, train, queries = parallel.replicate(rows)
    given = method, problem, run
    prepared = programs.prepare(*given, train, queries, key)
    batch = parallel.replicate(rows_lib.whole(train))
    return {
      'prepare': _operations(programs.prepare, *given, train, queries, key),
      'score': _operations(programs.score, *given, prepared, batch),
    }


def _operations(program, *arguments):
  """Of products, loops multiplied by how often they run."""
  text = program.lower(*arguments).compile().as_text()
  return float(hlo.flops(hlo.read(text)))


WORKS = {'scored': scored, 'trained': trained, 'divided': divided}


def point(work: str, devices: int = 1, **sizes: int) -> tuple[dict, float]:
  """(what `work` measured, peak MB), in a process of its own."""
  text = subprocess.check_output(
    [
      sys.executable,
      '-m',
      'scripts.curves',
      '--measure',
      work,
      json.dumps(sizes),
    ],
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': str(devices)},
    text=True,
  )
  measured, peak = json.loads(text.splitlines()[-1])
  return measured, peak


def by_size(name: str, work: str, sizes: list[tuple[str, dict]]) -> list[dict]:
  """Result rows of one curve.

  Args:
    sizes: (what a point is called, the arguments of `work`).
  """
  rows = []
  for label, arguments in sizes:
    measured, peak = point(work, **arguments)
    of = f'{name}, {label}'
    for what, value in measured.items():
      unit = 'operations of a device' if work == 'divided' else 'seconds'
      rows.append(benchmark.figure(f'{of}: {what}', unit, value))
    if work != 'divided':
      rows.append(benchmark.figure(of, 'peak MB', peak))
  return rows


def curves() -> list[Callable[[], list[dict]]]:
  """The curves, as works that measure them."""
  small = HIDDEN['1e5']
  by_parameters = [
    (f'{n} parameters', {'hidden': h, 'queries': 10}) for n, h in HIDDEN.items()
  ]
  by_queries = [
    (f'{q:,} queries', {'hidden': small, 'queries': q}) for q in QUERIES
  ]
  by_members = [(f'{e} members', {'members': e}) for e in MEMBERS]
  by_devices = [(f'{d} devices', {'devices': d}) for d in DEVICES]
  made = (
    (f'EKFAC, {ROWS:,} rows, 10 queries', 'scored', by_parameters),
    (f'EKFAC, {ROWS:,} rows, 1e5 parameters', 'scored', by_queries),
    ('training, 200 steps of 100 rows, 1e4 parameters', 'trained', by_members),
    ('EKFAC, 2,048 rows, 64 queries, 1e5 parameters', 'divided', by_devices),
  )
  return [functools.partial(by_size, *of) for of in made]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--measure', nargs=2, help='internal')
  given = parser.parse_args()
  if given.measure:
    work, sizes = given.measure
    measured = WORKS[work](**json.loads(sizes))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([measured, peak]))
    return
  start, facts = time.monotonic(), record.environment()
  rows = benchmark.measured(*curves())
  file = benchmark.RESULTS.with_name('scale_curves.json')
  record.results(file, 'benchmark', 'sizes', rows, [])
  benchmark.sign(file, start, facts)


if __name__ == '__main__':
  main()
