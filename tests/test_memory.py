"""Memory: what is free, what is refused, and a sentence where it ran out."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

import tda_jax as tda
from tda_jax import memory

T = tiny.classification()
ROWS = (T.problem, T.params, T.train, T.queries)


def files(root, **content):
  for name, text in content.items():
    path = root / name.replace('__', '/')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_least_of_machine_and_cgroup_is_free(tmp_path):
  assert memory.free(tmp_path) == float('inf')
  files(tmp_path, proc__meminfo='MemTotal: 9 kB\nMemAvailable:   4000 kB\n')
  assert memory.free(tmp_path) == 4000 * 1024
  group = tmp_path / 'sys/fs/cgroup'
  group.mkdir(parents=True)
  (group / 'memory.max').write_text('max\n')
  (group / 'memory.current').write_text('10\n')
  assert memory.free(tmp_path) == 4000 * 1024
  (group / 'memory.max').write_text('1000\n')
  assert memory.free(tmp_path) == 990
  old = group / 'memory'
  old.mkdir()
  (old / 'memory.limit_in_bytes').write_text('300')
  (old / 'memory.usage_in_bytes').write_text('100')
  assert memory.free(tmp_path) == 200
  assert 0 < memory.free() < 1e15  # of this machine


@pytest.mark.parametrize('inverse', [tda.exact, tda.dense, tda.ekfac, tda.kfac])
def test_an_inverse_asks_what_is_free(inverse, monkeypatch):
  jax.clear_caches()
  with pytest.raises(ValueError, match='above memory_limit=10 bytes: .*raise'):
    tda.attribute(tda.influence(inverse(0.1, memory_limit=10)), *ROWS)
  monkeypatch.setattr(memory, 'free', lambda: 20.0)
  with pytest.raises(ValueError, match='20 bytes of memory are free here'):
    tda.attribute(tda.influence(inverse(0.1)), *ROWS)


def test_the_largest_layer_is_named_and_can_be_left_out():
  """The cure of the sentence, as it is typed."""
  limit = 3 * 4 * (5**2 + 3**2) + 4 * 15 + 1  # of the second layer alone
  method = tda.influence(tda.ekfac(0.1, memory_limit=limit))
  with pytest.raises(ValueError, match=r"leave_out='layer0/w'"):
    tda.attribute(method, *ROWS)
  less = tda.classification(tiny.mlp_apply, leave_out=('layer0/w', 'layer0/b'))
  tda.attribute(method, less, *ROWS[1:])


@pytest.mark.parametrize(
  'error',
  [
    jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory allocating 4800000000 bytes.'
    ),
    MemoryError(),
  ],
)
def test_what_ran_out_is_said(error):
  with pytest.raises(
    ValueError, match='cg ran out of memory in prepare.*lower'
  ):
    with memory.explained('prepare', 'cg'):
      raise error


def test_other_errors_stay():
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    with memory.explained('prepare', 'cg'):
      raise jax.errors.JaxRuntimeError('INTERNAL: something else')


def test_a_plan_tells_what_the_stages_take():
  method = tda.influence(tda.exact(0.1))
  small = tda.plan(method, *ROWS)
  assert [stage.name for stage in small.stages] == ['prepare', 'score']
  assert small.fits and 'of memory are free' in str(small)
  many = jax.tree.map(lambda x: np.concatenate([x] * 20), T.train)
  large = tda.plan(method, T.problem, T.params, many, T.queries)
  gram = 4 * (20 * 11 * 3) ** 2
  assert gram < large.peak < 20 * gram and large.peak > 5 * small.peak


LIMITED = """
import resource
import jax, numpy as np
import tda_jax as tda
from tda_jax.models import mlp
jax.devices()
status = open('/proc/self/status').read().split('VmSize:')[1].split()[0]
limit = int(status) * 1024 + 2 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
x = np.random.default_rng(0).normal(size=(1600, 6)).astype('float32')
rows = {'x': x, 'y': np.arange(1600) % 10}
init, apply = mlp.mlp(widths=(8,), outputs=10, shape=(6,))
problem = tda.classification(apply, l2=1e-3)
method = tda.influence(tda.exact(0.01, memory_limit=1e12))
few = {k: v[:4] for k, v in rows.items()}
try:
  tda.attribute(method, problem, init(jax.random.key(0)), rows, few)
except ValueError as error:
  print('refused:', error)
"""


@pytest.mark.slow
def test_a_process_of_little_memory_gets_a_sentence():
  done = subprocess.run(
    [sys.executable, '-c', LIMITED], capture_output=True, text=True, timeout=300
  )
  assert done.stdout.startswith('refused: the Gram matrix'), done.stderr[-2000:]
