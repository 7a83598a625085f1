"""Whether the package can be released: built, checked, installed and used.

  python -m scripts.release [--keep=FOLDER]

What git tracks is copied, built (sdist and wheel), checked by twine, installed from
the wheel into an empty environment, and README's first lines of Python run there,
away from the checkout. Tools go into an environment of their own; nothing is
uploaded. One line a step; the first that fails ends it with what it printed.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile

ROOT = pathlib.Path(__file__).parents[1]
TOOLS = ('build>=1.2', 'twine>=6.0')
EXTRA = 'data'  # README: pip install ".[data]"
DATA = ('.html', '.css')


class Failed(Exception):
  """A step ended badly; what it printed."""


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--keep', help='folder for the sdist and the wheel')
  keep = parser.parse_args().keep
  with tempfile.TemporaryDirectory(prefix='tda_jax-release-') as folder:
    try:
      wheel = checked(pathlib.Path(folder))
    except Failed as error:
      sys.exit(f'error: {error}')
    if keep:
      shutil.copytree(wheel.parent, keep, dirs_exist_ok=True)


def checked(folder: pathlib.Path) -> pathlib.Path:
  """The wheel, after all steps; a line of each is printed.

  Raises:
    Failed: by the first step that does not end well.
  """
  source, dist, empty = folder / 'source', folder / 'dist', folder / 'empty'
  step('copied', lambda: copied(ROOT, source))
  tools = folder / 'tools'
  step('tools', lambda: installed(tools, *TOOLS))
  build = [python(tools), '-m', 'build', '--outdir', dist, source]
  step('built', lambda: run(*build) and names(dist))
  (wheel,) = dist.glob('*.whl')
  step('data', lambda: held(wheel, source))
  check = [python(tools), '-m', 'twine', 'check', '--strict']
  step('twine', lambda: passed(run(*check, *sorted(dist.iterdir()))))
  step('installed', lambda: installed(empty, f'{wheel}[{EXTRA}]'))
  readme = (ROOT / 'README.md').read_text()
  step('quickstart', lambda: quickstart(python(empty), readme, folder))
  return wheel


def step(name: str, do) -> None:
  """Does it, and prints its name, its seconds and what came of it."""
  start = time.monotonic()
  try:
    what = do()
  except Failed as error:
    raise Failed(f'{name} failed\n{error}') from None
  print(f'{name:<12}{time.monotonic() - start:6.1f} s  {what}', flush=True)


def run(*command, cwd=None) -> str:
  """What a command printed.

  Raises:
    Failed: it ended badly.
  """
  # Neither the checkout nor a user's packages are to be found by accident.
  hidden = ('PYTHONPATH', 'PYTHONHOME')
  environment = {k: v for k, v in os.environ.items() if k not in hidden}
  environment |= {'PYTHONNOUSERSITE': '1', 'NO_COLOR': '1', 'COLUMNS': '500'}
  done = subprocess.run(
    [str(part) for part in command],
    cwd=cwd,
    env=environment,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )
  if done.returncode:
    raise Failed(done.stdout)
  return done.stdout or ' '


def copied(root: pathlib.Path, to: pathlib.Path) -> str:
  """Copies what git tracks, so that a build leaves nothing in the checkout."""
  listed = run('git', '-C', root, 'ls-files', '-z').split('\0')
  files = [name for name in listed if (root / name).is_file()]
  for name in files:
    (to / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(root / name, to / name)
  return f'{len(files)} files'


def installed(folder: pathlib.Path, *requirements: str) -> str:
  """An environment with these packages only."""
  venv.create(folder, with_pip=True)
  run(python(folder), '-m', 'pip', 'install', '--quiet', *requirements)
  listed = run(python(folder), '-m', 'pip', 'list', '--format=freeze')
  return f'{len(listed.split())} packages'


def held(wheel: pathlib.Path, source: pathlib.Path) -> str:
  """Counts the wheel's files.

  Raises:
    Failed: a file of the package, or one that it reads, is not in it.
  """
  inside = set(zipfile.ZipFile(wheel).namelist())
  wanted = {
    path.relative_to(source).as_posix()
    for path in (source / 'tda_jax').rglob('*')
    if path.suffix in (*DATA, '.py')
  }
  if wanted - inside:
    raise Failed(
      f'the wheel lacks {", ".join(sorted(wanted - inside))}: see'
      ' [tool.setuptools] in pyproject.toml'
    )
  data = sum(name.endswith(DATA) for name in wanted)
  return f'{len(inside)} files, {data} of them html and css'


def quickstart(
  interpreter: pathlib.Path, readme: str, folder: pathlib.Path
) -> str:
  """The last line that README's first lines of Python print."""
  program = folder / 'twenty_lines.py'
  program.write_text(snippet(readme))
  away = folder / 'away'
  away.mkdir()
  return last(run(interpreter, program, cwd=away))


def snippet(readme: str) -> str:
  """README's first block of Python."""
  return re.search(r'```python\n(.*?)```', readme, re.S)[1]


def names(folder: pathlib.Path) -> str:
  """Names and sizes of the files of a folder."""
  files = sorted(folder.iterdir())
  sizes = (f'{f.name} ({f.stat().st_size / 1e3:.0f} kB)' for f in files)
  return ', '.join(sizes)


def passed(text: str) -> str:
  """How many files twine found in order."""
  return f'{text.count("PASSED")} passed'


def last(text: str) -> str:
  """The last line that says something."""
  return ([line for line in text.splitlines() if line.strip()] or [''])[-1]


def python(folder: pathlib.Path) -> pathlib.Path:
  """The interpreter of an environment."""
  windows = folder / 'Scripts' / 'python.exe'
  return windows if windows.exists() else folder / 'bin' / 'python'


if __name__ == '__main__':
  main()
