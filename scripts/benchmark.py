"""Speed and memory of the core, as ratios measured in one run.

  python -m scripts.benchmark [--peers]

Writes results/benchmark.json. With --peers (the extra `peers`), kronfluence and
a PyTorch training loop are measured on the same weights in the same run. Times
are medians of repeats after compilation; peers have no compilation.
"""

import argparse
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs.astra import digits, mnist5k
from experiments.shared import claim, stages, tasks
from tda_jax import scoring, trees
from tda_jax.curvature import products
from tda_jax.data import rows as rows_lib
from tda_jax.data import subsets
from tda_jax.evaluation import lds, retraining
from tda_jax.inverses import descent, ekfac
from tda_jax.methods import gradients, influence
from tda_jax.run import Run
from tda_jax.storage import record
from tda_jax.training import members

RESULTS = pathlib.Path(__file__).parents[1] / 'results' / 'benchmark.json'
KEY = jax.random.key(0)
SETTINGS = {'digits': digits, 'mnist5k': mnist5k}


def seconds(function, repeats=5) -> float:
  """Median time of a call, after one that compiles."""
  jax.block_until_ready(function())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return float(np.median(times))


def prepared_task(name):
  """(config, task, run of one trained model)."""
  config = SETTINGS[name].get_config()
  task = tasks.load(config)
  return config, task, trained(task, 1)[0]


def trained(task, count) -> list[Run]:
  """Runs of so many models."""
  keys = jax.random.split(KEY, count)
  runs = members.train(task.problem, task.recipe, task.train, keys)
  return [
    Run(trees.row(runs.params, e), None, None, None) for e in range(count)
  ]


def scorer(method, task, run):
  """A jitted call that prepares and scores all pairs, [N, Q]."""
  train, queries = jax.tree.map(jnp.asarray, (task.train, task.queries))
  stack = jax.tree.map(jnp.asarray, rows_lib.stacked(task.train, 500))

  @jax.jit
  def call(run, train, queries, stack, key):
    prepared = method.prepare(task.problem, run, train, queries, key)
    score = lambda batch: method.score(task.problem, run, prepared, batch)
    scores = jax.lax.map(score, stack)
    return scores.reshape(-1, scores.shape[-1])[: rows_lib.count(train)]

  return lambda: call(run, train, queries, stack, KEY)


def ekfac_pairs(name, peers) -> list[dict]:
  """EKFAC fit and all-pairs scores."""
  _, task, run = prepared_task(name)
  rows, kept = [], {}
  for labels in ('sampled', 'data'):
    method = influence.influence(ekfac.ekfac(labels=labels, batch_size=500))
    call = scorer(method, task, run)
    kept[labels] = np.asarray(call())
    rows.append(
      figure(f'EKFAC {labels} labels, {name}', 'seconds', seconds(call))
    )
  if peers:
    from scripts import compare_peers, torch_models

    for labels, row in zip(kept, list(rows), strict=True):
      theirs, scores = compare_peers.kronfluence_ekfac(task, run, labels)
      rows.append(
        figure(f'kronfluence EKFAC {labels} labels, {name}', 'seconds', theirs)
      )
      ratio = theirs / row['value']
      rows.append(figure(f'EKFAC {labels} labels, {name}', 'speedup', ratio))
      if labels == 'data':
        r = torch_models.agreement(kept[labels], scores)
        rows.append(
          figure(f'EKFAC data labels, {name}', 'pearson with kronfluence', r)
        )
  return rows


def retraining_speed(peers, tmp) -> list[dict]:
  """500 digits models, vmapped; against a PyTorch loop over models.

  With them as ground truth, the LDS of EKFAC with sampled labels.
  """
  config, task, _ = prepared_task('digits')
  chosen = subsets.half_subsets(0, 1000, 50)
  start = time.perf_counter()
  outcomes = retraining.outcomes(
    task.problem,
    task.recipe,
    task.train,
    task.queries,
    chosen,
    repeats=10,
    key=KEY,
    path=tmp,
    members_at_once=config.truth.members_at_once,
    progress=False,
  )
  ours = time.perf_counter() - start
  rows = [figure('retrain 500 digits models, vmapped', 'seconds', ours)]
  if peers:
    from scripts import compare_peers

    theirs = 500 * compare_peers.torch_training(task, config, models=10)
    rows.append(
      figure('retrain 500 digits models, PyTorch loop', 'seconds', theirs)
    )
    rows.append(
      figure('retrain 500 digits models, vmapped', 'speedup', theirs / ours)
    )
    rows += ekfac_lds(task, outcomes.mean(1), chosen)
  return rows


def ekfac_lds(task, outcomes, chosen, models=5) -> list[dict]:
  """Mean LDS over models, ours and kronfluence's on the same weights."""
  from scripts import compare_peers

  method = influence.influence(ekfac.ekfac(labels='sampled'))
  ours, theirs = [], []
  for run in trained(task, models):
    found = np.asarray(scorer(method, task, run)())
    ours.append(lds.lds(found, outcomes, chosen).mean())
    _, found = compare_peers.kronfluence_ekfac(task, run, 'sampled')
    theirs.append(lds.lds(found, outcomes, chosen).mean())
  name = 'EKFAC sampled labels, digits'
  return [
    figure(name, 'lds', np.mean(ours)),
    figure(f'kronfluence {name}', 'lds', np.mean(theirs)),
    figure(name, 'lds above kronfluence', np.mean(ours) - np.mean(theirs)),
  ]


def queries_together() -> list[dict]:
  """ASTRA for 100 queries at once against one by one (3 measured)."""
  _, task, run = prepared_task('digits')
  solver = descent.astra(3e-3, step_per_damping=0.1)
  train = jax.tree.map(jnp.asarray, task.train)
  vectors = products.gradients(
      task.problem.measure, task.problem, run.params,
      rows_lib.take(task.queries, slice(0, 100)),
  )  # fmt: skip

  fit = jax.jit(lambda params: solver.fit(task.problem, params, train, KEY))
  state = fit(run.params)

  @jax.jit
  def solve(state, params, v):
    return solver.solve(state, task.problem, params, train, v, KEY).x

  one = jax.tree.map(lambda leaf: leaf[:1], vectors)
  together = seconds(lambda: solve(state, run.params, vectors), 3)
  alone = 100 * seconds(lambda: solve(state, run.params, one), 3)
  return [
    figure('ASTRA, 100 queries together', 'seconds', together),
    figure('ASTRA, 100 queries one by one', 'seconds', alone),
    figure('ASTRA, 100 queries together', 'speedup', alone / together),
  ]


def grad_dot() -> list[dict]:
  """Grad-Dot of all pairs, layerwise, against materialised gradients."""
  _, task, run = prepared_task('mnist5k')
  problem = task.problem
  train, queries = jax.tree.map(jnp.asarray, (task.train, task.queries))

  @jax.jit
  def materialised(params, train, queries):
    g = products.gradients(problem.loss, problem, params, train)
    m = products.gradients(problem.measure, problem, params, queries)
    flat = lambda t: jnp.concatenate(
      [x.reshape(len(x), -1) for x in jax.tree.leaves(t)], 1
    )
    return -flat(g) @ flat(m).T / len(flat(g))

  call = scorer(gradients.grad_dot(), task, run)
  full = lambda: materialised(run.params, train, queries)
  np.testing.assert_allclose(call(), full(), atol=1e-4 * np.abs(full()).max())
  ours, theirs = seconds(call), seconds(full)
  return [
    figure('Grad-Dot all pairs, layerwise, mnist5k', 'seconds', ours),
    figure('Grad-Dot all pairs, materialised, mnist5k', 'seconds', theirs),
    figure('Grad-Dot all pairs, layerwise, mnist5k', 'speedup', theirs / ours),
  ]


def memory() -> list[dict]:
  """Peak memory of scoring, less the rows themselves, by number of rows."""
  _, task, run = prepared_task('mnist5k')
  method = influence.influence(ekfac.ekfac(1e-3))
  rows = []
  for copies in (1, 10):
    train = jax.tree.map(
      lambda leaf, c=copies: np.concatenate([leaf] * c), task.train
    )
    n = rows_lib.count(train)
    before = stages.peak_memory(reset=True)
    scoring.top_k(
      method, task.problem, run, train, task.queries, 10, name='ekfac', key=KEY
    )
    peak = stages.peak_memory()
    if before is None:
      break
    bytes_ = sum(leaf.nbytes for leaf in jax.tree.leaves(train)) / 2**20
    rows.append(
        figure(
            f'top-10 scoring, {n:,} rows', 'MB above the start and the rows',
            peak - before - bytes_,
        )
    )  # fmt: skip
  return rows


def claims(rows) -> list[dict]:
  """The speeds that were promised, against what was measured."""
  goals = [
      (f'EKFAC sampled labels, {s}', 'speedup', 8) for s in SETTINGS
  ] + [
      (f'EKFAC data labels, {s}', 'pearson with kronfluence', 0.999)
      for s in SETTINGS
  ] + [
      ('EKFAC sampled labels, digits', 'lds above kronfluence', -0.01),
      ('retrain 500 digits models, vmapped', 'speedup', 10),
      ('ASTRA, 100 queries together', 'speedup', 5),
      ('Grad-Dot all pairs, layerwise, mnist5k', 'speedup', 10),
  ]  # fmt: skip
  return judged(rows, goals)


def judged(rows, goals) -> list[dict]:
  """Claims 'metric of method at least goal' for those that were measured."""
  value = {(r['method'], r['metric']): r['value'] for r in rows}
  return [
    claim.claim(
      f'{method}: {metric} at least {goal:g}',
      'ours',
      f'{goal:g}',
      f'{value[method, metric]:.4g}',
      value[method, metric] >= goal,
    )
    for method, metric, goal in goals
    if (method, metric) in value
  ]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--peers', action='store_true')
  peers = parser.parse_args().peers
  start, facts = time.monotonic(), record.environment()
  with tempfile.TemporaryDirectory() as tmp:
    rows = measured(
      lambda: ekfac_pairs('digits', peers),
      lambda: ekfac_pairs('mnist5k', peers),
      lambda: retraining_speed(peers, pathlib.Path(tmp) / 'store'),
      queries_together,
      grad_dot,
      memory,
    )
  record.results(RESULTS, 'benchmark', 'speed', rows, claims(rows))
  sign(RESULTS, start, facts)


def measured(*parts) -> list[dict]:
  """The rows of all parts, printed as they come."""
  rows = []
  for part in parts:
    found = part()
    rows += found
    for row in found:
      print(
        f'{row["method"]:50} {row["metric"]:34} {row["value"]:.4g}', flush=True
      )
  return rows


def sign(
  path: pathlib.Path, start: float, facts: dict, **versions: str
) -> None:
  """Writes into results which run they come from.

  Args:
    start: of the run, by time.monotonic().
    facts: `record.environment` at its start.
    versions: of further packages.
  """
  content = record.read_json(path)
  spent = {'seconds': round(time.monotonic() - start, 1)}
  run = record.signature({**facts, **spent})
  run['versions'] |= versions
  record.write_json(path, {**content, 'run': run})


def figure(method, metric, value):
  return {'method': method, 'metric': metric, 'value': float(value)}


if __name__ == '__main__':
  main()
