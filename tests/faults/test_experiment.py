"""A finished experiment, damaged, killed, held by another or read-only."""

import errno
import pathlib
import subprocess
import sys
import types

import pytest
from ml_collections import config_dict

from configs.astra import digits
from experiments import attribute, evaluate
from experiments.astra import experiment as astra
from experiments.shared import launch, scored, scores, stages
from scripts import faults
from tda_jax.storage import files

ROOT = pathlib.Path(__file__).parents[2]


def work(workdir, main=astra.main):
  main(digits.get_config('smoke'), workdir)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('finished')
  work(folder)
  return folder


@pytest.mark.slow
def test_every_fault_is_survived_or_refused(finished, tmp_path):
  bad = {}
  for fault in faults.FAULTS:
    found = faults.outcome(work, finished, tmp_path / 'w', fault)
    if found.name not in ('survived', 'refused'):
      bad[fault] = found
  assert not bad and len(faults.FAULTS) > 100


@pytest.mark.slow
@pytest.mark.parametrize('main', [astra.main, attribute.main])
def test_a_finished_workdir_is_read_where_nothing_can_be_written(
  finished, monkeypatch, main
):
  def cannot(path, *args):
    raise OSError(errno.EROFS, 'Read-only file system', str(path))

  def stamps():
    return {p: p.stat().st_mtime_ns for p in finished.rglob('*')}

  before = stamps()
  monkeypatch.setattr(files, 'writable', lambda folder: False)
  monkeypatch.setattr(files, 'write', cannot_change(cannot, files.write))
  monkeypatch.setattr(files, '_opened', lambda path: None)
  launch._read(main, digits.get_config('smoke'), finished)
  assert stamps() == before


def cannot_change(cannot, write):
  """`write` of a disk on which `cannot` is what happens."""

  def only_same(path, data):
    path = pathlib.Path(path)
    return (
      None if path.is_file() and path.read_bytes() == data else cannot(path)
    )

  return only_same


@pytest.mark.slow
def test_a_workdir_in_use_or_without_a_name(tmp_path):
  def command(workdir):
    return subprocess.run(
        [sys.executable, '-m', 'experiments.train', f'--workdir={workdir}',
         '--config=configs/astra/digits.py:smoke'],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

  with files.lock(tmp_path):
    done = command(tmp_path)
  assert done.returncode == 1
  assert f'error: {tmp_path} is in use by process ' in done.stderr
  assert [p.name for p in tmp_path.iterdir()] == ['.lock']
  done = command('')
  assert done.returncode == 1
  assert 'error: --workdir is empty: give a folder' in done.stderr


@pytest.mark.parametrize('name', ['/abs', 'a/b', '..', ''])
def test_names_that_would_leave_the_workdir(tmp_path, monkeypatch, name):
  config = digits.get_config('smoke')
  named = config_dict.ConfigDict({**config, 'method': '', 'setting': name})
  monkeypatch.setattr(evaluate, '_NAME', types.SimpleNamespace(value=name))
  for use in (
    lambda: stages.claim(named, tmp_path, 'train'),
    lambda: scores.facts(named, tmp_path, 'exact', 1),
    lambda: evaluate.check(config, True),
  ):
    with pytest.raises(
      ValueError, match='is called .* no folder of its|--name=.* give a name'
    ):
      use()
  if '.' not in name:  # which ConfigDict itself refuses
    named.methods = {name: config.methods.exact}
    with pytest.raises(ValueError, match='a method of the config is called'):
      scored.named(named)
  assert not [*tmp_path.iterdir()]
