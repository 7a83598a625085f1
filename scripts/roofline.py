"""How near the stages of attribution come to what this machine can do.

  python -m scripts.roofline

Writes results/roofline.json. The roof of a stage is the larger of its FLOPs over
the peak of a float32 matrix product and its bytes over the bandwidth of a triad,
both measured between the repeats of the stages; its share is roof / seconds.

FLOPs and bytes are XLA's, of the compiled program (`cost_analysis`). XLA counts the
body of a loop once, so each body is compiled alone too, and counted as often as it is
run. It counts nothing of LAPACK: eigenvectors of [n, n] are 9n³, and twice that in
float64. Bytes are those of every operation's operands and results: what is still in
a cache counts too, so that a share above 1 is possible.

Run it on cores that nothing else uses: where cores are shared, OpenBLAS's threads wait
for each other, and eigenvectors take up to 90 times as long (OPENBLAS_NUM_THREADS=1
ends that).
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core as jex

import tda_jax as tda
from scripts import benchmark
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.curvature import products, projections
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.models import mlp, transformer
from tda_jax.problem import Problem
from tda_jax.storage import record
from tda_jax.training import fit, members

RESULTS = benchmark.RESULTS.with_name('roofline.json')
KEY = jax.random.key(0)
DAMPING = 1e-3
REPEATS = 5
ENOUGH = 0.4  # of the roof
# Why a stage may stay below that.
NOTES = (
  'pairs, scores and epochs of the transformer: nearly all of it is the gradient of'
  ' the model, for which jax.grad alone takes as long, many times the forward pass',
  'its eigenvectors: LAPACK is further from its rate for small matrices',
)
GEMMS = (1024, 2048, 3072)
TRIAD = 2**25  # numbers of each array, 128 MB


class Cost(NamedTuple):
  """FLOPs and bytes of a program."""

  flops: float
  moved: float

  def plus(self, other: 'Cost', times: float = 1.0) -> 'Cost':
    """The sum with so many of another."""
    pairs = zip(self, other, strict=True)
    return Cost(*(a + times * b for a, b in pairs))


class Model(NamedTuple):
  """What is trained and scored."""

  name: str
  problem: Problem
  recipe: tda.Recipe
  params: Any
  train: Any
  queries: Any
  block: int  # rows that are scored together
  models: int  # that are trained together


class Stage(NamedTuple):
  """A function of arrays, which is jitted."""

  name: str
  call: Callable
  given: tuple
  trips: int = 1  # of loops whose length is no constant


# --- what a program takes -----------------------------------------------------


def cost(call: Callable, *given: Any, trips: int = 1) -> Cost:
  """What call(*given) takes, with every loop as often as it runs.

  Args:
    trips: of each loop whose length is no constant.
  """
  return _counted(jax.make_jaxpr(call)(*given), trips)[1]


def _counted(closed, trips) -> tuple[Cost, Cost]:
  """(with the body of each loop once, as often as it runs)."""
  once = _of_xla(closed).plus(Cost(_of_lapack(closed.jaxpr), 0))
  total = once
  for body, length in _loops(closed.jaxpr, trips):
    if length > 1:
      inner_once, inner = _counted(body, trips)
      total = total.plus(inner, length).plus(inner_once, -1)
  return once, total


def _of_xla(closed) -> Cost:
  given = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in closed.in_avals]
  program = jax.jit(jex.jaxpr_as_fun(closed)).lower(*given).compile()
  found = program.cost_analysis() or {}
  return Cost(found.get('flops', 0.0), found.get('bytes accessed', 0.0))


def _loops(jaxpr, trips) -> Iterator[tuple[Any, int]]:
  """(body, how often it runs) of the outermost loops of a jaxpr."""
  for e in jaxpr.eqns:
    if e.primitive.name == 'scan':
      yield e.params['jaxpr'], e.params['length']
    elif e.primitive.name == 'while':
      yield e.params['body_jaxpr'], trips
    else:
      for inner in _inside(e):
        yield from _loops(inner, trips)


def _inside(e) -> Iterator[Any]:
  """The jaxprs of an equation; of a choice the first, a CPU's."""
  for name, value in e.params.items():
    found = value[:1] if name == 'branches' else [value]
    for inner in found:
      if isinstance(inner, (jex.Jaxpr, jex.ClosedJaxpr)):
        yield getattr(inner, 'jaxpr', inner)


def _of_lapack(jaxpr) -> float:
  """FLOPs of LAPACK's routines, which XLA does not count."""
  total = 0.0
  for e in jaxpr.eqns:
    shape = e.invars[0].aval.shape if e.invars else ()
    size = float(np.prod(shape))
    if e.primitive.name == 'eigh':
      wide = e.invars[0].aval.dtype == np.float64
      total += 9 * size * shape[-1] * (1 + wide)
    elif e.primitive.name == 'cholesky':
      total += size * shape[-1] / 3
    elif e.primitive.name == 'triangular_solve':
      total += size * e.invars[1].aval.shape[-1]
    else:
      total += sum(map(_of_lapack, _inside(e)))
  return total


# --- the machine --------------------------------------------------------------


class Peaks:
  """The best rates so far; `measure` it often, since others use the machine."""

  def __init__(self):
    self.flops = self.bandwidth = 0.0
    self.products = {n: jnp.ones((n, n)) for n in GEMMS}
    self.arrays = [jnp.ones(TRIAD), jnp.ones(TRIAD)]
    self.product = jax.jit(lambda a: a @ a)
    self.triad = jax.jit(lambda a, b: a + 0.5 * b, donate_argnums=0)

  def measure(self) -> None:
    """Runs each product and the triad once more."""
    for n, a in self.products.items():
      spent = _spent(lambda a=a: self.product(a))
      self.flops = max(self.flops, 2 * n**3 / spent)
    a, b = self.arrays
    start = time.perf_counter()
    self.arrays[0] = jax.block_until_ready(self.triad(a, b))
    spent = time.perf_counter() - start
    self.bandwidth = max(self.bandwidth, 3 * b.nbytes / spent)


def _spent(call) -> float:
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


# --- the stages ---------------------------------------------------------------


def models() -> list[Model]:
  """MNIST's perceptron and a transformer, on rows of noise."""
  random = np.random.default_rng(0)
  rate = lambda steps: optax.constant_schedule(0.01)
  sgd = lambda steps: optax.sgd(0.01, momentum=0.9)

  def model(name, functions, x, classes, sizes):
    init, apply = functions
    n, block, together = sizes
    rows = {'x': x, 'y': random.integers(0, classes, len(x)).astype(np.int32)}
    train, queries = (
      jax.tree.map(jnp.asarray, rows_lib.take(rows, slice(*part)))
      for part in ((0, n), (n, None))
    )
    recipe = tda.Recipe(init, sgd, rate, batch_size=50, epochs=1)
    return Model(
      name, tda.classification(apply), recipe, jax.jit(init)(KEY), train,
      queries, block, together,
    )  # fmt: skip

  images = random.standard_normal((2200, 784), dtype=np.float32)
  words = random.integers(1, 64, (144, 32)).astype(np.int32)
  perceptron = mlp.mlp((128, 64), 10, (784,))
  encoder = transformer.transformer(64, 4, 32, width=64, blocks=4, hidden=256)
  return [
    model('MLP of mnist5k', perceptron, images, 10, (2000, 500, 25)),
    model('transformer', encoder, words, 4, (128, 64, 2)),
  ]


def stages(m: Model) -> list[Stage]:
  """The stages of a model."""
  problem, run = m.problem, tda.Run(m.params, None, None, None)
  inverse = tda.ekfac(DAMPING, batch_size=m.block)
  batch = next(rows_lib.batches(m.train, m.block))
  batch = jax.tree.map(jnp.asarray, batch)
  gradients = lambda p, queries: products.gradients(
    problem.measure, problem, p, queries
  )

  def fitted(p, train):
    with jax.default_matmul_precision('highest'):
      return inverse.fit(problem, p, train, KEY)

  def solved(state, p, train, vectors):
    return inverse.solve(state, problem, p, train, vectors, KEY).x

  def features(p, batch):
    return projections.project(problem.measure, problem, p, batch, KEY, 512)

  state = jax.jit(fitted)(m.params, m.train)
  vectors = jax.jit(gradients)(m.params, m.queries)
  factors = {
    name: (b.inputs, b.outputs) for name, b in state.blocks.items()
  }  # as large as the matrices of which they are the eigenvectors
  return [
    Stage('EKFAC fit', fitted, (m.params, m.train)),
    Stage('its eigenvectors', _eigenvectors, (factors,)),
    Stage(
      'solve of queries', solved, (state, m.params, m.train, vectors)
    ),
    _scored('score of a block', tda.influence(inverse), m, run, batch),
    _scored('Grad-Dot pairs', tda.grad_dot(), m, run, batch),
    Stage('TRAK features', features, (m.params, batch)),
    _epoch(m),
  ]  # fmt: skip


def _eigenvectors(factors):
  symmetric = lambda q: q + jnp.swapaxes(q, -1, -2)
  return jax.tree.map(lambda q: blocks_lib.eigh(symmetric(q)), factors)


def _scored(name, method, m, run, batch) -> Stage:
  prepare = jax.jit(
    lambda *given: method_lib.prepare(method, m.problem, *given)
  )
  prepared = prepare(run, m.train, m.queries, KEY)

  def scored(run, prepared, batch):
    return method_lib.score(method, m.problem, run, prepared, batch)

  return Stage(name, scored, (run, prepared, batch))


def _epoch(m) -> Stage:
  """An epoch of several models."""
  keys = jax.random.split(KEY, m.models)
  n = rows_lib.count(m.train)
  steps = fit.steps_per_epoch(n, m.recipe.batch_size)
  given = m.train, tda.Member(keys), members.start(m.recipe, n, keys)

  def trained(rows, member, state):
    return members.train_steps(
      m.problem, m.recipe, rows, member, state, epoch=0, first=0, last=steps
    )

  return Stage(f'epoch of {m.models} models', trained, given, steps)


# --- the table ----------------------------------------------------------------


def measured(m: Model, peaks: Peaks) -> list[dict]:
  """The figures of a model's stages; the least time of alternated repeats."""
  chosen = stages(m)
  calls = [jax.jit(stage.call) for stage in chosen]
  for stage, call in zip(chosen, calls, strict=True):
    jax.block_until_ready(call(*stage.given))
  least = [float('inf')] * len(chosen)
  for _ in range(REPEATS):
    peaks.measure()
    for i, (stage, call) in enumerate(zip(chosen, calls, strict=True)):
      least[i] = min(least[i], _spent(lambda c=call, s=stage: c(*s.given)))
  rows = []
  for stage, seconds in zip(chosen, least, strict=True):
    found = cost(stage.call, *stage.given, trips=stage.trips)
    rows += figures(f'{stage.name}, {m.name}', found, seconds, peaks)
  return rows


def figures(name: str, of: Cost, seconds: float, peaks: Peaks) -> list[dict]:
  """The rows of one stage."""
  by_flops, by_bytes = of.flops / peaks.flops, of.moved / peaks.bandwidth
  roof = max(by_flops, by_bytes)
  found = {
    'GFLOP': of.flops / 1e9,
    'MB': of.moved / 1e6,
    'seconds': seconds,
    'of the peak': by_flops / seconds,
    'of the roof': roof / seconds,
  }
  return [benchmark.figure(name, k, v) for k, v in found.items()]


def table(rows: list[dict]) -> str:
  """The rows in at most 100 columns."""
  lines = {}
  for row in rows:
    lines.setdefault(row['method'], {})[row['metric']] = row['value']
  metrics = list(dict.fromkeys(row['metric'] for row in rows))
  head = f'{"":35}' + ''.join(f' {k:>12}' for k in metrics)
  return '\n'.join(
    [head]
    + [
      f'{name:35}' + ''.join(f' {found.get(k, 0):>12.4g}' for k in metrics)
      for name, found in lines.items()
    ]
  )


def main():
  start, facts = time.monotonic(), record.environment()
  peaks, rows = Peaks(), []
  for model in models():
    rows += measured(model, peaks)
  print(table(rows))
  machine = [
    benchmark.figure('this machine', 'GFLOP a second', peaks.flops / 1e9),
    benchmark.figure('this machine', 'GB a second', peaks.bandwidth / 1e9),
  ]
  print(*(f'{r["metric"]}: {r["value"]:.4g}' for r in machine), sep='\n')
  print('Below the goal may stay', *NOTES, sep='\n  ')
  goals = [
    (row['method'], row['metric'], ENOUGH)
    for row in rows
    if row['metric'] == 'of the roof'
  ]
  claims = benchmark.judged(rows, goals)
  record.results(RESULTS, 'benchmark', 'roofline', [*rows, *machine], claims)
  benchmark.sign(RESULTS, start, facts)


if __name__ == '__main__':
  main()
