"""Runs again what is of older code: the committed results, longest last.

  python -m scripts.rerun                       which are of older code
  python -m scripts.rerun --run [--within MINUTES] [--data FOLDER] [NAME ...]

Each runs by the command that it was made with, at the present commit, in a checkout
of its own, build/rerun/NAME: results that come meanwhile are no edits of it. What was
killed continues there, unless the code has changed since. results/NAME.json is
replaced when the run has ended whole; then the checkout is deleted, and the log
stays, build/rerun/NAME.log. Status 1 if a run failed.
"""

import argparse
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from scripts import stale
from scripts.cells import duration

DATA = ('gpt2', 'smollm2', 'wikitext')  # downloads that a user keeps in build/
FOLDER = 'data.path=FOLDER'  # what a record has in place of a machine's folder


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--run', action='store_true', help='run them')
  parser.add_argument(
    '--within', type=float, default=float('inf'), metavar='MINUTES',
    help='begin none that its last time would take beyond',
  )  # fmt: skip
  parser.add_argument(
    '--data', type=pathlib.Path, help='what FOLDER stands for'
  )
  parser.add_argument('names', nargs='*', metavar='NAME')
  given = parser.parse_args()
  try:
    every = stale.ages()
    chosen = named(every, given.names)
    print(stale.table(chosen))
    if given.run:
      results = [age.result for age in chosen if age.stale]
      sys.exit(rerun(stale.ROOT, results, given.within * 60, given.data))
  except (OSError, ValueError, subprocess.CalledProcessError) as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    sys.exit('interrupted: the same command continues')


def named(every: list[stale.Age], names: list[str]) -> list[stale.Age]:
  """Those of these names, or all.

  Raises:
    ValueError: there is no such result.
  """
  unknown = {*names} - {age.result.name for age in every}
  if unknown:
    raise ValueError(
      f'results/ has no {", ".join(sorted(unknown))}: give names of the table'
      ' that `python -m scripts.rerun` prints'
    )
  return [age for age in every if not names or age.result.name in names]


def rerun(
  root: pathlib.Path,
  results: list[stale.Result],
  within: float = float('inf'),
  data: pathlib.Path | None = None,
) -> int:
  """Runs the results one after the other; 1 if one failed, else 0.

  Args:
    root: the checkout that has results/ and build/.
    within: seconds; none is begun that would by its last time end later.
    data: the folder that a command calls FOLDER.

  Raises:
    ValueError: another process does the same.
  """
  folder = root / 'build' / 'rerun'
  folder.mkdir(parents=True, exist_ok=True)
  begun, failed = time.monotonic(), False
  with (folder / 'lock').open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise ValueError(
        f'another process runs results again in {folder}: wait for it'
      ) from None
    for result in results:
      left = within - (time.monotonic() - begun)
      why = missing(root, result, data)
      if why is None and result.seconds > left:
        why = f'took {duration(result.seconds)}, {duration(max(left, 0))} left'
      if why is not None:
        print(f'{result.name}: skipped: {why}', flush=True)
        continue
      error = run(root, result, data)
      failed |= error is not None
      print(f'{result.name}: {error or "done"}', flush=True)
  return int(failed)


def missing(
  root: pathlib.Path, result: stale.Result, data: pathlib.Path | None
) -> str | None:
  """What the commands need and this machine lacks; None if nothing."""
  words = [word for command in result.commands for word in command[3:]]
  if any(FOLDER in word for word in words) and data is None:
    return 'its data are in no place that is known here: give --data=FOLDER'
  for word in words:
    if word[0] != '-' and '/' in word and not (root / word).exists():
      return f'there is no {word} here'
  return None


def run(
  root: pathlib.Path, result: stale.Result, data: pathlib.Path | None = None
) -> str | None:
  """Runs one result and puts it into results/; what went wrong, or None."""
  tree = checkout(root, result)
  log = tree.with_suffix('.log')
  print(
    f'{result.name}: runs, {duration(result.seconds)} the last time; {log}',
    flush=True,
  )
  target = root / 'results' / f'{result.name}.json'
  made = tree / 'results' / target.name
  with log.open('w') as out:
    for words in result.commands:
      words = [sys.executable if w == 'python' else w for w in words]
      if data is not None:
        of = FOLDER.replace('FOLDER', str(data.resolve()))
        words = [word.replace(FOLDER, of) for word in words]
      for i, word in enumerate(words):
        if word == '--workdir':
          return (
            'its command has no --workdir=DIR: write it with =, in the file'
          )
        if word.startswith('--workdir='):
          words[i] = f'--workdir=build/{result.name}'
          made = tree / 'build' / result.name / 'results.json'
      status = subprocess.run(
        words, cwd=tree, env={**os.environ, 'PYTHONPATH': str(tree)},
        stdout=out, stderr=subprocess.STDOUT,
      ).returncode  # fmt: skip
      if status:
        return f'failed with status {status}: {last_line(log)}'
  if not made.exists() or not whole(made.read_text(), target.read_text()):
    return f'failed: its command ended and wrote no new result; {log}'
  shutil.copy(made, target.with_suffix('.new'))
  target.with_suffix('.new').replace(target)
  removed(root, tree)
  return None


def checkout(root: pathlib.Path, result: stale.Result) -> pathlib.Path:
  """The present commit in build/rerun/NAME, with what a killed run left there.

  What other code left is deleted.
  """
  tree = root / 'build' / 'rerun' / result.name
  commit = stale.git(root, 'rev-parse', 'HEAD').decode().strip()
  file = tree.with_suffix('.code')
  if tree.exists() and not own(tree):
    shutil.rmtree(tree)  # half deleted: git would find the repository around it
  if tree.exists():
    stale.git(tree, 'checkout', '--force', '--detach', commit)
    before = file.read_text() if file.exists() else ''
    if before != stale.digest(tree, result):
      removed(root, tree)
  if not tree.exists():
    stale.git(root, 'worktree', 'prune')
    stale.git(root, 'worktree', 'add', '--detach', str(tree), commit)
    (tree / 'build').mkdir(exist_ok=True)
    for name in DATA:
      if (root / 'build' / name).exists():
        (tree / 'build' / name).symlink_to(root / 'build' / name)
    file.write_text(stale.digest(tree, result))
  return tree


def own(tree: pathlib.Path) -> bool:
  """Whether the folder is a checkout itself, not one within another."""
  if not (tree / '.git').is_file():
    return False
  top = stale.git(tree, 'rev-parse', '--show-toplevel').decode().strip()
  return pathlib.Path(top).resolve() == tree.resolve()


def removed(root: pathlib.Path, tree: pathlib.Path) -> None:
  """Deletes a checkout with all that was written there."""
  shutil.rmtree(tree)
  stale.git(root, 'worktree', 'prune')


def whole(text: str, before: str) -> bool:
  """Whether a results file is of a run that ended, and not the earlier one."""
  run = json.loads(text).get('run') or {}
  return run.get('seconds') is not None and text != before


def last_line(log: pathlib.Path) -> str:
  """Of a log, where programs say what was wrong."""
  lines = log.read_text(errors='replace').strip().splitlines()
  return f'{lines[-1] if lines else "without a word"}; {log}'


if __name__ == '__main__':
  main()
