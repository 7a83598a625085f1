"""Pods of fake hosts: processes of this machine, which are killed if need be."""

import os
import pathlib
import signal
import subprocess
import time

import numpy as np

from tda_jax.storage import scores

ROOT = pathlib.Path(__file__).parents[1]


def pod(logs, *command, processes=2, devices=2):
  """Starts a pod of fake hosts; its processes are one group."""
  script = ROOT / 'scripts' / 'fake_pod.sh'
  return subprocess.Popen(
    [script, str(processes), str(devices), *command],
    cwd=ROOT,
    # All devices of a host: those of tests use one.
    env={
      **os.environ,
      'LOGS': str(logs),
      'TDA_DEVICES': '99',
      'PYTHONPATH': str(ROOT),
    },
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )


def finished(logs, *command, seconds=1800, **shape):
  """Runs a command on a pod to its end, which must be status 0."""
  both = pod(logs, *command, **shape)
  try:
    assert both.wait(seconds) == 0, (logs / '0.log').read_text()[-2000:]
  finally:
    if both.poll() is None:
      os.killpg(both.pid, signal.SIGKILL)


def kill_one(logs, *command, begun, victim, seconds=900, **shape):
  """Starts a pod, and kills one host once begun(): the others end within 30 s."""
  both = pod(logs, *command, **shape)
  limit = time.monotonic() + seconds
  while time.monotonic() < limit and both.poll() is None and not begun():
    time.sleep(0.02)
  if both.poll() is None and not begun():
    os.killpg(both.pid, signal.SIGKILL)
  assert both.poll() is None, 'nothing was there to kill'
  children = subprocess.run(
    ['pgrep', '-P', str(both.pid), '-f', command[2]],  # python -m MODULE
    capture_output=True, text=True,
  ).stdout.split()  # fmt: skip
  os.kill(int(children[victim]), signal.SIGKILL)
  killed = time.monotonic()
  assert both.wait(60) != 0 and time.monotonic() - killed < 30


def stored(workdir):
  """Name of every store in the workdir -> its values."""
  stores = {
    str(file.parent.relative_to(workdir)): scores.read(scores.open(file.parent))
    for file in workdir.rglob('zarr.json')
  }
  assert stores
  return stores


def assert_same(workdir, other, near=5e-5):
  """All stores of two workdirs have the same values, up to rounding.

  Args:
    near: of the largest value. Uncertainties, which divide by differences between
      few models, may be ten times that apart.
  """
  found, want = stored(workdir), stored(other)
  assert found.keys() == want.keys()
  for name in want:
    off = np.abs(found[name] - want[name]).max() / np.abs(want[name]).max()
    assert off <= (10 * near if name.endswith('uncertainty') else near), name
