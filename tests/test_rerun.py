"""Which results are of older code, and how they run again: of a small repository."""

import json
import subprocess
import sys

import pytest

from scripts import rerun, stale

FILES = {
  'experiments/__init__.py': '',
  'experiments/toy/__init__.py': 'from experiments.toy.experiment import main',
  'experiments/toy/__main__.py': 'from experiments.toy import main\nmain()\n',
  # Its work is two steps; a file `kill` or `fail` beside the checkouts ends it.
  'experiments/toy/experiment.py': '''
import json, os, pathlib, signal, sys
from lib import used
STARTED = 'lib.started'
def main():
  """Runs."""
  workdir = pathlib.Path(sys.argv[-1].removeprefix('--workdir='))
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / 'steps').open('a') as steps:
    steps.write('step ')
  for name, end in (('kill', signal.SIGKILL), ('fail', None)):
    file = pathlib.Path(__file__).parents[3] / name
    if file.exists():
      (workdir / 'results.json').write_text('{"rows": []}')
      os.kill(os.getpid(), end) if end else sys.exit('error: no rows')
  commit = os.popen('git rev-parse HEAD').read().strip()
  dirty = os.popen('git status --porcelain -uno').read().strip()
  run = {'commit': commit + ' (edited)' * bool(dirty), 'seconds': 1.0}
  run['command'] = 'python -m experiments.toy --workdir=build/toy'
  steps = (workdir / 'steps').read_text()
  content = {'value': used.VALUE, 'steps': steps, 'run': run}
  (workdir / 'results.json').write_text(json.dumps(content))
''',
  'lib/__init__.py': '',
  'lib/used.py': '"""Used."""\n\nVALUE = 1\n',
  'lib/started.py': 'def late():\n  import lib.later\n',
  'lib/later.py': 'LATER = 1\n',
  'lib/other.py': 'OTHER = 1\n',
  'lib/tasks.py': 'TASK = 1\n',
  'configs/toy.py': 'import lib.used\n\nTASK = "lib.tasks:drawn"\n',
  '.gitignore': 'build/\n__pycache__/\n',
}


def git(root, *words):
  return stale.git(
    root, '-c', 'user.name=a', '-c', 'user.email=a@b.c', *words
  ).decode()


def commit(root):
  git(root, 'add', '-A')
  git(root, 'commit', '-q', '-m', 'more')
  return git(root, 'rev-parse', 'HEAD').strip()


def keep(root, name, command, of, seconds=60.0):
  (root / 'results').mkdir(exist_ok=True)
  run = {'command': command, 'commit': of, 'seconds': seconds}
  (root / f'results/{name}.json').write_text(json.dumps({'run': run}))


@pytest.fixture
def root(tmp_path):
  for path, text in FILES.items():
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
  git(tmp_path, 'init', '-q')
  of = commit(tmp_path)
  for name in ('toy_one', 'toy_two'):
    command = 'python -m experiments.toy --config=configs/toy.py:a --workdir=w'
    keep(tmp_path, name, command, of)
  commit(tmp_path)
  return tmp_path


def change(root, path='lib/used.py', text='VALUE = 2\n'):
  (root / path).write_text(text)


def changed(root):
  return {age.result.name: age.changed for age in stale.ages(root)}


def again(root, **settings):
  results = [age.result for age in stale.ages(root) if age.stale]
  return rerun.rerun(root, results, **settings)


def read(root, name):
  return json.loads((root / f'results/{name}.json').read_text())


def test_what_a_command_imports(root):
  result = next(iter(stale.results(root)))
  assert stale.closure(root, stale.launched(result)) == {
    path for path in FILES if path not in ('lib/other.py', '.gitignore')
  }


@pytest.mark.parametrize(
  'path, text, found',
  [
    ('lib/used.py', 'VALUE = 2\n', ['lib/used.py']),
    ('lib/used.py', '"""Else."""\n\nVALUE = (\n  1  # one\n)\n', []),
    ('lib/used.py', '', ['lib/used.py']),
    ('lib/later.py', 'LATER = 2\n', ['lib/later.py']),
    ('lib/other.py', 'OTHER = 2\n', []),
    ('lib/started.py', 'import lib.new\n', ['lib/started.py']),
  ],
)
def test_code_that_changed(root, path, text, found):
  assert changed(root)['toy_one'] == []
  change(root, path, text)
  assert changed(root)['toy_one'] == found
  (root / 'lib/new.py').write_text('')  # a file that git does not know yet
  new = ['lib/new.py'] if 'new' in text else []
  assert changed(root)['toy_one'] == sorted(found + new)


def test_docstrings_are_no_code_and_texts_are():
  same = 'def f(a):\n  return a\nclass C:\n  x = 1\n'
  told = (
    '"""M."""\ndef f(a):\n  """F."""\n  return (a)\nclass C:\n  "C"\n  x = 1'
  )
  assert stale.code(same) == stale.code(told)
  assert stale.code('x = "a"') != stale.code('x = "b"')
  assert stale.code('"""M."""') == stale.code('')


def test_commits_that_are_not_here_and_none_and_edited(root):
  here = git(root, 'rev-parse', 'HEAD').strip()
  keep(root, 'away', 'python -m experiments.toy', 'f' * 40)
  keep(root, 'none', ['python', '-m', 'experiments.toy'], None)
  keep(root, 'edited', 'python -m experiments.toy', f'{here} (edited)')
  both = f'{here}, {"f" * 40}'
  keep(root, 'both', 'python -m lib.used && python -m lib.other', both)
  (root / 'results' / 'foreign.json').write_text('{"rows": []}')
  ages = {age.result.name: age for age in stale.ages(root)}
  assert ages['edited'].stale and ages['edited'].changed == []
  for name in ('away', 'none', 'both'):
    assert ages[name].changed is None and not ages[name].stale
  assert stale.launched(ages['both'].result) == {'lib/used.py', 'lib/other.py'}
  text = stale.table([*ages.values()])
  assert '1 of 6 results are of older code than this; of 3 it is not' in text
  assert f'edited   {here[:7]}+      0     1\n' in text


def test_without_git_nothing_is_known(root, monkeypatch):
  monkeypatch.setenv('GIT_DIR', str(root / 'nowhere'))
  assert changed(root) == {'toy_one': None, 'toy_two': None}


def test_a_table_fits_the_terminal():
  result = stale.Result('n' * 35, [], ['a' * 40], True, 6e4)
  files = [f'a_folder/another_one/file{i}.py' for i in range(200)]
  for text in stale.table([stale.Age(result, files)]).splitlines():
    assert len(text) <= 100


def test_stale_results_run_again(root, capsys):
  change(root)
  of = commit(root)
  assert again(root) == 0
  for name in ('toy_one', 'toy_two'):
    content = read(root, name)
    # The first result is no edit of the code that makes the second.
    assert content['value'] == 2 and content['run']['commit'] == of
    assert f'{name}: done' in capsys.readouterr().out or name == 'toy_two'
    assert not (root / 'build/rerun' / name).exists()
  assert changed(root)['toy_one'] == [] and again(root) == 0


def test_a_killed_run_continues_and_leaves_the_result_as_it_was(root, capsys):
  change(root)
  commit(root)
  before = read(root, 'toy_one')
  (root / 'build/rerun').mkdir(parents=True)
  (root / 'build/rerun/kill').touch()
  assert again(root) == 1
  assert 'toy_one: failed with status -9' in capsys.readouterr().out
  assert read(root, 'toy_one') == before
  (root / 'build/rerun/kill').unlink()
  (root / 'README.md').write_text('no code')
  of = commit(root)
  assert again(root) == 0
  assert read(root, 'toy_one')['steps'] == 'step step '
  assert read(root, 'toy_one')['run']['commit'] == of


def test_a_half_deleted_checkout_leaves_the_repository_as_it_is(root):
  """Without its own .git, git there speaks of the repository around it."""
  change(root)
  of = commit(root)
  change(root, text='VALUE = 4  # not committed\n')
  (root / 'build/rerun/toy_one').mkdir(parents=True)
  assert again(root) == 0
  assert (root / 'lib/used.py').read_text() == 'VALUE = 4  # not committed\n'
  assert read(root, 'toy_one')['run']['commit'] == of


def test_what_other_code_left_is_not_continued(root):
  change(root)
  commit(root)
  (root / 'build/rerun').mkdir(parents=True)
  (root / 'build/rerun/kill').touch()
  assert again(root) == 1
  (root / 'build/rerun/kill').unlink()
  change(root, text='VALUE = 3\n')
  commit(root)
  assert again(root) == 0
  assert read(root, 'toy_one')['steps'] == 'step '


def test_a_failure_is_said_and_the_others_go_on(root, capsys):
  keep(
    root, 'script', 'python -m lib.used', git(root, 'rev-parse', 'HEAD'), 1.0
  )
  change(root)
  commit(root)
  assert again(root) == 1
  out = capsys.readouterr().out
  assert 'script: failed: its command ended and wrote no new result' in out
  assert 'toy_one: done' in out and 'toy_two: done' in out
  (root / 'build/rerun/fail').touch()
  change(root, text='VALUE = 3\n')
  commit(root)
  assert again(root) == 1
  out = capsys.readouterr().out
  assert 'toy_two: failed with status 1: error: no rows; ' in out


def test_what_does_not_fit_or_has_no_data_is_skipped(root, capsys):
  of = git(root, 'rev-parse', 'HEAD').strip()
  flag = '--config.data.path=FOLDER'
  keep(root, 'data', f'python -m experiments.toy {flag} --workdir=w', of)
  keep(root, 'file', 'python -m lib.used build/weights.gguf', of)
  keep(root, 'long', 'python -m experiments.toy --workdir=w', of, 3600.0)
  change(root)
  commit(root)
  assert again(root, within=600) == 0
  out = capsys.readouterr().out
  assert 'data: skipped: its data are in no place that is known here' in out
  assert 'file: skipped: there is no build/weights.gguf here' in out
  assert 'long: skipped: took 1 h 0 min, 10 min left' in out
  assert 'toy_one: done' in out
  assert again(root, within=600, data=root / 'lib') == 0
  assert 'data: done' in capsys.readouterr().out


def test_two_do_not_run_at_once(root):
  change(root)
  commit(root)
  folder = root / 'build/rerun'
  folder.mkdir(parents=True)
  hold = 'import fcntl, sys; f = open(sys.argv[1], "w");'
  hold += 'fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()'
  with subprocess.Popen(
    [sys.executable, '-c', hold, str(folder / 'lock')],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as other:
    other.stdout.readline()
    with pytest.raises(ValueError, match='another process runs results again'):
      again(root)
    other.stdin.close()


def test_names_are_of_results(root):
  every = stale.ages(root)
  assert len(rerun.named(every, [])) == 2
  assert [a.result.name for a in rerun.named(every, ['toy_two'])] == ['toy_two']
  with pytest.raises(ValueError, match='results/ has no mine: give names'):
    rerun.named(every, ['mine', 'toy_two'])


def test_every_committed_result_names_files_of_its_code():
  """All that are launched are found, whatever git knows."""
  for result in stale.results(stale.ROOT):
    files = stale.launched(result)
    assert files and stale.closure(stale.ROOT, files), result.name
    assert all(words[:2] == ['python', '-m'] for words in result.commands)
