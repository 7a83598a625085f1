"""A compiler whose sums are wrong is not used, or refused; none waits without end."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
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


def test_stacks_are_decomposed_as_each_matrix_is():
  x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
  want = [jnp.linalg.qr(matrix) for matrix in x.reshape(6, 5, 4)]
  qr = compiler.one_by_one(jnp.linalg.qr)
  for found in (qr(x), jax.vmap(qr)(x), jax.jit(qr)(x)):
    for part, shape in ((0, (2, 3, 5, 4)), (1, (2, 3, 4, 4))):
      assert found[part].shape == shape
      np.testing.assert_allclose(
        found[part].reshape(6, *shape[2:]), [w[part] for w in want], atol=1e-5
      )
  np.testing.assert_allclose(qr(x[0, 0])[0], want[0][0], atol=1e-5)


# Two stacks at once, again and again. Ended: none has waited for the other.
STRESS = """
import jax, jax.numpy as jnp
from tda_jax import compiler
from jax.scipy import linalg
positive = lambda x: x @ jnp.swapaxes(x, -1, -2) + jnp.eye(x.shape[-1])
eigh = lambda x: jnp.linalg.eigh(positive(x))[1]
qr = lambda x: jnp.linalg.qr(x)[0]
cholesky = lambda x: linalg.cho_solve((jnp.linalg.cholesky(positive(x)), True), x)
one = compiler.one_by_one({})
both = jax.jit(lambda x, y: (one(x), one(y)))
x = jax.random.normal(jax.random.key(0), (8, 48, 48))
for i in range(400):
  jax.block_until_ready(both(x + i, x - i))
"""


@pytest.mark.slow
@pytest.mark.parametrize('name', ['eigh', 'qr', 'cholesky'])
def test_decompositions_do_not_wait_for_each_other(name):
  program = STRESS.format(name)
  done = subprocess.run([sys.executable, '-c', program], timeout=300)
  assert done.returncode == 0
