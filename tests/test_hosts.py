"""Several hosts, as processes on this machine: same numbers, shared work, kills."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tda_jax import parallel
from tda_jax.storage import files, scores

ROOT = pathlib.Path(__file__).parents[1]
ATTRIBUTE = (
  *(sys.executable, '-m', 'experiments.attribute'),
  *('--config=configs/astra/digits.py:smoke', '--config.method=grad_dot'),
  '--config.batch_size=16',
)


def pod(logs, *command, processes=2):
  """Starts a pod of fake hosts; its processes are one group."""
  script = ROOT / 'scripts' / 'fake_pod.sh'
  return subprocess.Popen(
    [script, str(processes), '2', *command],
    cwd=ROOT,
    # All devices of a host: those of tests use one.
    env={
      **os.environ,
      'LOGS': str(logs),
      'TDA_DEVICES': '99',
      'PYTHONPATH': str(ROOT),
    },
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )


def stored(workdir):
  """Name of every store in the workdir -> its values."""
  stores = {
    str(file.parent.relative_to(workdir)): scores.read(scores.open(file.parent))
    for file in workdir.rglob('zarr.json')
  }
  assert stores
  return stores


def assert_same(workdir, other):
  found, want = stored(workdir), stored(other)
  assert found.keys() == want.keys()
  for name in want:
    size = np.abs(want[name]).max()
    np.testing.assert_allclose(found[name], want[name], 1e-4, 1e-6 * size)


def test_hosts_share_the_pieces_and_the_first_owns_the_rest(
  monkeypatch, tmp_path
):
  numbers, shares = np.array([0, 1, 3, 4, 7]), []
  for host in range(3):
    monkeypatch.setattr('jax.process_index', lambda host=host: host)
    monkeypatch.setattr('jax.process_count', lambda: 3)
    shares.append(parallel.share(numbers).tolist())
    files.write(tmp_path / f'{host}', b'a')
    files.write(tmp_path / f'all{host}', b'a', by_all=True)
  assert shares == [[0, 3], [1, 4, 7], []]
  there = sorted(path.name for path in tmp_path.iterdir())
  assert there == ['0', 'all0', 'all1', 'all2']


@pytest.mark.slow
def test_two_hosts_give_what_one_process_gives(tmp_path):
  alone = tmp_path / 'alone'
  subprocess.run(
    [*ATTRIBUTE, f'--workdir={alone}'], cwd=ROOT, check=True,
    stderr=subprocess.DEVNULL,
  )  # fmt: skip
  both = pod(tmp_path / 'logs', *ATTRIBUTE, f'--workdir={tmp_path / "two"}')
  assert both.wait(300) == 0, (tmp_path / 'logs' / '0.log').read_text()[-2000:]
  assert_same(tmp_path / 'two', alone)
  # Where one host began, two go on: nothing is computed again.
  again = pod(tmp_path / 'more', *ATTRIBUTE, f'--workdir={alone}')
  assert again.wait(300) == 0
  assert_same(alone, tmp_path / 'two')


DIVIDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from tda_jax import parallel, sources
parallel.start()
import tda_jax as tda

N = 512
rng = np.random.default_rng(0)
columns = {'x': rng.normal(size=(N, 5)).astype('f4'), 'y': rng.integers(0, 3, N)}
count = [0]

def read(index):
  if len(index) < N // 4:  # the door looks at larger blocks
    count[0] += len(index)
  return jax.tree.map(lambda column: column[index], columns)

keys = jax.random.split(jax.random.key(0))
params = {'a': jax.random.normal(keys[0], (5, 8)), 'b': jax.random.normal(keys[1], (8, 3))}
problem = tda.classification(lambda p, x: jnp.tanh(x @ p['a']) @ p['b'])
queries = jax.tree.map(lambda column: column[:7], columns)
with parallel.together():
  scores = tda.score(
    tda.influence(tda.ekfac(0.1, batch_size=8)), problem, params,
    sources.of_batches(read, N, 'rows'), queries, sys.argv[1], batch_size=64,
    queries_at_once=4, fits=sys.argv[2], progress=False,
  )
  assert scores.shape == (1, N, 7)
print('rows', count[0])
"""


@pytest.mark.slow
def test_a_fit_is_divided_among_hosts(tmp_path):
  """Rows that each host reads: of two passes of the fit, and of the scores."""
  script = tmp_path / 'program.py'
  script.write_text(DIVIDED)

  def run(name, processes):
    given = (tmp_path / name, tmp_path / f'{name}_fits')
    command = [sys.executable, str(script), *map(str, given)]
    hosts = pod(tmp_path / 'logs' / name, *command, processes=processes)
    status = hosts.wait(300)
    logs = (tmp_path / 'logs' / name).glob('*.log')
    texts = [log.read_text() for log in sorted(logs)]
    assert status == 0, texts[0][-2000:]
    return [int(text.split('rows ')[-1]) for text in texts]

  (alone,), both = run('alone', 1), run('two', 2)
  assert_same(tmp_path / 'two', tmp_path / 'alone')
  # A few rows are read ahead of each device's part, and left.
  assert alone >= 4 * 512 and max(both) <= 0.56 * alone


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_host_ends_the_other_and_one_goes_on(victim, tmp_path):
  logs, workdir = tmp_path / 'logs', tmp_path / 'w'
  both = pod(logs, *ATTRIBUTE, f'--workdir={workdir}')
  for _ in range(1200):
    if (workdir / 'train' / 'state').exists():
      break
    time.sleep(0.1)
  assert both.poll() is None
  children = subprocess.run(
    ['pgrep', '-P', str(both.pid), '-f', 'experiments.attribute'],
    capture_output=True, text=True,
  ).stdout.split()  # fmt: skip
  os.kill(int(children[victim]), signal.SIGKILL)
  killed = time.monotonic()
  assert both.wait(60) != 0 and time.monotonic() - killed < 30
  text = (logs / f'{1 - victim}.log').read_text()
  if victim:
    assert f'error: process {victim} of 2 has ended' in text
    assert 'run the same command again' in text
  else:  # JAX's own words
    assert 'another task died' in text or 'tasks have crashed' in text
  subprocess.run(
    [*ATTRIBUTE, f'--workdir={workdir}'], cwd=ROOT, check=True,
    stderr=subprocess.DEVNULL,
  )  # fmt: skip
  subprocess.run(
    [*ATTRIBUTE, f'--workdir={tmp_path / "alone"}'], cwd=ROOT, check=True,
    stderr=subprocess.DEVNULL,
  )  # fmt: skip
  assert_same(workdir, tmp_path / 'alone')


@pytest.mark.slow
def test_a_sentence_of_one_host_ends_all(tmp_path):
  command = [*ATTRIBUTE, '--config.members=0', f'--workdir={tmp_path / "w"}']
  both = pod(tmp_path / 'logs', *command)
  assert both.wait(120) != 0
  for host in range(2):
    assert 'members=0' in (tmp_path / 'logs' / f'{host}.log').read_text()


@pytest.mark.slow
def test_a_host_that_is_done_learns_that_another_fails(tmp_path):
  script = tmp_path / 'program.py'
  script.write_text(
    'import time\nfrom tda_jax import parallel\nparallel.start()\n'
    'with parallel.together():\n  if not parallel.owner():\n'
    '    time.sleep(6)\n    raise OSError("late")\n'
  )
  both = pod(tmp_path / 'logs', sys.executable, str(script))
  begun = time.monotonic()
  assert both.wait(90) != 0 and time.monotonic() - begun < 60
  text = (tmp_path / 'logs' / '0.log').read_text()
  assert 'error: process 1 of 2 has ended (OSError: late)' in text
