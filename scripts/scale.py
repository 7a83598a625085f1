"""How cost grows with rows beyond memory and with the model's outputs.

  python -m scripts.scale rows [--rows=1000000]   # an hour, 5 GB in build/scale
  python -m scripts.scale outputs                 # a minute

`rows` writes results/scale_rows.json: seconds and peak memory of fitting EKFAC and
scoring 1,000 queries over rows on the disk, each in a process of its own. `outputs`
writes results/scale_outputs.json: seconds of a step of CG, of preconditioned CG and of
ASTRA by number of outputs K.
"""

import argparse
import functools
import pathlib
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import tda_jax as tda
from scripts import benchmark
from tda_jax import scoring
from tda_jax.curvature import products
from tda_jax.storage import record

QUERIES, WIDTH, HIDDEN, CLASSES = 1000, 64, 1024, 32  # 98,000 parameters
POSITIONS, INNER = 64, 64  # of the model whose outputs are counted
KEY = jax.random.key(0)
STEPS = 'steps in the time of 1.5 plain ones'
LESS = 'MB less at the peak'
GOALS = {STEPS: 1, LESS: -200}
SETTINGS = {'rows': 'rows beyond memory', 'outputs': 'many outputs'}


def from_disk(folder: pathlib.Path, n: int) -> None:
  """Fits EKFAC and scores all queries over n rows; prints seconds and peak MB."""

  def apply(params, x):
    return jnp.tanh(x @ params['a']) @ params['b']

  rows = {
    name: np.load(folder / f'{name}.npy', mmap_mode='r')[:n] for name in 'xy'
  }
  queries = {name: np.array(column[:QUERIES]) for name, column in rows.items()}
  params = {
    'a': 0.1 * jax.random.normal(KEY, (WIDTH, HIDDEN)),
    'b': 0.05 * jax.random.normal(KEY, (HIDDEN, CLASSES)),
  }
  start = time.perf_counter()
  scores = scoring.score(
    tda.influence(tda.ekfac(1e-3)),
    tda.classification(apply),
    params,
    rows,
    queries,
    folder / f'scores_{n}',
    batch_size=1000,
    progress=False,
  )
  assert scores.shape == (1, n, QUERIES)
  spent = time.perf_counter() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(f'{spent} {peak}')


def rows_beyond_memory(sizes, folder: pathlib.Path) -> list[dict]:
  """Seconds and peak memory by number of rows, and what the most take more.

  Args:
    folder: keeps the rows and the scores; an interrupted run goes on there.
  """
  found, peaks = [], []
  folder.mkdir(parents=True, exist_ok=True)
  random = np.random.default_rng(0)
  n = max(sizes)
  x = random.standard_normal((n, WIDTH), dtype=np.float32)
  np.save(folder / 'x.npy', x)
  y = random.integers(0, CLASSES, n).astype(np.int32)
  np.save(folder / 'y.npy', y)
  del x
  for n in sizes:
    command = [sys.executable, '-m', 'scripts.scale', 'rows', f'--rows={n}']
    command += ['--measure', str(folder)]
    text = subprocess.check_output(command, text=True)
    spent, peak = map(float, text.split()[-2:])
    name = f'EKFAC, {QUERIES:,} queries, {n:,} rows on the disk'
    found.append(benchmark.figure(name, 'seconds', spent))
    found.append(benchmark.figure(name, 'peak MB', peak))
    peaks.append(peak)
  name = f'EKFAC, {max(sizes):,} rows on the disk against {min(sizes):,}'
  less = benchmark.figure(name, LESS, peaks[0] - peaks[-1])
  return [*found, less]


def outputs(vocabulary: int) -> list[dict]:
  """Seconds of a step of each solver, of a model with K outputs a row."""
  k = POSITIONS * vocabulary

  def of_one(params, example):
    return jnp.tanh(example['x'] @ params['a']) @ params['b']

  def loss(logits, example):
    labels = example['y'][:, None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels, 1).sum()

  def sample(key, logits, example):
    return {**example, 'y': jax.random.categorical(key, logits)}

  problem = tda.Problem(
    of_one, loss, lambda z, e: -loss(z, e), sample, lambda shape, rows: None
  )
  params = {
    'a': 0.2 * jax.random.normal(KEY, (32, INNER)),
    'b': 0.1 * jax.random.normal(KEY, (INNER, vocabulary)),
  }
  random = np.random.default_rng(0)

  def rows(n):
    x = random.standard_normal((n, POSITIONS, 32), dtype=np.float32)
    return {'x': x, 'y': random.integers(0, vocabulary, (n, POSITIONS))}

  train, queries = rows(64), rows(4)
  vectors = products.gradients(problem.measure, problem, params, queries)

  def step(make):
    """The time of 10 steps more, of which nothing else is."""
    spent = []
    for steps in (2, 12):
      inverse = make(steps)
      fit = jax.jit(lambda f=inverse.fit: f(problem, params, train, KEY))
      state = fit()
      solve = jax.jit(
        lambda s, v, f=inverse.solve: f(s, problem, params, train, v, KEY).x
      )
      call = lambda f=solve, s=state: f(s, vectors)
      spent.append(benchmark.seconds(call, 5))
    return (spent[1] - spent[0]) / 10

  few = {'tolerance': 1e-12, 'batch_size': 16}
  plain = step(lambda n: tda.cg(1e-2, max_steps=n, **few))
  better = step(
    lambda n: tda.cg(1e-2, precondition=tda.ekfac(1e-2), max_steps=n, **few)
  )
  astra = step(lambda n: tda.astra(1e-2, steps=n, step_size=0.1, batch_size=16))
  of = f'{k:,} outputs'
  return [
    benchmark.figure(f'CG, {of}', 'seconds a step', plain),
    benchmark.figure(f'preconditioned CG, {of}', 'seconds a step', better),
    benchmark.figure(f'ASTRA, {of}', 'seconds a step', astra),
    benchmark.figure(
      f'preconditioned CG, {of}', STEPS, 1.5 * plain / better
    ),
  ]  # fmt: skip


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('part', choices=[*SETTINGS])
  parser.add_argument('--rows', type=int, default=1_000_000)
  parser.add_argument(
    '--folder', type=pathlib.Path, default=pathlib.Path('build/scale')
  )
  parser.add_argument('--measure', type=pathlib.Path, help='internal')
  given = parser.parse_args()
  if given.measure:
    from_disk(given.measure, given.rows)
    return
  start, facts = time.monotonic(), record.environment()
  if given.part == 'rows':
    sizes = (10_000, given.rows)
    works = [lambda: rows_beyond_memory(sizes, given.folder)]
  else:
    works = [functools.partial(outputs, v) for v in (8, 80, 784)]
  rows = benchmark.measured(*works)
  goals = [
    (row['method'], row['metric'], GOALS[row['metric']])
    for row in rows
    if row['metric'] in GOALS
  ]
  name = f'scale_{given.part}'
  file = benchmark.RESULTS.with_name(f'{name}.json')
  claims = benchmark.judged(rows, goals)
  record.results(file, 'benchmark', SETTINGS[given.part], rows, claims)
  benchmark.sign(file, start, facts)


if __name__ == '__main__':
  main()
