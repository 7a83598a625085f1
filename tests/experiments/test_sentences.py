"""Whatever ends a command is one line, and no fault is taken for bad input."""

import datetime
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_dict, config_flags

from experiments.shared import launch, sentences, tasks
from tda_jax.data import prepare, worlds

SMOKE = '--config=configs/astra/digits.py:smoke'

FLAGS = [
  ('--config=configs/astra/digits.py:nope', "unknown config argument 'nope'"),
  ('--config=configs/astra/digits.py:smoek', 'did you mean smoke'),
  ('--config=configs/astra/digits.py:smoke=3', 'smoke=3: give True or False'),
  ('--config=configs/astra/digits.py:ablation=zzz', "unknown ablation 'zzz'"),
  ('--config=configs/astra/digitz.py', 'did you mean configs/astra/digits.py'),
  ('--config=configs/astra', 'is a folder'),
  ('--config=/etc/passwd', 'is no config file'),
  ('--config=configs/astra/base.py', 'is no config file'),
  ('--config=', '--config is empty'),
  (f'{SMOKE} --config.data.quries=1', 'did you mean --config.data.queries?'),
  (f'{SMOKE} --config.member=1', 'did you mean --config.members?'),
  (f'{SMOKE} --config.method.exact.damping=1', '--config.methods.exact.damping?'),
  (f'{SMOKE} --config.methods.ekfac.labels=data', 'damping, kind, residual'),
  (f'{SMOKE} --config.members=1.5', "--config.members='1.5': give a whole number"),
  (f'{SMOKE} --config.training.momentum=x', "'x': give a number"),
  (f'{SMOKE} --config.training.augment=x', "'x': give True or False"),
  (f'{SMOKE} --config.data=3', 'Failed to parse'),
  (f'{SMOKE} --nope=3', 'there is no flag --nope'),
]  # fmt: skip


# ml_collections loads its files so.
@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
@pytest.mark.parametrize('line, message', FLAGS)
def test_flags_and_config_files_end_in_one_line(line, message, monkeypatch):
  """As `launch._parsed` does, with flags of its own."""
  values, argv = flags.FlagValues(), ['x', *line.split()]
  config_flags.DEFINE_config_file(
    'config', None, lock_config=True, flag_values=values
  )
  monkeypatch.setattr(sys, 'argv', argv)
  with pytest.raises(Exception) as error:
    sentences.check_config_file(argv)
    values(argv)
  told = sentences.of_flags(error.value, argv)
  assert message in told and '\n' not in told and 'Traceback' not in told


def test_a_bad_config_ends_before_flags_are_read(capsys):
  with pytest.raises(SystemExit) as end:
    launch._parsed(['x', '--config=configs/astra'])
  (line,) = capsys.readouterr().err.splitlines()
  assert end.value.code == 1 and line.startswith(
    'error: --config=configs/astra'
  )


def ended(run, capsys, monkeypatch):
  """(status, the line) of a command that does this."""
  monkeypatch.setattr(launch, '_TRACEBACK', types.SimpleNamespace(value=False))
  with pytest.raises(SystemExit) as end:
    launch._reported(run, [])
  (line,) = capsys.readouterr().err.splitlines()
  return end.value.code, line


def of_our_own(argv):
  prepare.split({'x': jnp.ones(3)}, 0, 5)


def of_another_package(argv):
  datetime.datetime.strptime('x', '%Y')


def of_a_line_of_ours_that_raises_nothing(argv):
  worlds.patched({'x': np.ones((1, 2, 2))}, size=1, value=1, corner=(1,))


def of_no_disk(argv):
  open('/nowhere/file')


def of_a_bug(argv):
  {}['absent']


def test_what_was_given_and_what_was_not_foreseen_are_told_apart(
  capsys, monkeypatch
):
  of = lambda run: ended(run, capsys, monkeypatch)
  assert of(of_our_own)[0] == 1 and of(of_no_disk)[0] == 1
  status, line = of(of_a_bug)
  assert status == 2 and line.startswith("error: KeyError: 'absent'; this is a")
  assert of(of_a_line_of_ours_that_raises_nothing)[0] == 2
  status, line = of(of_another_package)
  assert status == 2 and 'run again with --traceback and report it' in line
  monkeypatch.setattr(launch, '_TRACEBACK', types.SimpleNamespace(value=True))
  with pytest.raises(KeyError):
    launch._reported(of_a_bug, [])


def test_an_interrupted_command_says_so(capsys, monkeypatch):
  def interrupted(argv):
    raise KeyboardInterrupt

  status, line = ended(interrupted, capsys, monkeypatch)
  assert status == 130 and line == 'interrupted: the same command continues'


def test_a_message_of_several_lines_becomes_one():
  error = ValueError('first\n  second')
  assert sentences.one_line(error) == 'first second'


def test_a_users_task_that_raises_is_what_was_given():
  def broken(config):
    raise KeyError('x')

  with pytest.raises(ValueError, match='raised KeyError') as error:
    tasks._of_user(broken, types.SimpleNamespace(task='mine:broken'))
  assert sentences.of_error(error.value)[1] == 1


@pytest.mark.parametrize(
  'config, words',
  [
    ({'a': 1}, 'the config is a dict: let get_config return a ConfigDict'),
    (None, 'the config is a NoneType'),
    (config_dict.create(experiment='astra'), 'the config has no setting, task'),
  ],
)
def test_what_is_no_config_is_a_sentence(config, words):
  with pytest.raises(ValueError, match=words):
    sentences.check_config(config)


def test_workdirs(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('x')
  for text, words in (
    (' ', '--workdir is empty'),
    ('gs://bucket/run', '--workdir gs://bucket/run is an address.*mount'),
    (str(tmp_path / 'file'), 'is no folder and cannot be made one'),
    (str(tmp_path / 'file' / 'in'), 'is no folder and cannot be made one'),
  ):
    with pytest.raises(ValueError, match=words):
      launch._folder(text)
  (tmp_path / 'a').mkdir()
  assert launch._folder(str(tmp_path / 'a' / '..' / 'b')) == tmp_path / 'b'
  monkeypatch.setenv('HOME', str(tmp_path))
  assert launch._folder('~/c') == tmp_path / 'c'
