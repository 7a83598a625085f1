"""Do the tests notice a wrong formula? Each mutation is applied and tested.

  python -m scripts.mutants --out=build/mutants.json
  python -m scripts.mutants --check          # only: which mutations are stale
  python -m scripts.mutants --only=cg,trak   # those of files with such names

Every mutation of `mutations.toml` is made in a copy of the checkout, in which
the tests that should notice it run until one fails. A mutation whose old text is
not there exactly once is stale: the code has moved on, and the list must follow.
Results are written after each mutation, and the same command continues; of code
that has changed since, delete the file first.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
LIST = ROOT / 'scripts' / 'mutations.toml'
FAILED = 1  # pytest's exit status where a test failed; others are no verdict


class Mutation(NamedTuple):
  """Attributes:
  file: relative to the checkout.
  old, new: the text that is replaced, found once in the file.
  tests: files of tests, one of which should fail.
  """

  file: str
  old: str
  new: str
  tests: tuple[str, ...]


def every() -> list[Mutation]:
  """All of the list, in its order."""
  return [
    Mutation(file, *edit, tuple(of['tests']))
    for file, of in tomllib.loads(LIST.read_text()).items()
    for edit in of['edits']
  ]


def stale(mutation: Mutation, root: pathlib.Path = ROOT) -> str | None:
  """Why it cannot be applied; None: it can."""
  missing = [
    f for f in (mutation.file, *mutation.tests) if not (root / f).exists()
  ]
  if missing:
    return f'{", ".join(missing)} is not there'
  count = (root / mutation.file).read_text().count(mutation.old)
  if count != 1:
    return f'its old text is {count} times in the file'
  return None


def copied(folder: pathlib.Path) -> pathlib.Path:
  """A copy of the files that git knows, as they are now."""
  listed = subprocess.run(
    ['git', 'ls-files', '-co', '--exclude-standard', '-z'],
    cwd=ROOT, capture_output=True, check=True, text=True,
  )  # fmt: skip
  for name in filter(None, listed.stdout.split('\0')):
    if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, folder / name)
  return folder


def tested(folder: pathlib.Path, tests, limit: float) -> dict:
  """{'outcome', 'by', 'seconds'} of the tests in a copy."""
  command = [
    sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider',
    '-p', 'no:xdist', *tests,
  ]  # fmt: skip
  # No bytecode is kept: a mutation may have the size and the second of another.
  own = {'PYTHONPATH': str(folder), 'PYTHONDONTWRITEBYTECODE': '1'}
  begun = time.monotonic()
  try:
    done = subprocess.run(
      command, cwd=folder, env={**os.environ, **own}, capture_output=True,
      text=True, timeout=limit,
    )  # fmt: skip
  except subprocess.TimeoutExpired:
    return {'outcome': 'timeout', 'by': None, 'seconds': limit}
  seconds = round(time.monotonic() - begun, 1)
  by = re.findall(r'^(?:FAILED|ERROR) (\S+)', done.stdout, re.M)
  outcome = {0: 'survived', FAILED: 'killed'}.get(done.returncode, 'no verdict')
  told = {'outcome': outcome, 'by': by[0] if by else None, 'seconds': seconds}
  if outcome == 'no verdict':
    told['said'] = (done.stdout + done.stderr)[-500:]
  return told


def mutated(folder: pathlib.Path, mutation: Mutation, limit: float) -> dict:
  """What its tests say of a copy with the mutation, which is then taken back."""
  path = folder / mutation.file
  text = path.read_text()
  path.write_text(text.replace(mutation.old, mutation.new))
  try:
    return tested(folder, mutation.tests, limit)
  finally:
    path.write_text(text)


def summary(found: list[dict]) -> dict:
  """Counts, and the share that dies of those that had a verdict."""
  outcomes = [one['outcome'] for one in found]
  counts = {name: outcomes.count(name) for name in sorted({*outcomes})}
  died = counts.get('killed', 0) + counts.get('timeout', 0)
  judged = died + counts.get('survived', 0)
  return {
    'mutations': len(found),
    'counts': counts,
    'share_killed': round(died / judged, 4) if judged else None,
    'survived': [
      f'{one["file"]}: {one["old"]!r} -> {one["new"]!r}'
      for one in found
      if one['outcome'] == 'survived'
    ],
    'found': found,
  }


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', help='JSON file; the same command continues it')
  parser.add_argument(
    '--only', default='', help='parts of file names, by comma'
  )
  parser.add_argument('--check', action='store_true', help='run no test')
  parser.add_argument('--limit', type=float, default=900, help='seconds each')
  asked = parser.parse_args(argv)
  names = [name for name in asked.only.split(',') if name]
  chosen = [m for m in every() if not names or any(n in m.file for n in names)]
  old = [(m, why) for m in chosen if (why := stale(m))]
  for m, why in old:
    print(f'STALE {m.file}: {m.old!r}: {why}', file=sys.stderr)
  if asked.check:
    print(f'{len(chosen)} mutations, {len(old)} stale')
    return 2 if old else 0
  found = _run(chosen, asked.out, asked.limit)
  told = summary(found)
  if asked.out:
    del told['found']  # it is in the file
  print(json.dumps(told, indent=2, ensure_ascii=False))
  return 2 if old else 0


def _run(chosen, out, limit) -> list[dict]:
  path = pathlib.Path(out) if out else None
  known = (
    json.loads(path.read_text())['found'] if path and path.exists() else []
  )
  known = {(one['file'], one['old'], one['new']): one for one in known}
  found = []
  with tempfile.TemporaryDirectory(prefix='mutants-') as folder:
    folder = copied(pathlib.Path(folder))
    sound = {}  # whether these tests pass unmutated
    for i, m in enumerate(chosen):
      told = known.get(m[:3])
      if told is None and (why := stale(m)):
        told = {**m._asdict(), 'outcome': 'stale', 'why': why}
      if told is None:
        if m.tests not in sound:
          sound[m.tests] = tested(folder, m.tests, limit)
        base = sound[m.tests]
        if base['outcome'] != 'survived':
          told = {**base, 'outcome': 'no verdict', 'why': 'fails unmutated'}
        else:
          told = mutated(folder, m, limit)
        told = {**m._asdict(), **told}
      found.append(told)
      print(f'{i + 1}/{len(chosen)} {told["outcome"]:<10} {m.file}: {m.old!r}',
            file=sys.stderr, flush=True)  # fmt: skip
      if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summary(found), indent=2))
  return found


if __name__ == '__main__':
  sys.exit(main())
