"""The compiled programs of scoring.

Jitted once, at module level, so that a method is not compiled again for other
data of the same shapes.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax

from tda_jax import settings
from tda_jax.methods import by_term as by_term_lib
from tda_jax.methods import method as method_lib


def _compiled(function: Callable) -> Callable:
  """A jitted function of (method, problem, arrays...), one for equal settings."""
  program = jax.jit(function, static_argnums=(0, 1))

  @functools.wraps(function)
  def run(method, problem, *arrays):
    return program(settings.same(method), problem, *arrays)

  cast(Any, run).lower = program.lower  # of the program itself
  return run


fit = _compiled(method_lib.fit)
prepare = _compiled(method_lib.prepare)
score = _compiled(method_lib.score)
vectors = _compiled(by_term_lib.vectors)
by_term = jax.jit(by_term_lib.by_term, static_argnums=0)
