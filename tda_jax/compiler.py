"""Faults of XLA on CPUs, and how they are avoided.

jaxlib 0.10.2 gives wrong numbers for x · Σ x·c where x is broadcast over a batch of
512 or more (https://github.com/jax-ml/jax/issues/39103): the gradient of a norm, of a
batch of rows and outputs, is such a product. Its fused sums are at fault, which a flag
turns off.

Decompositions of a stack of matrices (eigh, qr, cholesky and its solve) divide the stack
among the threads that also run the rest of a program, and wait for them: two of them at
once can wait for each other without end. `one_by_one` leaves nothing to divide.
"""

import functools
import importlib.metadata
import os
from collections.abc import Callable

import jax
import numpy as np

VERSION = importlib.metadata.version('jaxlib')
FAULTY = ('0.10.2', '0.11.0')  # which know the flag; others end at unknown ones
FLAG = '--xla_cpu_experimental_ynn_fusion_type'
CURE = f'{FLAG}=-reduce'


def avoid() -> None:
  """Turns the faulty sums off, if JAX has computed nothing yet."""
  given = os.environ.get('XLA_FLAGS', '')
  if VERSION in FAULTY and FLAG not in given:
    os.environ['XLA_FLAGS'] = f'{given} {CURE}'.strip()


@functools.cache
def check() -> None:
  """Raises RuntimeError if this process computes such sums wrongly."""
  if jax.default_backend() != 'cpu':
    return
  random = np.random.default_rng(0)
  x = random.integers(-3, 4, (8, 8, 8)).astype(np.float32)
  c = random.integers(-3, 4, (88, 8, 8, 8)).astype(np.float32)
  product = lambda x, c: x * (x * c).sum(-1, keepdims=True)
  if not np.array_equal(jax.jit(product)(x, c), product(x, c)):
    raise RuntimeError(
      f'jaxlib {VERSION} computes sums wrongly on this CPU'
      ' (https://github.com/jax-ml/jax/issues/39103): import tda_jax before JAX'
      f' computes anything, or start Python with XLA_FLAGS={CURE}'
    )


def one_by_one(decomposition: Callable) -> Callable:
  """A function of matrices for stacks of them, which it takes one after another.

  Args:
    decomposition: function of matrices [m, n] each, which gives a tree of arrays.

  Returns:
    The function of matrices [*stack, m, n], with results [*stack, ...]; `jax.vmap`
    of it is one by one too.
  """
  # A lambda, as defaults of arguments would be taken for arrays.
  of_one = lambda *matrices: decomposition(*matrices)
  single = jax.custom_batching.sequential_vmap(of_one)

  def of_stack(*matrices):
    one = single
    for _ in matrices[0].shape[:-2]:
      one = jax.vmap(one)
    return one(*matrices)

  return of_stack
