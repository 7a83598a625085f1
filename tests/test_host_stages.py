"""Whole stages on two hosts of four devices: same numbers, one killed in each."""

import json
import subprocess
import sys

import numpy as np
import pytest
from fake_hosts import ROOT, assert_same, finished, kill_one

pytestmark = pytest.mark.slow

# Small, and in blocks of few models, so that hosts share them.
CONFIG = """
from configs.{experiment} import digits
from experiments.shared import arguments


@arguments.setting
def get_config(arg=None):
  c = digits.get_config('smoke')
  for name in set(c.methods) - {{'grad_dot', 'ekfac', 'trak'}}:
    del c.methods[name]
  c.truth.members_at_once = 3
  {changes}
  return c
"""
CHANGES = {
  'astra': 'c.choose, c.claims, c.left_out.rows = {}, (), 0',
  'quanda': 'c.chance = 2',
}
POD = {'processes': 2, 'devices': 4}


def command(folder, module, experiment):
  """`python -m experiments.MODULE` with a small config of the experiment."""
  file = folder / f'small_{experiment}.py'
  changes = CHANGES[experiment]
  file.write_text(CONFIG.format(experiment=experiment, changes=changes))
  return sys.executable, '-m', f'experiments.{module}', f'--config={file}'


def alone(commands, workdir):
  """The commands one after another, by one process with one device."""
  for one in commands:
    subprocess.run(
      [*one, f'--workdir={workdir}'], cwd=ROOT, check=True, timeout=1800,
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def figures(workdir):
  """(file, method, metric) -> value, but those of time."""
  found = {}
  for file in workdir.rglob('results.json'):
    for row in json.loads(file.read_text())['rows']:
      if (
        'second' not in row['metric'] and 'memory' not in row['metric'].lower()
      ):
        where = str(file.relative_to(workdir))
        found[where, row['method'], row['metric']] = row['value']
  assert found
  return found


def assert_same_figures(workdir, other):
  found, want = figures(workdir), figures(other)
  assert found.keys() == want.keys()
  for name in want:
    np.testing.assert_allclose(
      found[name], want[name], 1e-3, 1e-4, err_msg=name
    )


def test_each_stage_goes_on_where_a_host_was_killed(tmp_path):
  """train, attribute, evaluate: killed once each, then finished by two hosts."""
  workdir, commands = tmp_path / 'two', []
  for victim, (stage, sign) in enumerate((
    ('train', 'train/state/run.json'),
    ('attribute', 'scores/*/*/*/facts.json'),
    ('evaluate', 'truth/done/*'),
  )):  # fmt: skip
    commands.append(command(tmp_path, stage, 'astra'))
    given = (*commands[-1], f'--workdir={workdir}')
    kill_one(
      tmp_path / f'{stage}_killed', *given, **POD, victim=victim % 2,
      begun=lambda sign=sign: any(workdir.glob(sign)),
    )  # fmt: skip
    finished(tmp_path / stage, *given, **POD)
  alone(commands, tmp_path / 'alone')
  assert_same(workdir, tmp_path / 'alone', near=1e-5)
  assert_same_figures(workdir, tmp_path / 'alone')


@pytest.mark.parametrize(
  'experiment, signs',
  [
    ('astra', ('truth/done/*', 'scores/*/ekfac/*/facts.json')),
    ('quanda', ('grouped/train/state/run.json', 'clean/truth/done/*')),
  ],
)
def test_an_experiment_is_begun_by_two_hosts_and_ended_by_one(
  experiment, signs, tmp_path
):
  """Killed twice; whole on two hosts, and on one what two have begun."""
  workdir = tmp_path / 'begun'
  given = command(tmp_path, experiment, experiment)
  for number, sign in enumerate(signs):
    kill_one(
      tmp_path / f'killed_{number}', *given, f'--workdir={workdir}', **POD,
      victim=1 - number % 2, begun=lambda sign=sign: any(workdir.glob(sign)),
    )  # fmt: skip
  alone([given], workdir)
  alone([given], tmp_path / 'alone')
  finished(tmp_path / 'whole', *given, f'--workdir={tmp_path / "two"}', **POD)
  for other in (workdir, tmp_path / 'two'):
    assert_same(other, tmp_path / 'alone', near=1e-5)
    assert_same_figures(other, tmp_path / 'alone')
