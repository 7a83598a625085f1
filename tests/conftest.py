"""Eight fake CPU devices, of which a test uses one, and programs compiled once.

By the environment, so that the processes that tests start have the same.
"""

import os
import pathlib

_CACHE = pathlib.Path(__file__).parents[1] / 'build' / 'jax_cache'

# Before JAX is imported, which reads them once.
os.environ |= {
  'JAX_PLATFORMS': 'cpu',
  'JAX_NUM_CPU_DEVICES': '8',
  'TDA_DEVICES': '1',  # of eight on two cores; tests of devices set a mesh
  'NPROC': '32',  # threads: those of eight devices that wait for each other
  'JAX_COMPILATION_CACHE_DIR': str(_CACHE),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
}
# A test runs its program once or twice: most of the time would go into
# optimising it. `make test-all` tests the programs that users run.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
if os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] == '1':
  # The older way to write loops compiles a third faster. A jaxlib that does not
  # know it ends at once: then this line can go.
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')

import jax  # noqa: E402
import pytest  # noqa: E402

MOST_MAPPINGS = 30_000  # of memory, of the 65,530 that Linux gives a process


@pytest.fixture(autouse=True)
def _let_programs_go(request):
  """Frees compiled programs within a module whose slow tests compile too many."""
  yield
  slow = request.node.get_closest_marker('slow') is not None
  if slow and _mappings() > MOST_MAPPINGS:
    jax.clear_caches()


@pytest.fixture(scope='module', autouse=True)
def _let_programs_of_a_module_go():
  """Frees a module's compiled programs when its tests are done.

  Each takes a few memory mappings: a worker that kept those of every module was at
  64,966 by the end, or died.
  """
  yield
  jax.clear_caches()


def _mappings() -> int:
  """Memory mappings of this process; 0 where Linux does not tell."""
  try:
    return pathlib.Path('/proc/self/maps').read_bytes().count(b'\n')
  except OSError:
    return 0
