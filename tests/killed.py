"""A run that is killed amid its work."""

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable


def killed(module: str, code: str, begun: Callable[[], bool]) -> None:
  """Runs `code` in a process of its own and kills that when begun() is true.

  Args:
    module: file of the test module that the code knows as `t`.
  """
  folders = [str(pathlib.Path(file).parent) for file in (module, __file__)]
  code = f"""
import sys
sys.path += {folders!r}
import {pathlib.Path(module).stem} as t
{code}"""
  child = subprocess.Popen([sys.executable, '-c', code])
  try:
    limit = time.monotonic() + 120
    while time.monotonic() < limit and child.poll() is None and not begun():
      time.sleep(0.005)
  finally:
    child.send_signal(signal.SIGKILL)
    child.wait()
  assert child.returncode == -signal.SIGKILL
