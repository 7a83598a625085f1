"""Seconds that a piece of work took, over commands that were killed.

A command that was killed leaves the time when it began; it is taken to have
worked until the newest file of its work.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable

from tda_jax import parallel
from tda_jax.storage import record


@contextlib.contextmanager
def counted(file: pathlib.Path, folder: pathlib.Path):
  """Adds the seconds of its body, which writes into `folder`, to `file`."""
  if not parallel.owner():
    yield
    return
  before, begun = seconds(file, folder), time.time()
  file.parent.mkdir(parents=True, exist_ok=True)
  record.write_json(file, {'seconds': before, 'begun': begun})
  clock = time.monotonic()
  try:
    yield
  finally:
    spent = before + time.monotonic() - clock
    with contextlib.suppress(OSError):  # an error of the body is to be told
      record.write_json(file, {'seconds': spent, 'begun': None})


def seconds(file: pathlib.Path, folder: pathlib.Path) -> float:
  """Seconds of all commands so far; 0.0 if there was none.

  Raises:
    ValueError: `file` is damaged.
  """
  if not file.exists():
    return 0.0
  known = record.read_json(file)
  if known['begun'] is None:
    return known['seconds']
  written = [f.stat().st_mtime for f in folder.rglob('*') if f.is_file()]
  return known['seconds'] + max([0.0, *(t - known['begun'] for t in written)])


def timed(workdir: pathlib.Path, stage: str, work: Callable):
  """What `work` returns; its seconds are counted until it first returns."""
  if not parallel.owner():  # the first host counts
    return work()
  clock, folder = _clock(workdir, stage), workdir / stage
  if clock.exists() and record.read_json(clock).get('complete'):
    return work()
  if folder.exists() and not clock.exists():
    return work()  # begun untimed, so that its seconds are not known
  with counted(clock, folder):
    made = work()
  record.write_json(clock, {**record.read_json(clock), 'complete': True})
  return made


def on(workdir: pathlib.Path, stage: str) -> float:
  """Seconds that the stage took; NaN where it was not timed here."""
  clock = _clock(workdir, stage)
  return seconds(clock, workdir / stage) if clock.exists() else float('nan')


def _clock(workdir, stage):
  return workdir / 'stages' / stage / 'seconds.json'
