"""Programs of a method, compiled once for all its dampings and step sizes."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax

from tda_jax import settings


@functools.cache
def compiled(function: Callable) -> Callable:
  """`function` as a program that methods share whose settings agree.

  The numbers in which they may differ (`settings.TRACED`) are arguments of the
  program, in which the method is made again with them.

  Args:
    function: (method, problem, arrays...) -> arrays.
  """

  def of_numbers(method, problem, numbers, *arrays):
    method = settings.with_numbers(method, numbers)
    return function(method, problem, *arrays)

  def given(method, problem, *arrays):
    method, numbers = settings.apart(method)
    return method, problem, numbers, *arrays

  of_numbers.__name__ = function.__name__  # by which profiles know it
  program = jax.jit(of_numbers, static_argnums=(0, 1))

  @functools.wraps(function)
  def run(*args):
    return program(*given(*args))

  cast(Any, run).lower = lambda *args: program.lower(*given(*args))
  return run
