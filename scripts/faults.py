"""Damages each kind of file of a finished run, runs it again, and counts.

  python -m scripts.faults --workdir=build/faults

runs configs/astra/digits.py:smoke once, damages a copy of its workdir for each
line of FAULTS, kills other runs at random seconds, and prints counts as JSON
(kept in results/faults/digits.json). A fault is survived if the same command
ends with the same bytes; refused if it ends in one sentence whose cure, carried
out, leads there; else it is silent, a dead end or a traceback, of which there
must be none.
"""

import argparse
import contextlib
import io
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from configs.astra import digits
from experiments.astra import experiment as astra
from tda_jax.storage import record

ROOT = pathlib.Path(__file__).parents[1]
STEADY = ('zarr.json', 'chosen.json', 'split.json')
OUTCOMES = ('survived', 'refused', 'silent', 'dead end', 'traceback')


class Fault(NamedTuple):
  """The largest file or folder that `pattern` matches, and what befalls it."""

  pattern: str
  damage: str


class Outcome(NamedTuple):
  """One of OUTCOMES, and what was said or differs."""

  name: str
  text: str


def outcome(
  run: Callable, finished: pathlib.Path, workdir: pathlib.Path, fault: Fault
) -> Outcome:
  """What `run(workdir)` makes of a damaged copy of a finished workdir."""
  shutil.rmtree(workdir, ignore_errors=True)
  shutil.copytree(finished, workdir)
  inflict(workdir, fault)
  name, text = 'survived', ''
  try:
    said = sentence(run, workdir)
    if said is not None:
      name, text = 'refused', said
      obey(said, workdir)
      said = sentence(run, workdir)
      if said is not None:
        return Outcome('dead end', f'{text} ... then: {said}')
  except Exception as error:
    return Outcome('traceback', f'{type(error).__name__}: {error}')
  differ = differences(finished, workdir)
  return Outcome('silent', ', '.join(differ)) if differ else Outcome(name, text)


def killed(
  command: list[str], finished: pathlib.Path, workdir: pathlib.Path, seconds
) -> Outcome:
  """What becomes of a command that is killed after each of `seconds`.

  Each time it is begun again where it was; the last time it is left to end.
  """
  shutil.rmtree(workdir, ignore_errors=True)
  for limit in (*seconds, None):
    with open(workdir.with_suffix('.log'), 'wb') as log:
      child = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
      try:
        child.wait(limit)
      except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
  if child.returncode:
    return Outcome('dead end', workdir.with_suffix('.log').read_text()[-300:])
  differ = differences(finished, workdir)
  return Outcome('silent' if differ else 'survived', ', '.join(differ))


def inflict(workdir: pathlib.Path, fault: Fault) -> None:
  """Damages the largest file that the fault's pattern matches."""
  found = sorted(workdir.glob(fault.pattern))
  path = max(found, key=lambda file: file.stat().st_size)
  if fault.damage == 'lost':
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  elif fault.damage == 'lost with its marker':
    path.unlink()
    (path.parents[2] / 'done' / path.parent.name).unlink()
  else:
    path.write_bytes(DAMAGES[fault.damage](bytearray(path.read_bytes())))


def sentence(run: Callable, workdir: pathlib.Path) -> str | None:
  """The one sentence in which a run ends as a command would; None: it is done."""
  quiet = io.StringIO()
  try:
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
      run(workdir)
  except (ValueError, OSError) as error:
    if '\n' in str(error):
      raise
    return str(error)
  return None


def obey(said: str, workdir: pathlib.Path) -> None:
  """Deletes what the sentence says is to be deleted, which is of the workdir.

  Raises:
    LookupError: it names nothing of the workdir.
  """
  place = re.escape(str(workdir)) + r'/[^\s:;,]+'
  named = re.search(f'delete (?:the folder )?({place})', said)
  if not named and re.search('delete that (file|folder|one)', said):
    named = re.search(f'({place})', said)
  if not named:
    raise LookupError(f'no cure in: {said}')
  path = pathlib.Path(named[1])
  shutil.rmtree(path) if path.is_dir() else path.unlink()


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
  """Names of the numbers that two workdirs do not share bit by bit."""
  a, b = numbers(a), numbers(b)
  return [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]


def numbers(workdir: pathlib.Path) -> dict:
  """Name -> content of every file whose bytes depend on no clock.

  Checkpoints are known by the digests in the stores of their scores.
  """
  found = {}
  for file in workdir.rglob('*'):
    parts = file.relative_to(workdir).parts
    if file.name == 'results.json':
      content = record.read_json(file)
      timeless = lambda row: {**row, 'seconds': None, 'peak_mb': None}
      found['/'.join(parts)] = [*map(timeless, content['rows'])]
    elif file.name in STEADY or ({'c', 'done'} & {*parts} and file.is_file()):
      found['/'.join(parts)] = file.read_bytes()
  return found


def _flipped(at, bit=0x40):
  """Damage by one bit of the byte `at(length)`."""

  def damage(data):
    data[at(len(data))] ^= bit
    return data

  return damage


def _digit(data):
  """Another digit amid a text of JSON, as of a value."""
  digits_at = [m.start() for m in re.finditer(rb'(?<=[ .\d])\d', data)]
  at = digits_at[len(digits_at) // 3]
  data[at] = ord('3' if data[at] == ord('7') else '7')
  return data


def _nan(data):
  data[:4] = np.float32(np.nan).tobytes()
  return data


_high = lambda size: min(size // 8 * 4 + 3, size - 1)  # byte of an exponent
DAMAGES = {
  'emptied': lambda data: b'',
  'cut in half': lambda data: data[: len(data) // 2],
  'a bit flipped': _flipped(lambda size: size // 2),
  'the last bit flipped': _flipped(lambda size: size - 1, 1),
  'an exponent flipped': _flipped(_high, 0x08),
  'a sign flipped': _flipped(_high, 0x80),
  'garbage': lambda data: random.Random(0).randbytes(len(data)),
  'another digit': _digit,
  'NaN in it': _nan,
}
BYTES = ('lost', 'emptied', 'cut in half', 'a bit flipped', 'garbage')
CHUNK = (*BYTES, 'lost with its marker', 'an exponent flipped',
         'a sign flipped', 'NaN in it')  # fmt: skip
JSON = (*BYTES, 'another digit')
STATE = 'train/state/step_20'
FAULTS = [
  Fault(pattern, damage)
  for pattern, damages in {
    'truth/c/0/0': CHUNK,
    'truth/zarr.json': JSON,
    'truth/done/0': BYTES,
    'truth/done': ('lost',),
    'truth': ('lost',),
    'validation/c/0/0': CHUNK,
    'left_out/c/0/0': CHUNK,
    'left_out/zarr.json': JSON,
    'scores/digits/exact/0/c/0/0': CHUNK,
    'scores/digits/exact/0/zarr.json': (*JSON, 'the last bit flipped'),
    'scores/digits/exact/0/facts.json': JSON,
    'scores/digits/exact/0/done/0': BYTES,
    'scores/digits/exact/0': ('lost',),
    'scores/digits/trak/kernel/0/c/0/0': CHUNK,
    'scores/digits/trak/slopes/0/c/0/0': ('an exponent flipped',),
    'scores': ('lost',),
    'train/state/run.json': JSON,
    'train/state/complete': BYTES,
    f'{STATE}/state/manifest.ocdbt': BYTES,
    f'{STATE}/state/d/*': (*BYTES, 'the last bit flipped'),
    f'{STATE}/state/ocdbt.process_0/d/*': (*BYTES, 'an exponent flipped'),
    f'{STATE}/state/ocdbt.process_0/manifest.ocdbt': BYTES,
    f'{STATE}/state/_METADATA': JSON,
    f'{STATE}/_CHECKPOINT_METADATA': JSON,
    f'{STATE}/orbax.checkpoint': ('lost',),
    f'{STATE}/sha256sums': BYTES,
    STATE: ('lost',),
    'train/state/snapshot_7/state/ocdbt.process_0/d/*': BYTES,
    'train/state/snapshot_7/sha256sums': ('a bit flipped',),
    'train/state/snapshot_7': ('lost',),
    'train/state/snapshot_20/state/ocdbt.process_0/d/*': ('a bit flipped',),
    'train/state': ('lost',),
    'train': ('lost',),
    'stages/train/run.json': JSON,
    'stages/train/seconds.json': JSON,
    'stages/train': ('lost',),
    'stages/truth/run.json': JSON,
    'stages': ('lost',),
    'chosen.json': JSON,
    'split.json': JSON,
    'results.json': JSON,
    'report.html': ('lost', 'cut in half'),
    'plots': ('lost',),
  }.items()
  for damage in damages
]


def counts(outcomes: list[Outcome]) -> dict[str, int]:
  """{'injected': ..., and of each of OUTCOMES}."""
  names = [found.name for found in outcomes]
  return {'injected': len(names), **{n: names.count(n) for n in OUTCOMES}}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--workdir', default='build/faults')
  parser.add_argument('--only', default='', help='part of a pattern')
  parser.add_argument('--kills', type=int, default=12)
  args = parser.parse_args()
  folder, config = (
    pathlib.Path(args.workdir).resolve(),
    digits.get_config('smoke'),
  )
  run = lambda workdir: astra.main(config, workdir)
  finished, begun = folder / 'finished', time.time()
  finished.mkdir(parents=True, exist_ok=True)
  if said := sentence(run, finished):
    sys.exit(said)
  found = []

  def note(fault, of):
    found.append((fault, of))
    line = ' | '.join((*fault, *of)).replace(f'{folder}/', '')
    print(line, file=sys.stderr, flush=True)

  for fault in FAULTS:
    if args.only in fault.pattern:
      note(fault, outcome(run, finished, folder / 'damaged', fault))
  rng, target = random.Random(0), folder / 'killed'
  command = [
      sys.executable, '-m', 'experiments.astra', f'--workdir={target}',
      '--config=configs/astra/digits.py:smoke',
  ]  # fmt: skip
  for _ in range(args.kills // 3):  # a run is killed three times
    seconds = [round(rng.uniform(4, 16), 2) for _ in range(3)]
    of = killed(command, finished, target, seconds)
    for at in seconds:
      note(Fault('the process', f'killed after {at} s'), of)
  facts = {**record.environment(), 'seconds': round(time.time() - begun, 1)}
  content = {
    **counts([of for _, of in found]),
    'faults': [{**fault._asdict(), 'outcome': of.name} for fault, of in found],
    'run': record.signature(facts),
  }
  if not args.only:
    file = ROOT / 'results' / 'faults' / 'digits.json'
    file.parent.mkdir(exist_ok=True)
    record.write_json(file, content)
  print(json.dumps(counts([of for _, of in found]), indent=2))


if __name__ == '__main__':
  main()
