"""Devices divide the work and give the numbers of one; processes join."""

import functools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from methods import test_methods
from training import test_members

import tda_jax
from tda_jax import parallel, sources, trees
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import cg, descent, ekfac
from tda_jax.methods import influence
from tda_jax.methods import method as method_lib
from tda_jax.run import Run
from tda_jax.scoring import programs
from tda_jax.storage import fingerprint
from tda_jax.training import fit, members
from tda_jax.training.fit import Recipe

EIGHT = parallel.mesh(jax.devices())
METHODS = test_methods.METHODS
QUICK = ('ekfac', 'cg')


def on(devices, work):
  """What `work()` returns, on so many devices."""
  with jax.set_mesh(parallel.mesh(jax.devices()[:devices])):
    return work()


def test_a_mesh_has_all_devices_of_the_process(monkeypatch):
  assert parallel.devices() == 1
  monkeypatch.delenv('TDA_DEVICES')
  with parallel.all_devices():
    assert parallel.devices() == 8  # tests/conftest.py
  monkeypatch.setenv('TDA_DEVICES', '3')
  with parallel.all_devices():
    assert parallel.devices() == 3


def test_a_mesh_of_the_user_stays():
  other = jax.make_mesh((2,), ('model',), (jax.sharding.AxisType.Auto,))
  with jax.set_mesh(other), parallel.all_devices():
    assert parallel.devices() == 1
  with jax.set_mesh(parallel.mesh(jax.devices()[:2])), parallel.all_devices():
    assert parallel.devices() == 2


@pytest.mark.parametrize('given', ['0', 'all', '-1'])
def test_a_number_of_devices_that_is_none(monkeypatch, given):
  monkeypatch.setenv('TDA_DEVICES', given)
  with pytest.raises(
    ValueError, match=f'TDA_DEVICES={given!r}: give the number'
  ):
    with parallel.all_devices():
      pass


def test_a_copy_on_every_device():
  with jax.set_mesh(EIGHT):
    copy = parallel.replicate({'x': np.arange(3)})['x']
  assert len(copy.sharding.device_set) == 8 and copy.is_fully_replicated
  assert len(parallel.replicate(np.arange(3)).sharding.device_set) == 1


@pytest.mark.parametrize('n', [3, 8, 21, 64])
def test_passes_over_rows_are_divided(n):
  rows = {'x': np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)}
  sizes = []

  def passed():
    stack = rows_lib.stacked(rows, 4)

    def of_batch(batch):
      sizes.append((len(stack.mask), len(batch.mask)))
      assert parallel.devices() == 1  # its share is not divided again
      return jnp.sum(batch.mask[:, None] * batch.examples['x'], 0)

    doubled = lambda batch: 2 * batch.examples['x']
    return jax.jit(
      lambda: (
        rows_lib.total(of_batch, stack),
        rows_lib.each(doubled, rows, 4),
        stack.mask.sum(),
      )
    )()

  total, each, count = on(8, passed)
  np.testing.assert_allclose(total, rows['x'].sum(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(each, 2 * rows['x'])
  assert count == n
  # As many batches on each device, of no more rows than a device has to do.
  batches, size = sizes[0]
  assert batches % 8 == 0 and size == min(4, -(-n // 8))
  assert len(total.sharding.device_set) == 8


def test_matrices_are_dealt_each_to_one_device():
  asked = []

  def double(x):
    asked.append(len(x))
    return np.asarray(2 * x)

  def doubled(x):
    return jax.pure_callback(double, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

  stacks = {
    'a': np.arange(7.0, dtype=np.float32).reshape(7, 1, 1),
    'b': np.arange(4.0, dtype=np.float32).reshape(2, 2, 1, 1),
  }
  found = on(8, lambda: jax.jit(lambda x: parallel.dealt(doubled, x))(stacks))
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x, 2 * y), found, stacks
  )
  assert (
    sum(asked) == 12
  )  # 11, and one that fills up; not once for every device


def test_a_source_is_read_by_parts():
  """Those that the devices are at, and those that follow, ahead."""
  n, read_rows = 64, []
  values = np.arange(float(n), dtype=np.float32)

  def read(index):
    read_rows.append(np.array(index))
    return {'x': values[index]}

  source = sources.of_batches(read, n, 'by parts')
  read_rows.clear()

  def total():
    of_batch = lambda batch: jnp.sum(batch.examples['x'] * batch.mask)
    return jax.jit(
      lambda: rows_lib.total(of_batch, rows_lib.stacked(source, 2))
    )()

  assert on(8, total) == values.sum()
  # Each device reads its 4 batches, and all but the last one ahead of its part.
  starts = [int(index[0]) for index in read_rows]
  assert set(starts) == set(range(0, n, 2))
  assert len(starts) <= 4 * 8 + 7
  assert {len(index) for index in read_rows} == {2}


def test_a_batch_is_divided():
  batch = tiny.batch({'x': np.arange(11.0)})

  def parts():
    return jax.jit(lambda: rows_lib.divided(batch))()

  stack = on(8, parts)
  assert stack.mask.shape == (8, 2) and stack.mask.sum() == 11
  np.testing.assert_array_equal(stack.index.ravel()[:11], np.arange(11))
  np.testing.assert_array_equal(
    stack.examples['x'].ravel()[:11], np.arange(11.0)
  )


@pytest.mark.parametrize(
  'name',
  [
    n if n in QUICK else pytest.param(n, marks=pytest.mark.slow)
    for n in METHODS
  ],
)
def test_eight_devices_give_the_scores_of_one(name):
  t = tiny.classification()
  score = lambda: test_methods.attribute(name, t)
  want = score()
  np.testing.assert_allclose(on(8, score), want, atol=1e-5 * np.abs(want).max())


def test_arrays_that_are_bound_to_a_device_are_taken():
  t = tiny.classification()
  bound = lambda tree, number: jax.device_put(tree, jax.devices()[number])
  params = bound(t.params, 0)
  params['layer1'] = bound(t.params['layer1'], 2)
  given = (t.problem, params, bound(t.train, 1), t.queries)
  method = METHODS['ekfac']
  want = test_methods.attribute('ekfac', t)
  found = on(8, lambda: method_lib.attribute(method, *given))
  np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.parametrize('solver', ['astra', 'pcg'])
def test_eight_devices_draw_the_minibatches_of_one(solver):
  t = tiny.classification(n=24)
  inverse = {
    'astra': lambda: descent.astra(0.1, batch_size=12, tolerance=0.9),
    'pcg': lambda: cg.cg(0.1, precondition=ekfac.ekfac(0.1), tolerance=1e-4),
  }[solver]()

  def score():
    method = influence.influence(inverse)
    return method_lib.attribute(
      method, t.problem, t.params, t.train, t.queries, key=1
    )

  want = score()
  np.testing.assert_allclose(on(8, score), want, atol=1e-5 * np.abs(want).max())


def test_what_streams_is_the_same_on_eight_devices(tmp_path):
  t = tiny.classification()
  method = METHODS['grad_dot']
  given = (method, t.problem, t.params, t.train, t.queries)

  def results():
    folder = tmp_path / str(parallel.devices())
    streamed = np.asarray(
      tda_jax.score(*given, folder, batch_size=9, progress=False)
    )
    best = tda_jax.top_k(*given, 3, batch_size=10)
    own = tda_jax.self_influence(*given[:4])
    return streamed, *best, own

  for found, want in zip(on(8, results), results(), strict=True):
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize('count', [1, 3, 10])
def test_members_trained_on_eight_devices_are_those_of_one(count):
  rows = test_members.rows()
  recipe = test_members.recipe(batch_size=8)
  keys = jax.random.split(jax.random.key(1), count)

  def trained():
    return members.train(
      test_members.PROBLEM, recipe, rows, keys, checkpoints=2
    )

  found, want = on(8, trained), trained()
  assert len(found.params['w'].sharding.device_set) == 8
  test_members.near(found.params, want.params)
  test_members.near(found.checkpoints, want.checkpoints)


def test_training_goes_on_with_other_devices(tmp_path, monkeypatch):
  """Half of it on eight, half of it on one."""
  rows, recipe = test_members.rows(), test_members.recipe(epochs=4)
  keys = jax.random.split(jax.random.key(1), 8)
  train = lambda **more: members.train(
    test_members.PROBLEM, recipe, rows, keys, **more
  )
  whole = train()
  stopped = members._train_segment
  done = []

  def until_half(*args):
    if len(done) == 2:
      raise KeyboardInterrupt
    done.append(args)
    return stopped(*args)

  monkeypatch.setattr(members, '_train_segment', until_half)
  with pytest.raises(KeyboardInterrupt):
    on(8, lambda: train(directory=tmp_path, save_seconds=0))
  monkeypatch.setattr(members, '_train_segment', stopped)
  test_members.near(train(directory=tmp_path).params, whole.params)


def test_a_fingerprint_knows_no_devices():
  t, recipe = tiny.classification(), test_members.recipe()

  def hashes():
    fingerprint._of_problem.cache_clear()
    fingerprint._of_training.cache_clear()
    params = parallel.replicate(t.params)
    return (
      fingerprint.of_problem(t.problem, params, t.train),
      fingerprint.of_training(
        test_members.PROBLEM, recipe, 9, test_members.rows()
      ),
    )

  assert on(8, hashes) == hashes()


def flops(program, *args):
  analysis = program.lower(*args).compile().cost_analysis()
  return (analysis[0] if isinstance(analysis, list) else analysis)['flops']


def test_each_of_eight_devices_does_an_eighth():
  """FLOPs a device of fit, score and training, by XLA's count."""
  n, q = 1024, 4
  t = tiny.classification(n=n, q=q, widths=(16, 32, 4))
  method = influence.influence(ekfac.ekfac(0.1, batch_size=n))
  recipe = Recipe(
    lambda key: tiny.mlp_init((16, 32, 4), key),
    lambda steps: optax.sgd(0.1),
    lambda steps: optax.constant_schedule(0.1),
    batch_size=n,
    epochs=1,
  )
  key = jax.random.key(0)

  def counted():
    run, train, queries = parallel.replicate(
      (Run(t.params), t.train, t.queries)
    )
    given = (method, t.problem, run)
    prepared = programs.prepare(*given, train, queries, key)
    batch = parallel.replicate(rows_lib.whole(train))
    counts = [
      flops(programs.prepare, *given, train, queries, key),
      flops(programs.score, *given, prepared, batch),
    ]
    for count in (1, 8):
      stack = fit.Member(jax.random.split(key, count))
      state = members.start(recipe, n, stack.key)
      program = functools.partial(
        members.train_steps.lower, t.problem, recipe, train, stack, state
      )
      compiled = program(epoch=0, first=0, last=1).compile()
      counts.append(compiled.cost_analysis()['flops'])
    return np.array(counts)

  assert (on(1, counted) / on(8, counted) >= 7).all()


GRID = parallel.mesh(jax.devices(), model=2)  # four shares, of two devices each


def wide():
  """A problem with matrices that are large enough to be divided.

  Rows are more than entries of a factor, and the damping is 1: else factors have
  eigenvalues near 0, whose eigenvectors are those of rounding errors.
  """
  return tiny.classification(n=256, q=4, widths=(5, 128, 128, 3))


def over_model(tree):
  """Names of the arrays of a tree that are divided over `model`."""
  leaves = jax.tree.leaves(tree)
  names = trees.names(tree)
  specs = [getattr(leaf.sharding, 'spec', ()) for leaf in leaves]
  return [n for n, s in zip(names, specs, strict=True) if 'model' in s]


@pytest.mark.parametrize('rule', [None, 'rows'])
def test_parameters_over_the_axis_model_give_the_scores_of_one(rule):
  t = wide()
  specs = None
  if rule == 'rows':  # of every matrix whose number of them is even
    even = lambda x: x.ndim == 2 and x.shape[0] % 2 == 0
    specs = jax.tree.map(
      lambda x: jax.sharding.PartitionSpec('model' if even(x) else None),
      t.params,
    )
  method = influence.influence(ekfac.ekfac(1.0, batch_size=64))

  def score(params):
    return method_lib.attribute(
      method, t.problem, params, t.train, t.queries, key=1, batch_size=256
    )

  want = score(t.params)
  with jax.set_mesh(GRID):
    assert parallel.devices() == 4 and parallel.parts() == 2
    params = parallel.placed(t.params, specs)
    found = score(params)
  divided = ['layer1/w'] if rule is None else ['layer1/w', 'layer2/w']
  assert over_model(params) == divided
  np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


def test_factors_and_queries_are_divided_over_the_axis_model():
  t = wide()
  method = influence.influence(ekfac.ekfac(1.0, batch_size=64))
  with jax.set_mesh(GRID):
    params = parallel.placed(t.params)
    run, train, queries = parallel.replicate((Run(params), t.train, t.queries))
    prepared = programs.prepare(
      method, t.problem, run, train, queries, jax.random.key(1)
    )
  assert over_model(run) == ['params/layer1/w']
  state = {n: (block, x) for n, (block, x) in prepared.state.items()}
  # Of layer 1: Q_S [128, 128], Λ [129, 128], queries [4, 129, 128].
  found = over_model(state['layer1/w'])
  assert len(found) == 3, found


def test_a_number_of_parts_that_does_not_divide_the_devices():
  with pytest.raises(ValueError, match='model=3 does not divide 8 devices'):
    parallel.mesh(jax.devices(), model=3)


def test_a_mesh_over_several_hosts_is_refused_by_verbs(monkeypatch):
  monkeypatch.setattr('jax.process_index', lambda: 1)  # all devices are of 0
  with jax.set_mesh(GRID), pytest.raises(ValueError, match='of other hosts'):
    tda_jax.attribute(tda_jax.grad_dot(), *wide())


def test_start_alone_does_nothing(monkeypatch):
  for name in ('TDA_NUM_PROCESSES', 'TDA_DISTRIBUTED'):
    monkeypatch.delenv(name, raising=False)
  parallel.start()
  monkeypatch.setenv('TDA_NUM_PROCESSES', '1')
  monkeypatch.setenv('TDA_DISTRIBUTED', '0')
  parallel.start()
  assert jax.process_count() == 1


def test_start_without_a_coordinator(monkeypatch):
  monkeypatch.setenv('TDA_NUM_PROCESSES', '2')
  monkeypatch.setenv('TDA_PROCESS_ID', '0')
  monkeypatch.delenv('TDA_COORDINATOR', raising=False)
  with pytest.raises(ValueError, match='2 but TDA_COORDINATOR is not set'):
    parallel.start()


def test_start_leaves_the_search_to_jax(monkeypatch):
  calls = []
  record = lambda **arguments: calls.append(arguments)
  monkeypatch.setattr(jax.distributed, 'initialize', record)
  monkeypatch.delenv('TDA_NUM_PROCESSES', raising=False)
  monkeypatch.setenv('TDA_DISTRIBUTED', '1')
  parallel.start()
  assert calls == [{}]


POD = """
import jax, numpy as np
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
from tda_jax import parallel
parallel.start()
with jax.set_mesh(parallel.mesh(jax.devices())):
  square_sum = lambda x: parallel.summed(lambda part: (part**2).sum(), x)
  total = float(jax.jit(square_sum)(np.arange(8.0)))
print(jax.process_count(), jax.device_count(), total)
"""


def test_two_processes_join():
  """A sum over rows held by both processes."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  root = pathlib.Path(__file__).parents[1]
  pod = [
    subprocess.Popen(
      [sys.executable, '-c', POD],
      cwd=root,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      env={
        **os.environ,
        'TDA_NUM_PROCESSES': '2',
        'TDA_PROCESS_ID': str(i),
        'TDA_COORDINATOR': address,
      },
    )
    for i in range(2)
  ]
  try:
    said = [process.communicate(timeout=120) for process in pod]
  finally:
    for process in pod:
      process.kill()
  # Gloo greets on stdout first.
  last = [out.splitlines()[-1:] for out, _ in said]
  assert last == [['2 4 140.0']] * 2, said
