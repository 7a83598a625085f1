"""Several hosts, as processes on this machine: same numbers, shared work, kills."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from fake_hosts import ROOT, assert_same, finished, kill_one, pod

from tda_jax import parallel
from tda_jax.storage import files

ATTRIBUTE = (
  *(sys.executable, '-m', 'experiments.attribute'),
  *('--config=configs/astra/digits.py:smoke', '--config.method=grad_dot,trak'),
  '--config.batch_size=16',
)


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


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_results_of_all_shares_come_to_each_host_in_order(monkeypatch, count):
  work = lambda number: {'a': np.full((2, 3), number), 'b': np.float32(-number)}
  hosts, sent = range(3), {host: [] for host in range(3)}

  def on_host(host, gather):
    monkeypatch.setattr('jax.process_index', lambda: host)
    monkeypatch.setattr(parallel.multihost_utils, 'process_allgather', gather)
    return parallel.by_share(work, count)

  monkeypatch.setattr('jax.process_count', lambda: 3)
  zeros = lambda piece: jax.tree.map(lambda x: np.zeros((3, *x.shape)), piece)
  for host in hosts:
    on_host(host, lambda one, host=host: sent[host].append(one) or zeros(one))
  assert len({len(pieces) for pieces in sent.values()}) == 1  # all wait for all
  for host in hosts:
    pieces = iter(zip(*sent.values(), strict=True))
    gather = lambda _, pieces=pieces: jax.tree.map(
      lambda *x: np.stack(x), *next(pieces)
    )
    results = on_host(host, gather)
    assert [result['b'] for result in results] == [-n for n in range(count)]
    for number, result in enumerate(results):
      np.testing.assert_array_equal(result['a'], work(number)['a'])


@pytest.mark.slow
def test_two_hosts_give_what_one_process_gives(tmp_path):
  alone = tmp_path / 'alone'
  subprocess.run(
    [*ATTRIBUTE, f'--workdir={alone}'], cwd=ROOT, check=True,
    stderr=subprocess.DEVNULL,
  )  # fmt: skip
  finished(tmp_path / 'logs', *ATTRIBUTE, f'--workdir={tmp_path / "two"}')
  assert_same(tmp_path / 'two', alone)
  # Where one host began, two go on: nothing is computed again.
  finished(tmp_path / 'more', *ATTRIBUTE, f'--workdir={alone}')
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
    queries_at_once=4, fits=sys.argv[1] + '_fits', progress=False,
  )
  assert scores.shape == (1, N, 7)
print('counted', count[0])
"""


def counted(folder, code, name, processes):
  """Runs a program on hosts, with `folder`/`name`; what each host has counted."""
  script = folder / 'program.py'
  script.write_text(code)
  logs = folder / 'logs' / name
  command = (sys.executable, str(script), str(folder / name))
  status = pod(logs, *command, processes=processes).wait(300)
  texts = [(logs / f'{host}.log').read_text() for host in range(processes)]
  assert status == 0, texts[0][-2000:]
  return [int(text.split('counted ')[-1]) for text in texts]


@pytest.mark.slow
def test_a_fit_is_divided_among_hosts(tmp_path):
  """Rows that each host reads: of two passes of the fit, and of the scores."""
  (alone,) = counted(tmp_path, DIVIDED, 'alone', 1)
  both = counted(tmp_path, DIVIDED, 'two', 2)
  assert_same(tmp_path / 'two', tmp_path / 'alone')
  # A few rows are read ahead of each device's part, and left.
  assert alone >= 4 * 512 and max(both) <= 0.56 * alone


TRAINED = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from tda_jax import parallel
parallel.start()
import tda_jax as tda
from tda_jax.training import members

MEMBERS = 5
rng = np.random.default_rng(0)
rows = {'x': rng.normal(size=(32, 4)).astype('f4'), 'y': rng.integers(0, 3, 32)}
problem = tda.classification(lambda p, x: jnp.tanh(x @ p['a']) @ p['b'])

def init(key):
  a, b = jax.random.split(key)
  return {'a': jax.random.normal(a, (4, 8)), 'b': jax.random.normal(b, (8, 3))}

rate = lambda steps: optax.linear_schedule(0.1, 0.0, steps)
recipe = tda.Recipe(init, lambda steps: optax.adam(rate(steps)), rate, 8, 40)
subsets = np.stack([rng.permutation(32)[:24] for _ in range(MEMBERS)])
steps, count = members.train_steps, [0]

def train_steps(problem, recipe, rows, stack, *args, **when):
  count[0] += len(stack.key) * (when['last'] - when['first'])
  return steps(problem, recipe, rows, stack, *args, **when)

members.train_steps = train_steps
with parallel.together():
  run = tda.train(
    problem, recipe, rows, jax.random.split(jax.random.key(1), MEMBERS),
    subsets=subsets, checkpoints=3, directory=sys.argv[1], save_seconds=0,
  )
  leaves = jax.tree.leaves((run.params, run.checkpoints, run.second_moments))
  np.savez(f'{sys.argv[1]}_{jax.process_index()}.npz', *leaves)
print('counted', count[0])
"""


def assert_same_files(folder, name, other, processes):
  """What each process has written as `name` is what another's has as `other`."""
  want = np.load(folder / f'{other}_0.npz')
  for process in range(processes):
    found = np.load(folder / f'{name}_{process}.npz')
    assert found.files == want.files
    for leaf in want.files:
      np.testing.assert_allclose(found[leaf], want[leaf], 1e-5, 1e-6)


@pytest.mark.slow
def test_training_is_divided_among_hosts(tmp_path):
  """Members times steps that each host trains: 5 members, 40 epochs of 3 steps."""
  assert counted(tmp_path, TRAINED, 'alone', 1) == [5 * 120]
  assert counted(tmp_path, TRAINED, 'two', 2) == [2 * 120, 3 * 120]
  assert_same_files(tmp_path, 'two', 'alone', 2)
  # All is there: on fewer or more hosts nothing is trained again.
  for processes in (1, 3):
    assert counted(tmp_path, TRAINED, 'two', processes) == [0] * processes
    assert_same_files(tmp_path, 'two', 'alone', processes)


RETRAINED = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from tda_jax import parallel
parallel.start()
import tda_jax as tda
from tda_jax.evaluation import retraining
from tda_jax.training import members

rng = np.random.default_rng(0)
rows = {'x': rng.normal(size=(32, 4)).astype('f4'), 'y': rng.integers(0, 3, 32)}
queries = jax.tree.map(lambda column: column[:5], rows)
problem = tda.classification(lambda p, x: jnp.tanh(x @ p['a']) @ p['b'])

def init(key):
  a, b = jax.random.split(key)
  return {'a': jax.random.normal(a, (4, 8)), 'b': jax.random.normal(b, (8, 3))}

rate = lambda steps: optax.linear_schedule(0.1, 0.0, steps)
recipe = tda.Recipe(init, lambda steps: optax.adam(rate(steps)), rate, 8, 4)
subsets = np.stack([rng.permutation(32)[:16] for _ in range(6)])
steps, counts = members.train_steps, []

def train_steps(problem, recipe, rows, stack, *args, **when):
  counts.append(len(stack.key) * (when['last'] - when['first']))
  return steps(problem, recipe, rows, stack, *args, **when)

members.train_steps = train_steps
with parallel.together():
  outcomes = retraining.outcomes(
    problem, recipe, rows, queries, subsets, repeats=2, key=jax.random.key(1),
    path=sys.argv[1], members_at_once=2, progress=False,
  )
  np.savez(f'{sys.argv[1]}_{jax.process_index()}.npz', outcomes)
print('counted', sum(counts))
"""


@pytest.mark.slow
def test_retraining_is_divided_among_hosts(tmp_path):
  """Models times steps that each host trains: 12 models, 4 epochs of 2 steps."""
  assert counted(tmp_path, RETRAINED, 'alone', 1) == [12 * 8]
  assert counted(tmp_path, RETRAINED, 'two', 2) == [6 * 8, 6 * 8]
  assert_same_files(tmp_path, 'two', 'alone', 2)
  assert counted(tmp_path, RETRAINED, 'two', 1) == [0]


IN_MEMORY = """
import sys, warnings
import jax, jax.numpy as jnp, numpy as np
from tda_jax import parallel
parallel.start()
import tda_jax as tda
from tda_jax.data import rows as rows_lib

N = 90  # 12 batches of 8; the last has 2 rows
rng = np.random.default_rng(0)
rows = {'x': rng.normal(size=(N, 4)).astype('f4'), 'y': rng.integers(0, 3, N)}
queries = jax.tree.map(lambda column: column[:5], rows)
problem = tda.classification(lambda p, x: jnp.tanh(x @ p['a']) @ p['b'])
keys = jax.random.split(jax.random.key(0))
params = {'a': jax.random.normal(keys[0], (4, 8)), 'b': jax.random.normal(keys[1], (8, 3))}
batches, count = rows_lib.batches, [0]

def counted(*args):
  for batch in batches(*args):
    count[0] += int(batch.mask.sum())
    yield batch

rows_lib.batches = counted
cg = tda.influence(tda.cg(0.1))
given = (cg, problem, params, rows)
few = {'queries_at_once': 3, 'batch_size': 8}
short = tda.influence(tda.cg(0.1, max_steps=2))
with parallel.together():
  results = [
    tda.attribute(*given, queries, batch_size=8),
    *tda.top_k(*given, queries, 4, batch_size=8),
    *tda.top_k(tda.influence(tda.ekfac(0.1)), *given[1:], queries, 4, **few),
    *tda.top_k(*given, queries, 4, path=sys.argv[1] + '_top', **few),
    tda.self_influence(*given, batch_size=8),
    tda.self_influence(tda.grad_dot(), *given[1:]),
  ]
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always', tda.door.NotConverged)
    tda.self_influence(short, *given[1:], batch_size=8)
  said = ''.join(str(one.message) for one in said if 'tolerance' in str(one.message))
  results.append(np.frombuffer(said.split(' (')[0].encode(), 'u1'))
  np.savez(f'{sys.argv[1]}_{jax.process_index()}.npz', *results)
print('counted', count[0])
"""


@pytest.mark.slow
def test_scores_in_memory_are_divided_among_hosts(tmp_path):
  """Rows that each host scores, in eight passes over the 90 rows."""
  assert counted(tmp_path, IN_MEMORY, 'alone', 1) == [8 * 90]
  both = counted(tmp_path, IN_MEMORY, 'two', 2)
  # Halves of the rows in five; in three, blocks of 8, the last of which has 2.
  assert both == [5 * 45 + 3 * 48, 5 * 45 + 3 * 42]
  assert_same_files(tmp_path, 'two', 'alone', 2)
  # The strongest that two have kept are there for three.
  three = counted(tmp_path, IN_MEMORY, 'two', 3)
  assert sum(three) == 6 * 90
  assert_same_files(tmp_path, 'two', 'alone', 3)


@pytest.mark.slow
def test_training_that_was_killed_goes_on_with_other_hosts(tmp_path):
  counted(tmp_path, TRAINED, 'alone', 1)
  state = tmp_path / 'killed' / 'state'
  script = str(tmp_path / 'program.py')
  hosts = pod(tmp_path / 'logs', sys.executable, script, str(state.parent))
  for _ in range(12000):
    if all(any(state.glob(f'part_{p}_of_2/step_*[0-9]')) for p in (0, 1)):
      break
    time.sleep(0.01)
  assert hosts.poll() is None
  os.killpg(hosts.pid, signal.SIGKILL)
  hosts.wait(60)
  assert not (state / 'complete').exists()
  shutil.copytree(tmp_path / 'killed', tmp_path / 'again')
  for name, processes in (('killed', 1), ('again', 3)):
    steps = counted(tmp_path, TRAINED, name, processes)
    assert 0 < sum(steps) < 5 * 120  # one part of two may have been done
    assert_same_files(tmp_path, name, 'alone', processes)


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_host_ends_the_other_and_one_goes_on(victim, tmp_path):
  logs, workdir = tmp_path / 'logs', tmp_path / 'w'
  begun = (workdir / 'train' / 'state').exists
  kill_one(logs, *ATTRIBUTE, f'--workdir={workdir}', begun=begun, victim=victim)
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
