"""A compiler whose sums are wrong is not used, or refused."""

import os
import subprocess
import sys

import pytest

from tda_jax import compiler

FIRST = 'import jax.numpy as jnp; jnp.zeros(3).sum()'
THEN = 'import tda_jax; from tda_jax import compiler; compiler.check()'


def told(*lines, flags=''):
  """What a process that runs these lines says at last."""
  done = subprocess.run(
    [sys.executable, '-c', '\n'.join(lines)],
    env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stderr.strip().splitlines()[-1:]


def test_sums_are_right_here():
  compiler.check()


def test_flags_that_are_there_stay(monkeypatch):
  for given in ('', '--xla_dump_hlo_as_text=false'):
    for version in (*compiler.FAULTY, '0.10.1', '0.12.0'):
      monkeypatch.setenv('XLA_FLAGS', given)
      monkeypatch.setattr(compiler, 'VERSION', version)
      compiler.avoid()
      added = compiler.CURE if version in compiler.FAULTY else ''
      assert os.environ['XLA_FLAGS'] == f'{given} {added}'.strip()
      compiler.avoid()
      assert os.environ['XLA_FLAGS'].count('ynn') == bool(added)


@pytest.mark.skipif(compiler.VERSION != '0.10.2', reason='of that version')
def test_what_is_wrong_is_refused_and_its_cures_cure():
  status, said = told(FIRST, THEN)
  assert status and 'computes sums wrongly on this CPU' in said[0]
  assert told(THEN, FIRST)[0] == 0
  assert told(FIRST, THEN, flags=compiler.CURE)[0] == 0
