"""What EKFAC costs at a billion tokens: a model of it, and how far off it is.

  python -m scripts.scaling

Writes results/scaling.json: operations by formula against those of the compiled
programs of results/pods.json; seconds by formula against small runs on this
machine; and what a pod would take. docs/scaling.md has the formulas in words.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import tda_jax as tda
from scripts import benchmark, compile_for_tpu
from tda_jax import cost
from tda_jax.curvature import ekfac
from tda_jax.methods import method as method_lib
from tda_jax.run import Run
from tda_jax.storage import record

RESULTS = benchmark.RESULTS.with_name('scaling.json')
TOKENS, QUERIES, LENGTH = 1e9, 1000, 512


class Decoder(NamedTuple):
  """The sizes of the decoder of `compile_for_tpu`."""

  layers: int
  width: int
  length: int
  vocabulary: int

  @property
  def entries(self) -> int:
    """Entries of all matrices that rows are scored by, Σ I·O."""
    return 12 * self.layers * self.width**2

  @property
  def squares(self) -> int:
    """Σ I² + O², the entries of all factors."""
    # q, k, v, o: 1 + 1 each; up and down: 1 + 16 each.
    return (4 * 2 + 2 * 17) * self.layers * self.width**2

  @property
  def through(self) -> int:
    """Operations of a token through the model and back, layers run twice."""
    last = 4 * self.layers * self.width**2  # the second run leaves its end out
    head = self.width * self.vocabulary
    attention = 16 * self.length * self.width * self.layers
    return 6 * self.entries - 2 * last + 4 * head + attention

  @property
  def forward(self) -> int:
    """Operations of a token through the model."""
    head = self.width * self.vocabulary
    attention = 4 * self.length * self.width * self.layers
    return 2 * (self.entries + head) + attention

  @property
  def of_row(self) -> cost.Sizes:
    """The sizes of a row of `length` tokens, in bfloat16."""
    return cost.Sizes(
      entries=self.entries,
      squares=self.squares,
      largest=4 * self.layers * self.width**2,
      moved=self.length * self.squares,
      formed=self.length * self.entries,
      through=self.length * self.through,
      forward=self.length * self.forward,
      parameters=2 * (self.entries + 2 * self.width * self.vocabulary),
      row=8 * self.length,
    )


SIZES = {
  'blocks': Decoder(2, 128, 64, 512),
  'decoder': Decoder(18, 2048, 512, 32_768),
}
SMALL = Decoder(2, 256, 64, 512)


def against_compiled(pods: dict) -> list[dict]:
  """Operations by formula over those of the compiled programs."""
  found = []
  for program in pods['programs']:
    sizes = SIZES.get(program['case'])
    if sizes is None or program['stage'] == 'prepare':
      continue
    case = compile_for_tpu.CASES[program['case']]()
    rows = case.rows(program['chips'])
    by_stage = cost.operations(sizes.of_row, rows, case.queries, batches=1)
    ratio = sum(by_stage[program['stage']]) / (
      program['flops'] * program['chips']
    )
    name = f'{program["case"]}, {program["stage"]} on {program["topology"]}'
    found.append(benchmark.figure(name, 'formula over compiled', ratio))
  return found


def against_runs() -> list[dict]:
  """Seconds by formula over those of a small decoder on this machine."""
  n, q, key = 64, 8, jax.random.key(0)
  big = SIZES['decoder']
  problem, params, train, queries = small(n, q)
  method = tda.influence(tda.ekfac(1e-3, batch_size=16))
  inverse = tda.ekfac(1e-3, batch_size=16)
  part, run = method_lib.attributed(problem, Run(params))
  fit = jax.jit(lambda p: inverse.fit(part, p, train, key))
  state = fit(run.params)
  given = tda.influence(inverse._replace(fit=lambda *_: state))
  solve = jax.jit(
    lambda p: method_lib.prepare(given, problem, Run(p), train, queries, key)
  )
  prepared = solve(params)
  batch = tda.data.rows.whole(train)
  score = jax.jit(
    lambda p, b: method_lib.score(method, problem, Run(p), prepared, b)
  )
  rate, of_eigh = products_a_second(), eigh_seconds(SMALL)
  predicted = {
    stage: sum(pair) / rate
    for stage, pair in cost.operations(SMALL.of_row, n, q).items()
  }
  predicted['fit'] += of_eigh
  spent = {
    'fit': fastest(lambda: fit(run.params)),
    'solve': fastest(lambda: solve(params)),
    'score': fastest(lambda: score(params, batch)),
  }
  found = [
    benchmark.figure('this machine', 'GFLOP a processor second', rate / 1e9),
    benchmark.figure(
      'small decoder, all eigenvectors', 'processor seconds', of_eigh
    ),
    benchmark.figure(
      'decoder, all eigenvectors, at the speed of this machine',
      'processor seconds',
      of_eigh * big.layers * big.width**3 / (SMALL.layers * SMALL.width**3),
    ),
  ]
  for stage, seconds in spent.items():
    name = f'small decoder, {stage} on this machine'
    found.append(benchmark.figure(name, 'processor seconds', seconds))
    ratio = predicted[stage] / seconds
    found.append(benchmark.figure(name, 'formula over measured', ratio))
  return found


def small(n, q):
  """(problem, params, train, queries) of a decoder for a CPU."""
  case = compile_for_tpu.decoder(**SMALL._asdict())
  keys = iter(jax.random.split(jax.random.key(1), 99))
  draw = lambda s: 0.05 * jax.random.normal(next(keys), s.shape)
  params = jax.tree.map(draw, case.params)
  random = np.random.default_rng(0)
  text = random.integers(0, SMALL.vocabulary, (n + q, SMALL.length + 1))
  rows = {'x': text[:, :-1], 'y': text[:, 1:]}
  cut = lambda part: {k: v[part].astype(np.int32) for k, v in rows.items()}
  return case.problem, params, cut(slice(n)), cut(slice(n, None))


def fastest(function, repeats: int = 5) -> float:
  """Processor seconds of the cheapest call, after one that compiles.

  Of all cores together, so that what else the machine does counts little.
  """
  jax.block_until_ready(function())
  times = []
  for _ in range(repeats):
    start = time.process_time()
    jax.block_until_ready(function())
    times.append(time.process_time() - start)
  return min(times)


def products_a_second(n: int = 1024) -> float:
  """Operations of a product of float32 matrices in a second."""
  a = jax.random.normal(jax.random.key(0), (n, n))
  multiply = jax.jit(jnp.matmul)
  return 2 * n**3 / fastest(lambda: multiply(a, a), 20)


def eigh_seconds(sizes: Decoder, n: int = 1024) -> float:
  """Seconds of all factors' eigenvectors on one host, by one measured size."""
  a = np.random.default_rng(0).standard_normal((n, n))
  a = a @ a.T
  cube = fastest(lambda: ekfac._host_eigh(a), 3) / n**3
  cubes = (4 * 2 + 2 * (1 + 4**3)) * sizes.layers * sizes.width**3
  return cube * cubes


def of_a_pod(pods: dict) -> list[dict]:
  """Hours of a pod at its peak, by what bounds it, for all tokens and queries."""
  found, sizes = [], SIZES['decoder']
  for program in pods['programs']:
    if program['case'] != 'decoder':
      continue
    topology, stage, chips = (
      program[k] for k in ('topology', 'stage', 'chips')
    )
    case, rows = compile_for_tpu.CASES['decoder'](), TOKENS / LENGTH
    pod = cost.pod(topology, case.model)
    blocks = -(-QUERIES // case.queries)
    done = cost.operations(sizes.of_row, rows, case.queries)[stage]
    runs = {'fit': rows / case.rows(chips), 'solve': blocks}
    runs['score'] = blocks * runs['fit']
    often = {'fit': 1, 'solve': blocks, 'score': blocks}[stage]
    hours = {
      'products': often * cost.seconds_of_products(pod, sizes.of_row, *done),
      'links': runs[stage] * program['sent'] / pod.chip.links,
      'memory': runs[stage]
      * (program['arguments'] + program['results'] + program['working'])
      / pod.chip.memory,
    }
    name = f'decoder, {stage} of 1e9 tokens, {QUERIES:,} queries, {topology}'
    for what, seconds in hours.items():
      found.append(benchmark.figure(name, f'hours of {what}', seconds / 3600))
  return found


def main():
  start, facts = time.monotonic(), record.environment()
  pods = record.read_json(compile_for_tpu.RESULTS)
  rows = benchmark.measured(
    lambda: against_compiled(pods), against_runs, lambda: of_a_pod(pods)
  )
  claims = []
  for row in rows:
    if not row['metric'].startswith('formula over'):
      continue
    low, high = (0.9, 1.1) if row['metric'].endswith('compiled') else (0.5, 2)
    claims.append(
      dict(
        claim=f'{row["method"]}: {row["metric"]}',
        source='ours',
        expected=f'{low:g} to {high:g}',
        observed=f'{row["value"]:.3f}',
        holds=bool(low <= row['value'] <= high),
      )
    )
  record.results(RESULTS, 'pods', 'scaling', rows, claims)
  benchmark.sign(RESULTS, start, facts)


if __name__ == '__main__':
  main()
