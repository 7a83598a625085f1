"""Compiles our programs for TPU pods that are not here, and says what a chip does.

  pip install --target FOLDER 'libtpu==0.0.42.*'     (or the extra `tpu`)
  PYTHONPATH=FOLDER python -m scripts.compile_for_tpu

Writes results/pods.json: for each program and pod the operations and bytes of a
chip, what it sends, and the seconds of compiling. Nothing is computed: XLA's
compiler for TPUs runs on a CPU. With `--measure CASE TOPOLOGY` one case alone is
printed.
"""

import argparse
import collections
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import tda_jax as tda
from scripts import benchmark, hlo
from tda_jax import parallel
from tda_jax.data.rows import Batch
from tda_jax.methods import method as method_lib
from tda_jax.models import mlp
from tda_jax.run import Run
from tda_jax.storage import record

RESULTS = benchmark.RESULTS.with_name('pods.json')
PODS = {  # (case, topology) in the order of the table
  'mlp': ('v5e:2x2', 'v5e:4x4', 'v5e:16x16', 'v5p:8x8x8'),
  'blocks': ('v5e:2x2', 'v5e:4x4', 'v5e:16x16'),
  'decoder': ('v5e:16x16', 'v5p:8x8x8'),
}
LIMIT = 14e9  # bytes that a program of the decoder may take
PATIENCE = 600  # seconds that a program may take to compile
HEAD = 128  # width of a head of attention


class Case(NamedTuple):
  """What is compiled: shapes alone, no arrays."""

  problem: tda.Problem
  params: Any
  row: dict  # a column -> (shape, type) of one row
  rows: Callable[
    [int], int
  ]  # number of chips -> rows that are fitted and scored
  batch: Callable[[int], int]  # number of shares -> rows of one batch
  queries: int
  model: int = 1  # devices along the axis `model`


def mlp_case() -> Case:
  """Three dense layers, rows by the thousand."""
  init, apply = mlp.mlp(widths=(64, 64), outputs=10, shape=(64,))
  params = jax.eval_shape(init, jax.random.key(0))
  row = {'x': ((64,), jnp.float32), 'y': ((), jnp.int32)}
  n = 16_384
  return Case(
    tda.classification(apply), params, row, lambda _: n, lambda _: n, 1024
  )


def blocks_case() -> Case:
  """Two layers of the decoder, small, whose parameters are copies."""
  rows = lambda _: 1024
  case = decoder(layers=2, width=128, length=64, vocabulary=512)
  return case._replace(rows=rows, batch=rows, queries=256)


def decoder_case() -> Case:
  """A decoder of a billion parameters in bfloat16; a row a chip, in one batch."""
  case = decoder(layers=18, width=2048, length=512, vocabulary=32_768)
  return case._replace(
    rows=lambda chips: chips, batch=lambda _: 64, queries=64, model=64
  )


def decoder(layers, width, length, vocabulary):
  """A decoder whose layers are scanned; embedding and head are held fixed."""
  w = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
  square = {name: w(layers, width, width) for name in 'qkvo'}
  params = {
    'embedding': w(vocabulary, width),
    'head': w(width, vocabulary),
    'layers': {
      **square,
      'up': w(layers, width, 4 * width),
      'down': w(layers, 4 * width, width),
    },
  }

  def loss(logits, example):
    logs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logs, example['y'][:, None], 1).sum()

  problem = tda.Problem(
    lambda params, example: decode(params, example['x'][None])[0],
    loss,
    lambda logits, example: -loss(logits, example),
    lambda key, z, example: {**example, 'y': jax.random.categorical(key, z)},
    lambda shape, rows: None,
    leave_out=('embedding', 'head'),
  )
  row = dict.fromkeys('xy', ((length,), jnp.int32))
  none = lambda _: 0  # set by the two cases
  return Case(problem, params, row, none, none, 0)


def decode(params, ids):
  """Logits [B, T, vocabulary] of the next token, by a scan over layers."""
  x = params['embedding'][ids]
  layer = jax.checkpoint(lambda x, w: (_layer(x, w), None))
  x, _ = jax.lax.scan(layer, x, params['layers'])
  return _normal(x) @ params['head']


def _layer(x, w):
  """Attention to earlier tokens and a perceptron, each added to x."""
  y = _normal(x)
  q, k, v = (
    (y @ w[name]).reshape(*y.shape[:2], -1, HEAD) for name in ('q', 'k', 'v')
  )
  alike = jnp.einsum('bshd,bthd->bhst', q, k) / q.shape[-1] ** 0.5
  earlier = np.tril(np.ones((x.shape[1],) * 2, bool))
  alike = jnp.where(earlier, alike.astype(jnp.float32), -1e9)
  weights = jax.nn.softmax(alike).astype(x.dtype)
  y = jnp.einsum('bhst,bthd->bshd', weights, v)
  x = x + y.reshape(x.shape) @ w['o']
  return x + jax.nn.gelu(_normal(x) @ w['up']) @ w['down']


def _normal(x):
  """x over its root mean square."""
  wide = x.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
  return (wide * scale).astype(x.dtype)


CASES = {'mlp': mlp_case, 'blocks': blocks_case, 'decoder': decoder_case}


def programs(case: Case, chips: int) -> dict[str, tuple[Callable, tuple]]:
  """{stage: (function, shapes of its arguments)}; a mesh is set.

  `fit` and `solve` are the two halves of `prepare`, what a user calls.
  """
  problem = case.problem
  inverse = tda.ekfac(damping=1e-3, batch_size=case.batch(chips))
  n, key = case.rows(chips), jax.ShapeDtypeStruct((), KEY)

  def fit(params, train, key):
    part, run = method_lib.attributed(problem, Run(params))
    return inverse.fit(part, run.params, train, key)

  def solve(params, state, train, queries, key):
    method = tda.influence(inverse._replace(fit=lambda *_: state))
    given = method, problem, Run(params), train, queries, key
    return method_lib.prepare(*given)

  def prepare(params, train, queries, key):
    given = problem, Run(params), train, queries, key
    return method_lib.prepare(tda.influence(inverse), *given)

  def score(params, prepared, batch):
    given = problem, Run(params), prepared, batch
    return method_lib.score(tda.influence(inverse), *given)

  params = parallel.placed(case.params)
  train = parallel.rows_placed(_rows(case.row, n))
  queries, key = parallel.replicate((_rows(case.row, case.queries), key))
  state = parallel.placed(jax.eval_shape(fit, params, train, key))
  given = params, state, train, queries, key
  prepared = parallel.placed(jax.eval_shape(solve, *given))
  numbers = [jax.ShapeDtypeStruct((n,), t) for t in (jnp.int32, jnp.float32)]
  batch = parallel.rows_placed(Batch(_rows(case.row, n), *numbers))
  found = {
    'fit': (fit, (params, train, key)),
    'solve': (solve, given),
    'score': (score, (params, prepared, batch)),
  }
  if case.batch(chips) == n:  # small
    found['prepare'] = prepare, (params, train, queries, key)
  return found


KEY = jax.eval_shape(lambda: jax.random.key(0)).dtype


def _rows(row, n):
  """The shapes of n rows."""
  return {
    name: jax.ShapeDtypeStruct((n, *shape), kind)
    for name, (shape, kind) in row.items()
  }


def measured(name: str, topology: str) -> list[dict]:
  """One dict a program: bytes, operations, exchanges of a chip; seconds.

  Raises:
    ValueError: libtpu is not installed.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
      'libtpu is not installed, and it has the compiler for TPUs: pip install'
      " 'tda_jax[tpu]'"
    )
  from jax.experimental import topologies

  # There is no machine to ask, and none to lock.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  described = topologies.get_topology_desc(topology, 'tpu')
  case, chips = CASES[name](), len(described.devices)
  with jax.set_mesh(parallel.mesh(described.devices, case.model)):
    stages = programs(case, chips)
    found = []
    for stage, program in stages.items():
      told = {'case': name, 'topology': topology, 'chips': chips}
      made = compiled(*program, case.rows(chips))
      found.append({**told, 'stage': stage, **made})
      print(found[-1], file=sys.stderr, flush=True)
    return found


def compiled(function: Callable, args: tuple, n: int) -> dict:
  """What the compiler says of a program of n rows."""
  start, used = time.monotonic(), time.process_time()
  program = jax.jit(function).lower(*args).compile()
  seconds = time.monotonic() - start, time.process_time() - used
  memory, text = program.memory_analysis(), program.as_text()
  if folder := os.environ.get('PODS_KEEP'):
    pathlib.Path(folder, f'{function.__name__}_{n}.txt').write_text(text)
  read = hlo.read(text)
  sent = hlo.exchanges(read)
  shapes = {size for one in sent for _, shape in one.shapes for size in shape}
  return {
    'seconds': seconds[0],
    'processor_seconds': seconds[1],
    'arguments': memory.argument_size_in_bytes,
    'results': memory.output_size_in_bytes,
    'working': memory.temp_size_in_bytes,
    'flops': hlo.flops(read),
    'xla_flops': program.cost_analysis()['flops'],
    'sent': sum(one.size for one in sent),
    'sends_rows': n in shapes,
    'exchanges': _said(sent),
  }


def _said(sent):
  """Exchanges as text, those of one kind and shape together."""
  counts = collections.Counter()
  for one in sent:
    shapes = ' '.join(
      f'{kind}[{",".join(map(str, shape))}]' for kind, shape in one.shapes
    )
    counts[f'{one.kind} {shapes}'] += one.times
  return [f'{times} x {what}' for what, times in sorted(counts.items())]


def in_a_process(folder: pathlib.Path, name: str, topology: str) -> list[dict]:
  """`measured` in a process of its own, or what one wrote into `folder` before."""
  done = folder / f'{name}_{topology.replace(":", "_")}.json'
  if done.exists():
    return record.read_json(done)['programs']
  command = [sys.executable, '-m', 'scripts.compile_for_tpu', '--measure']
  out = subprocess.run(
    [*command, name, topology],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  ).stdout
  found = json.loads(out.splitlines()[-1])
  folder.mkdir(parents=True, exist_ok=True)
  record.write_json(done, {'programs': found})
  return found


def rows(found: dict) -> list[dict]:
  """The figures of a program as rows of results."""
  name = f'{found["case"]}, {found["stage"]} on {found["topology"]}'
  given = {
    'MB of arguments a chip': found['arguments'] / 1e6,
    'MB of results a chip': found['results'] / 1e6,
    'MB at work a chip': found['working'] / 1e6,
    'GFLOP of products a chip': found['flops'] / 1e9,
    'MB exchanged a chip': found['sent'] / 1e6,
    'seconds of compiling': found['seconds'],
    'processor seconds of compiling': found['processor_seconds'],
  }
  return [benchmark.figure(name, *pair) for pair in given.items()]


def claims(all_found: list[dict]) -> list[dict]:
  """What a pod must do, as far as it was compiled."""
  by = {(f['case'], f['stage'], f['topology']): f for f in all_found}
  judged = []

  def claim(text, expected, observed, holds):
    judged.append(
      dict(
        claim=text,
        source='ours',
        expected=expected,
        observed=observed,
        holds=bool(holds),
      )
    )

  for (case, stage, topology), found in by.items():
    few = by.get((case, stage, 'v5e:2x2'))
    said, chips = f'{case}, {stage} on {topology}', found['chips']
    if few and few is not found and stage != 'prepare':
      ratio = few['flops'] * few['chips'] / (found['flops'] * chips)
      text = f'{said}: operations a chip fall as 1/chips, from 4 to {chips}'
      claim(text, '.9 to 1.1', f'{ratio:.3f}', 0.9 <= ratio <= 1.1)
    if case != 'decoder':
      rows_sent = str(found['sends_rows']).lower()
      claim(
        f'{said}: no exchange has the number of rows in its shape',
        'false', rows_sent, not found['sends_rows'],
      )  # fmt: skip
    if case != 'decoder' and stage == 'score':
      count = len(found['exchanges'])
      claim(f'{said}: no exchange', '0', str(count), count == 0)
    if case == 'decoder':
      gb = (found['arguments'] + found['results'] + found['working']) / 1e9
      claim(
        f'{said}: at most {LIMIT / 1e9:g} GB a chip',
        f'{LIMIT / 1e9:g}', f'{gb:.2f}', gb <= LIMIT / 1e9,
      )  # fmt: skip
    claim(
      f'{said}: compiles within {PATIENCE} seconds',
      f'{PATIENCE}', f'{found["seconds"]:.0f}', found['seconds'] <= PATIENCE,
    )  # fmt: skip
  return judged


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--measure', nargs=2, metavar=('CASE', 'TOPOLOGY'))
  parser.add_argument('--only', default='', help='cases that fit this pattern')
  parser.add_argument('--folder', type=pathlib.Path, default='build/pods')
  given = parser.parse_args()
  if given.measure:
    print(json.dumps(measured(*given.measure)))
    return
  start, facts, found = time.monotonic(), record.environment(), []
  for case, topologies in PODS.items():
    for topology in topologies:
      if re.search(given.only, f'{case} {topology}'):
        found += in_a_process(given.folder, case, topology)
        print(case, topology, flush=True)
  figures = [row for one in found for row in rows(one)]
  if given.only:
    return
  record.results(RESULTS, 'pods', 'compiled', figures, claims(found))
  content = record.read_json(RESULTS)
  record.write_json(RESULTS, {**content, 'programs': found})
  # With those of parts that were there.
  start -= max(0, sum(f['seconds'] for f in found) - time.monotonic() + start)
  benchmark.sign(RESULTS, start, facts, libtpu=metadata.version('libtpu'))


if __name__ == '__main__':
  main()
