"""The launchers as people call them, in processes of their own."""

import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from configs.astra import digits
from experiments import attribute
from tda_jax.report import verdicts
from tda_jax.storage import scores

ROOT = pathlib.Path(__file__).parents[2]
SMOKE = 'configs/astra/digits.py:smoke'


def command(experiment, config, workdir, *flags):
  return [
      sys.executable, '-m', f'experiments.{experiment}', f'--config={config}',
      f'--workdir={workdir}', *flags,
  ]  # fmt: skip


def run(experiment, config, workdir, *flags, ok=True):
  done = subprocess.run(
      command(experiment, config, workdir, *flags),
      cwd=ROOT, env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
      capture_output=True, text=True, timeout=400,
  )  # fmt: skip
  assert (done.returncode == 0) == ok, done.stderr[-3000:]
  return done


def sentence(done):
  """The one sentence that bad input is answered with."""
  lines = [s for s in done.stderr.splitlines() if s.startswith('error: ')]
  assert done.returncode == 1 and len(lines) == 1, done.stderr[-3000:]
  # No traceback of ours; orbax's threads may end with one of their own.
  assert f'{ROOT}/tda_jax' not in done.stderr
  assert f'{ROOT}/experiments' not in done.stderr
  return lines[0]


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  """A finished smoke run: (workdir, process)."""
  workdir = tmp_path_factory.mktemp('smoke')
  return workdir, run('astra', SMOKE, workdir)


def test_astra_smoke_writes_everything(smoke):
  workdir, done = smoke
  results = json.loads((workdir / 'results.json').read_text())
  assert results['experiment'] == 'astra' and results['setting'] == 'digits'
  fields = {
      'method', 'metric', 'value', 'low', 'high', 'n', 'seconds', 'peak_mb',
  }  # fmt: skip
  assert all(set(row) == fields for row in results['rows'])
  methods = {row['method'] for row in results['rows']}
  assert {'exact', 'cg', 'astra', 'ekfac', 'grad_dot'} <= methods
  assert results['claims'] and all(
    c['verdict'] in verdicts.VERDICTS
    and c['holds'] == (c['verdict'] == 'holds')
    for c in results['claims']
  )
  facts = json.loads((workdir / 'run.json').read_text())
  assert facts['config']['members'] == 2 and facts['jax']
  page = (workdir / 'report.html').read_text()
  assert 'data:image/png;base64,' in page
  assert 'src="http' not in page and 'href="http' not in page
  assert 'lds_ensemble' in done.stdout


def test_a_second_run_computes_nothing_and_says_the_same(smoke):
  workdir, _ = smoke
  before = json.loads((workdir / 'results.json').read_text())
  stamps = {p: p.stat().st_mtime_ns for p in workdir.glob('scores/**/c/**/*')}
  run('astra', SMOKE, workdir)
  after = json.loads((workdir / 'results.json').read_text())
  for old, new in zip(before['rows'], after['rows'], strict=True):
    assert (old['method'], old['metric']) == (new['method'], new['metric'])
    assert old['value'] == pytest.approx(new['value'], abs=1e-9)
  assert stamps and all(p.stat().st_mtime_ns == t for p, t in stamps.items())


BAD = {
  'unknown_method': (
    {'method': 'nope'},
    "unknown method 'nope': this config has",
  ),
  'damping': (
    {'methods.exact.damping': '0.0', 'method': 'exact'},
    'damping=0.0 leaves a singular curvature',
  ),
  'gram_memory': (
    {'method': 'exact', 'methods.exact.memory_limit': 1e3},
    'Hessians of 128 rows x 10 x 10 outputs, with their roots, needs',
  ),
  'too_many_rows': (
    {'data.train': 5000},
    'cannot split 1797 rows',
  ),
  'no_queries': (
    {'data.queries': 0},
    'data.queries=0: give a whole number from 1',
  ),
  'another_config': (
    {'training.learning_rate': 0.2},
    'training.learning_rate is 0.05 there and 0.2 now',
  ),
  'unknown_schedule': (
    {'training.schedule': 'cosine'},
    "training.schedule='cosine': give one of",
  ),
  'unknown_task': (
    {'task': 'nowhere:nothing'},
    "task='nowhere:nothing' names no function",
  ),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_gets_one_sentence_and_loses_nothing(smoke, name, tmp_path):
  workdir = tmp_path / 'copy'
  if name != 'unknown_schedule':  # the record of a trained stage comes first
    ignore = (
      None if name == 'another_config' else shutil.ignore_patterns('scores')
    )
    shutil.copytree(smoke[0], workdir, ignore=ignore)
  before = contents(workdir)
  changes, message = BAD[name]
  if name == 'gram_memory':  # the launcher is the same for all
    flags = [f'--config.{key}={value}' for key, value in changes.items()]
    done = run('attribute', SMOKE, workdir, *flags, ok=False)
    assert message in sentence(done)
    # What the workdir was made with stays; the time of the failure counts.
    file = workdir / 'run.json'
    was, now = json.loads(before.pop(file)), json.loads(file.read_text())
    assert now.pop('seconds') > was.pop('seconds')
    assert now.pop('checksum') != was.pop('checksum') and now == was
    before.pop(workdir / 'spent.json')
  else:
    config = digits.get_config('smoke')
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError) as error:
      attribute.main(config, workdir)
    assert message in str(error.value)
  after = contents(workdir)
  assert all(after[path] == content for path, content in before.items())


def test_a_damaged_record_is_said_to_be_and_stays(tmp_path):
  (tmp_path / 'run.json').write_text('{"seconds": 1')
  done = run('attribute', SMOKE, tmp_path, ok=False)
  assert 'run.json' in sentence(done)
  assert (tmp_path / 'run.json').read_text() == '{"seconds": 1'


def contents(folder):
  """Every file's bytes, but for the time at which a stage was completed."""
  return {
    p: p.read_bytes()
    for p in folder.rglob('*')
    if p.is_file() and p.name != 'complete'
  }


def own_task(folder, body):
  """A user's own task, importable from the working directory's path."""
  (folder / f'{folder.name}.py').write_text(body)
  file = folder / 'config.py'
  file.write_text(
    'import sys\n'
    f'sys.path.insert(0, {str(folder)!r})\n'
    'from configs.astra import digits\n'
    'def get_config(arg=None):\n'
    "  c = digits.get_config('smoke')\n"
    f"  c.task = '{folder.name}:task'\n"
    "  c.methods = {'grad_dot': {'kind': 'grad_dot'}}\n"
    '  c.choose = {}\n'
    '  return c\n'
  )
  return file


OWN = """
import numpy as np
import jax
import optax
from tda_jax import problem
from tda_jax.training.fit import Recipe

def task(config):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(40, 5)).astype('float32')
  y = (x[:, 0] > 0).astype('int32')
  rows = {'x': x, 'y': y}
  init = lambda key: {'w': 0.1 * jax.random.normal(key, (5, 2))}
  recipe = Recipe(init, lambda n: optax.sgd(0.1), lambda n: optax.constant_schedule(0.1), 8, 2)
  apply = lambda params, x: x @ params['w']
  EDIT
  take = lambda s: {k: v[s] for k, v in rows.items()}
  return problem.classification(apply), recipe, take(slice(0, 30)), take(slice(30, 40))
"""


@pytest.mark.parametrize(
  'edit, message',
  [
    ("rows['y'][3] = 5", 'row 3 has label 5, but the model has 2 classes'),
    ("rows['x'][4, 2] = np.nan", 'NaN or infinity'),
    ("rows['y'] = rows['y'] + 0.5", 'class labels have type'),
  ],
)
def test_bad_rows_of_an_own_task(tmp_path, monkeypatch, edit, message):
  monkeypatch.setattr(sys, 'path', [*sys.path])
  file = own_task(tmp_path, OWN.replace('EDIT', edit))
  config = runpy.run_path(file)['get_config']()
  with pytest.raises(ValueError, match=message):
    attribute.main(config, tmp_path / 'w')


def test_an_own_task_runs(tmp_path):
  config = own_task(tmp_path, OWN.replace('EDIT', 'pass'))
  done = run('attribute', config, tmp_path / 'w')
  assert 'holds 2 models x 30 rows x 10 queries' in done.stdout
  assert '2 models cannot say which supporters' in done.stdout
  store = scores.open(
    tmp_path / 'w' / 'scores' / 'digits' / 'grad_dot' / 'uncertainty'
  )
  mean, error, p, significant = np.moveaxis(scores.read(store), 1, 0)
  assert mean.shape == (30, 10) and (error >= 0).all()
  assert ((p >= 0) & (p <= 1)).all() and set(significant.ravel()) <= {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['train/state', 'truth/done', 'scores'])
def test_killed_and_continued_gives_the_same_numbers(smoke, tmp_path, stage):
  want = json.loads((smoke[0] / 'results.json').read_text())['rows']
  process = subprocess.Popen(
      command('astra', SMOKE, tmp_path), cwd=ROOT,
      env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  deadline = time.monotonic() + 300
  while not (tmp_path / stage).exists() and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.05)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  assert not (tmp_path / 'results.json').exists()
  run('astra', SMOKE, tmp_path)
  got = json.loads((tmp_path / 'results.json').read_text())['rows']
  for old, new in zip(want, got, strict=True):
    assert old['method'] == new['method'] and old['metric'] == new['metric']
    np.testing.assert_allclose(new['value'], old['value'], atol=1e-6)
