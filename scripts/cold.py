"""How long a new process takes to its first scores, and what of it is compiling.

  python -m scripts.cold

Writes results/cold.json: seconds after `import tda_jax` to the scores of 1,000
digits for 200 queries (README's perceptron, trained beforehand) by EKFAC, CG and the
exact inverse; and of the same call with another damping. Each in a process of its
own, with an empty folder of compiled programs and then with what the first has kept
there. And the seconds of compiling EKFAC's fit of a scanned decoder, by its blocks.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tda_jax as tda
from experiments.shared import claim
from scripts import benchmark
from tda_jax.data import prepare, tables
from tda_jax.models import mlp
from tda_jax.storage import record

RESULTS = benchmark.RESULTS.with_name('cold.json')
METHODS = {'EKFAC': tda.ekfac, 'CG': tda.cg, 'exact': tda.exact}
DAMPINGS = 0.003, 0.01
WIDTHS = (64, 128, 64, 10)
# Seconds, on two cores that nothing else uses.
GOALS = {'EKFAC': 4, 'CG': 6, 'exact': 6}
KEPT = 2
BLOCKS, GROWTH = 4, 1.5  # and of the time of compiling one block


def digits():
  """(rows, queries) of README."""
  rows, _ = prepare.split(tables.digits(), 0, 1000, 200)
  return prepare.standardise(*rows)


def train(file: pathlib.Path) -> None:
  """Trains README's perceptron and keeps its parameters as arrays."""
  init, apply = mlp.mlp(WIDTHS[1:-1], WIDTHS[-1], WIDTHS[:1])
  rate = lambda steps: optax.linear_schedule(0.05, 0.0, steps)
  sgd = lambda steps: optax.sgd(rate(steps), momentum=0.9)
  recipe = tda.Recipe(init, sgd, rate, batch_size=50, epochs=40)
  problem = tda.classification(apply, l2=1e-3)
  run = tda.train(problem, recipe, digits()[0], 0)
  np.savez(file, *(leaf[0] for leaf in jax.tree.leaves(run.params)))


def perceptron(params, x):
  """Logits by [bias, kernel] of each layer, as a user writes them."""
  for i in range(0, len(params) - 2, 2):
    x = jax.nn.relu(x @ params[i + 1] + params[i])
  return x @ params[-1] + params[-2]


class Compiling:
  """Counts programs and the seconds of making them."""

  def __init__(self):
    self.programs, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self.heard)

  def heard(self, event: str, duration: float, **_) -> None:
    """A listener of JAX."""
    kind = event.rsplit('/', 1)[-1]
    if kind in (
      'jaxpr_trace_duration',
      'jaxpr_to_mlir_module_duration',
      'backend_compile_duration',
    ):
      self.programs += kind.startswith('backend')
      self.seconds += duration


def first_scores(name: str, file: str, programs: str) -> None:
  """Scores with both dampings; prints what each took."""
  jax.config.update('jax_compilation_cache_dir', programs)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  with np.load(file) as stored:
    params = [*stored.values()]
  rows, queries = digits()
  compiling, found = Compiling(), []
  problem = tda.classification(perceptron, l2=1e-3)
  for damping in DAMPINGS:
    compiling.programs, compiling.seconds = 0, 0.0
    wall, processor = time.perf_counter(), time.process_time()
    method = tda.influence(METHODS[name](damping))
    tda.attribute(method, problem, params, rows, queries)
    found.append(
      {
        'seconds': time.perf_counter() - wall,
        'CPU seconds': time.process_time() - processor,
        'seconds of compiling': compiling.seconds,
        'programs': compiling.programs,
      }
    )
  print(json.dumps(found))


def decoder(blocks: int):
  """(problem, params, rows) of a decoder whose blocks are scanned."""
  width, hidden, words, length = 32, 64, 64, 16
  keys = iter(jax.random.split(jax.random.key(0), 8))
  draw = lambda *shape: 0.1 * jax.random.normal(next(keys), shape)
  stack = {
    'qkv': draw(blocks, width, 3 * width),
    'out': draw(blocks, width, width),
    'up': draw(blocks, width, hidden),
    'down': draw(blocks, hidden, width),
  }
  params = {'table': draw(words, width), 'blocks': stack}
  params['head'] = draw(width, words)
  future = jnp.triu(jnp.full((length, length), -1e9), 1)

  def block(x, w):
    q, k, v = jnp.split(x @ w['qkv'], 3, -1)
    weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / width**0.5 + future)
    x = x + weights @ v @ w['out']
    return x + jax.nn.gelu(x @ w['up']) @ w['down'], None

  def apply(params, ids):
    x, _ = jax.lax.scan(block, params['table'][ids], params['blocks'])
    return x[:, -1] @ params['head']

  random = np.random.default_rng(0)
  ids = random.integers(0, words, (64, length)).astype(np.int32)
  rows = {'x': ids, 'y': ids[:, 0]}
  return tda.classification(apply), params, jax.tree.map(jnp.asarray, rows)


def compiled(blocks: int) -> None:
  """Compiles EKFAC's fit of a decoder; prints its CPU seconds."""
  problem, params, rows = decoder(blocks)
  fit = jax.jit(
    lambda params, rows, key: tda.ekfac(1e-3).fit(problem, params, rows, key)
  )
  start = time.process_time()
  fit.lower(params, rows, jax.random.key(0)).compile()
  print(json.dumps(time.process_time() - start))


def said(*given) -> object:
  """What another process of this module prints."""
  command = [sys.executable, '-m', 'scripts.cold', *map(str, given)]
  return json.loads(
    subprocess.check_output(command, text=True).splitlines()[-1]
  )


def starts(name: str, file: pathlib.Path) -> list[dict]:
  """The figures of one method: without kept programs, then with them."""
  rows = []
  with tempfile.TemporaryDirectory() as programs:
    for kept in ('no programs kept', 'programs kept'):
      found = said('--first', name, file, programs)
      calls = ('first', 'another damping')
      for call, figures in zip(calls, found, strict=True):
        method = f'{name}, {kept}, {call}'
        rows += [benchmark.figure(method, k, v) for k, v in figures.items()]
  return rows


def scanned() -> list[dict]:
  """CPU seconds of compiling by number of blocks, the least of three."""
  spent = {
    blocks: min(said('--blocks', blocks) for _ in range(3))
    for blocks in (1, BLOCKS)
  }
  name = 'EKFAC of a scanned decoder, {} blocks'.format
  rows = [
    benchmark.figure(name(b), 'CPU seconds of compiling', s)
    for b, s in spent.items()
  ]
  ratio = spent[BLOCKS] / spent[1]
  return [*rows, benchmark.figure(name(BLOCKS), 'times one block', ratio)]


def claims(rows: list[dict]) -> list[dict]:
  """The goals, against what was measured."""
  value = {(row['method'], row['metric']): row['value'] for row in rows}
  goals = {f'{name}, no programs kept, first': s for name, s in GOALS.items()}
  goals |= {f'{name}, programs kept, first': KEPT for name in GOALS}
  goals = {(method, 'seconds'): most for method, most in goals.items()}
  blocks = f'EKFAC of a scanned decoder, {BLOCKS} blocks', 'times one block'
  return [
    claim.claim(
      f'{method}: {metric} at most {most:g}',
      'ours',
      f'{most:g}',
      f'{value[method, metric]:.4g}',
      value[method, metric] <= most,
    )
    for (method, metric), most in {**goals, blocks: GROWTH}.items()
  ]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--first', nargs=3, help='internal')
  parser.add_argument('--blocks', type=int, help='internal')
  given = parser.parse_args()
  if given.first:
    return first_scores(*given.first)
  if given.blocks:
    return compiled(given.blocks)
  start, facts = time.monotonic(), record.environment()
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'params.npz'
    train(file)
    rows = benchmark.measured(
      *(lambda name=name: starts(name, file) for name in METHODS), scanned
    )
  record.results(RESULTS, 'benchmark', 'cold start', rows, claims(rows))
  benchmark.sign(RESULTS, start, facts)


if __name__ == '__main__':
  main()
