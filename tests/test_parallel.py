import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tda_jax import parallel

BATCH = {'x': np.arange(32.0).reshape(16, 2), 'y': np.arange(16)}


def rows_of(array):
  """Which rows each device holds."""
  return [
    list(range(*shard.index[0].indices(array.shape[0])))
    for shard in sorted(array.addressable_shards, key=lambda s: s.device.id)
  ]


def test_mesh_has_all_devices():
  assert jax.device_count() == 8  # tests/conftest.py
  assert parallel.mesh().shape == {'member': 1, 'data': 8}
  mesh = parallel.mesh(members=4)
  assert mesh.shape == {'member': 4, 'data': 2}
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize('members', [3, 0, 16])
def test_mesh_of_unequal_groups(members):
  with pytest.raises(
    ValueError, match=f'8 devices cannot form {members} equal'
  ):
    parallel.mesh(members)


def test_shard_spreads_rows_over_data():
  placed = parallel.shard(BATCH, parallel.mesh())
  assert rows_of(placed['x']) == [[2 * i, 2 * i + 1] for i in range(8)]
  np.testing.assert_array_equal(placed['y'], BATCH['y'])
  # Members hold the same rows.
  placed = parallel.shard(BATCH, parallel.mesh(members=4))
  assert rows_of(placed['y']) == [list(range(8)), list(range(8, 16))] * 4


def test_shard_members_and_replicate():
  mesh = parallel.mesh(members=4)
  keys = parallel.shard_members(jax.random.split(jax.random.key(0), 4), mesh)
  assert rows_of(keys) == [[e] for e in (0, 0, 1, 1, 2, 2, 3, 3)]
  copies = parallel.replicate(BATCH, mesh)
  assert rows_of(copies['y']) == [list(range(16))] * 8


def test_rows_that_do_not_divide():
  batch = {'x': np.zeros((12, 2))}
  with pytest.raises(ValueError, match=r"leaf 'x' of shape \(12, 2\) .* 8 dev"):
    parallel.shard(batch, parallel.mesh())
  with pytest.raises(ValueError, match=r"shape \(\) .* mesh axis 'data'"):
    parallel.shard({'l2': 0.1}, parallel.mesh())
  with pytest.raises(ValueError, match="4 devices of mesh axis 'member'"):
    parallel.shard_members(np.zeros(6), parallel.mesh(members=4))


def test_members_and_rows_sharded_equal_one_device():
  def losses(weights, x):
    return jnp.mean(jnp.tanh(x @ weights) ** 2)

  program = jax.jit(jax.vmap(losses, (0, None)))
  weights = jax.random.normal(jax.random.key(0), (4, 2))
  mesh = parallel.mesh(members=4)
  spread = program(
    parallel.shard_members(weights, mesh), parallel.shard(BATCH['x'], mesh)
  )
  np.testing.assert_allclose(spread, program(weights, BATCH['x']), rtol=1e-6)
  assert rows_of(spread) == [[e] for e in (0, 0, 1, 1, 2, 2, 3, 3)]


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
x = parallel.shard(np.arange(8.0), parallel.mesh(members=2))
print(jax.process_count(), jax.device_count(), float(jax.jit(lambda x: (x**2).sum())(x)))
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
