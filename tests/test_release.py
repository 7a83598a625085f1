import pathlib
import zipfile

import pytest

from scripts import release

ROOT = pathlib.Path(__file__).parents[1]


def test_the_program_is_readmes_first():
  program = release.snippet((ROOT / 'README.md').read_text())
  compile(program, 'README.md', 'exec')
  assert 'tda.attribute(' in program and '```' not in program


def test_only_what_git_tracks_is_built(tmp_path):
  release.copied(ROOT, tmp_path / 'source')
  assert (tmp_path / 'source' / 'pyproject.toml').exists()
  assert not (tmp_path / 'source' / '.venv').exists()


def test_a_wheel_without_a_file_of_the_package_is_refused(tmp_path):
  package = tmp_path / 'source' / 'tda_jax'
  package.mkdir(parents=True)
  for name in ('__init__.py', 'page.html'):
    (package / name).write_text('')
  wheel = tmp_path / 'a.whl'
  with zipfile.ZipFile(wheel, 'w') as file:
    file.writestr('tda_jax/__init__.py', '')
  with pytest.raises(release.Failed, match='lacks tda_jax/page.html'):
    release.held(wheel, package.parent)
  with zipfile.ZipFile(wheel, 'a') as file:
    file.writestr('tda_jax/page.html', '')
  assert release.held(wheel, package.parent).startswith('2 files, 1 ')


def test_a_step_that_fails_says_what_was_printed(capsys):
  with pytest.raises(release.Failed, match='one failed\nno such option'):
    release.step(
      'one', lambda: release.run('sh', '-c', 'echo no such option; exit 3')
    )
  release.step('two', lambda: release.last(release.run('echo', 'done')))
  assert capsys.readouterr().out.endswith('s  done\n')
