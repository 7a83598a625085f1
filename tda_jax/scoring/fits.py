"""What a method fits, apart from the queries, and kept for later ones."""

import functools
import os
import pathlib

import jax

from tda_jax import door, memory, parallel
from tda_jax.methods import fitted as fitted_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.fitted import Fitted
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.scoring import programs
from tda_jax.storage import checkpoints, record
from tda_jax.trees import PyTree


@door.verb('fit')
def fit(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  *,
  key: jax.Array | int | None = None,
  path: str | os.PathLike | None = None,
) -> Fitted:
  """What a method needs of the training rows, once for any queries.

  For `attribute`, `top_k` and `self_influence` with the same arguments; queries may
  be others, and so may what only a solver reads: another damping of `ekfac`, `cg`
  or `astra` needs no new fit.

  Args:
    run: one model, as a Run or its parameters; an ensemble's members for an
      `ensemble` method.
    key: see `attribute`, which must get the same one.
    path: a folder that keeps the fit; the same call reads it there. None: it is
      not kept.

  Raises:
    ValueError: what `door.enter` refuses; the method fits nothing that serves for
      other queries; `path` is of something else.
  """
  entered = door.enter(method, problem, run, train, None, key)
  door.check_path(path)
  return computed(method, problem, entered, method_lib.name_of(method), path)


def computed(
  method: Method,
  problem: Problem,
  entered: door.Entered,
  name: str,
  path: str | os.PathLike | None,
) -> Fitted:
  """`fit` of arguments that are checked.

  Args:
    entered: with the run that `method.prepare` gets.
    name: of the method, for errors.
  """
  about = fitted_lib.about_fit(method, problem, entered, name)
  run, train, _, key, _ = entered

  program = functools.partial(programs.fit, method, problem)

  def work():
    with memory.explained('fit', name):
      return parallel.by_all_hosts(program, run, train, key)

  if path is None:
    return Fitted(work(), about)
  if not parallel.in_turn(lambda: _is_kept(path, about)):
    state = work()
    if parallel.owner():
      checkpoints.keep(path, 'fit', 0, state)
    record.complete(path)
    parallel.barrier()
  like = jax.eval_shape(program, run, train, key)
  return Fitted(checkpoints.load(pathlib.Path(path) / 'fit_0', like), about)


def _is_kept(path, about) -> bool:
  """Whether the fit is in the folder `path`, whole; it begins there if not."""
  record.begin(path, about)
  return checkpoints.newest(path, 'fit') is not None
