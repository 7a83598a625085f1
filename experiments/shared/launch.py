"""What every experiment script shares: flags, the run record, clear errors."""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Callable

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments.shared import sentences, timing
from tda_jax import parallel
from tda_jax.storage import files, record

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'configs/NAME/SETTING.py[:arguments]', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'where every result is kept')
_TRACEBACK = flags.DEFINE_bool('traceback', False, 'show where an error arose')


def launch(main: Callable) -> None:
  """Runs main(config, workdir) as an absl program.

  The workdir is held against other commands. Bad input ends the program with one
  sentence and status 1, a fault of the library with one line and status 2;
  `--traceback` shows where either arose.
  """

  def run(argv):
    if len(argv) > 1:
      raise ValueError(f'unknown arguments {argv[1:]}: a flag begins with --')
    parallel.start()
    with parallel.together():
      workdir = _folder(_WORKDIR.value)
      sentences.check_config(_CONFIG.value)
      with files.lock(workdir):
        keep_programs(workdir)
        each = _recorded if files.writable(workdir) else _read
        if not parallel.owner():
          each = _beside
        each(main, _CONFIG.value, workdir)

  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(lambda argv: _reported(run, argv), flags_parser=_parsed)


def _folder(text: str) -> pathlib.Path:
  """The folder that --workdir names, made if need be.

  Raises:
    ValueError: it is empty, an address, a file, or cannot be made.
  """
  if not text.strip():
    raise ValueError('--workdir is empty: give a folder, as build/run')
  files.check_local(text, '--workdir')
  workdir = pathlib.Path(text).expanduser()
  if '..' in workdir.parts:
    workdir = workdir.resolve()
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f'--workdir={text} is no folder and cannot be made one ({error.strerror}):'
      ' give another'
    ) from None
  return workdir


def _reported(run: Callable, argv) -> None:
  """Runs it; an exception becomes one line, and a status."""
  try:
    run(argv)
  except KeyboardInterrupt:
    print('interrupted: the same command continues', file=sys.stderr)
    _leave(130)
  except Exception as error:
    if _TRACEBACK.value:
      raise
    line, status = sentences.of_error(error)
    print(f'error: {line}', file=sys.stderr)
    _leave(status)


def _leave(status: int) -> None:
  """Ends the program; of several hosts at once, as JAX would wait for all."""
  sys.stderr.flush()
  if jax.process_count() > 1:
    os._exit(status)
  sys.exit(status)


def _parsed(argv: list[str]) -> list[str]:
  """Parses the flags; a bad flag or config ends the program in one line."""
  try:
    sentences.check_config_file(argv)
    return flags.FLAGS(argv)
  except Exception as error:
    if '--traceback' in argv:
      raise
    print(f'error: {sentences.of_flags(error, argv)}', file=sys.stderr)
    sys.exit(1)


def _recorded(main, config, workdir):
  """Runs main and writes <workdir>/run.json.

  It has the resolved config, command, commit, versions, devices, and seconds,
  with those of commands that were killed or ended in an error.
  """
  begun = time.time()
  facts = {'config': config.to_dict(), **record.environment()}
  file, clock = workdir / 'run.json', workdir / 'spent.json'
  earlier = record.read_json(file) if file.exists() else {}
  seconds = lambda: {'seconds': round(timing.seconds(clock, workdir), 1)}
  try:
    with timing.counted(clock, workdir):
      main(config, workdir)
  except Exception:
    with contextlib.suppress(OSError, ValueError):
      # What an earlier command ran with stays known.
      record.write_json(file, {**facts, **earlier, **seconds()})
    raise
  facts |= seconds()
  record.write_json(file, facts)
  _sign_results(workdir, facts, begun)
  logging.info('done in %.0f s', facts['seconds'])


def _beside(main, config, workdir):
  """Runs main on a host that is not the first, which writes and prints."""
  with (
    open(os.devnull, 'w', encoding='utf-8') as nowhere,
    contextlib.redirect_stdout(nowhere),
  ):
    main(config, workdir)


def _read(main, config, workdir):
  """Runs main in a workdir that cannot be written: what is finished is read."""
  logging.warning('%s cannot be written: it is read, and stays', workdir)
  try:
    main(config, workdir)
  except OSError as error:
    raise ValueError(
      f'{workdir} cannot be written, and what was asked is not finished there'
      f' ({error}): give a --workdir that can be written, as a copy of it'
    ) from error


def keep_programs(workdir: pathlib.Path) -> None:
  """Keeps compiled programs in the workdir for the next command.

  Unless the user has said where to: JAX_COMPILATION_CACHE_DIR.
  """
  if jax.config.jax_compilation_cache_dir:
    return
  jax.config.update('jax_compilation_cache_dir', str(workdir / 'programs'))
  least = 0.0 if files.writable(workdir) else float('inf')  # of what is kept
  jax.config.update('jax_persistent_cache_min_compile_time_secs', least)


def _sign_results(workdir, facts, begun):
  """Adds to results.json which run it is of; `scripts.results` shows it."""
  for file in workdir.rglob('results.json'):
    if file.stat().st_mtime < begun:
      continue  # of an earlier command
    content = record.read_json(file)
    content['run'] = record.signature(facts)
    record.write_json(file, content)
