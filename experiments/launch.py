"""What every experiment script shares: flags, the run record, clear errors."""

import pathlib
import sys
import time
from typing import Callable

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from tda_jax import parallel
from tda_jax.storage import record

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'configs/NAME/SETTING.py[:arguments]', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'where every result is kept')
_TRACEBACK = flags.DEFINE_bool('traceback', False, 'show where an error arose')


def launch(main: Callable) -> None:
  """Runs main(config, workdir) as an absl program.

  Writes <workdir>/run.json (resolved config, command, commit, versions,
  devices). Bad input ends the program with one sentence and status 1.
  """

  def run(argv):
    if len(argv) > 1:
      raise app.UsageError(f'unknown arguments {argv[1:]}')
    parallel.start()
    config, workdir = _CONFIG.value, pathlib.Path(_WORKDIR.value)
    started = time.monotonic()
    facts = {'config': config.to_dict(), **record.environment()}
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      record.write_json(workdir / 'run.json', facts)
      main(config, workdir)
    except (ValueError, OSError) as error:
      if _TRACEBACK.value:
        raise
      print(f'error: {error}', file=sys.stderr)
      sys.exit(1)
    facts['seconds'] = round(time.monotonic() - started, 1)
    record.write_json(workdir / 'run.json', facts)
    logging.info('done in %.0f s', facts['seconds'])

  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(run)
