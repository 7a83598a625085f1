"""Trees of arrays on disk, through orbax."""

import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

PyTree = Any


def save(path: str | os.PathLike, tree: PyTree) -> None:
  """Writes `tree` to the folder `path`, which must not exist.

  It is written aside and renamed: a killed process leaves no half of it.

  Raises:
    ValueError: `path` exists.
  """
  path = pathlib.Path(path).absolute()
  if path.exists():
    raise ValueError(f'{path} exists already: delete it or save elsewhere')
  aside = path.with_name(path.name + '.partial')
  shutil.rmtree(aside, ignore_errors=True)
  aside.parent.mkdir(parents=True, exist_ok=True)
  ocp.save(aside, jax.tree.map(np.asarray, tree))
  os.replace(aside, path)


def load(path: str | os.PathLike, like: PyTree) -> PyTree:
  """The tree saved at `path`, as numpy arrays in the structure of `like`.

  Args:
    like: a tree of arrays or ShapeDtypeStructs, whose values are not read.

  Raises:
    ValueError: nothing is there, it cannot be read, or it has other shapes.
  """
  path = pathlib.Path(path).absolute()
  if not path.exists():
    raise ValueError(f'there is no checkpoint at {path}: run the stage first')
  cure = 'delete that folder and run the same command again'
  empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
  try:
    tree = ocp.load(path, empty)
  except Exception as error:  # orbax and tensorstore raise a dozen kinds
    raise ValueError(
      f'the checkpoint {path} cannot be read ({type(error).__name__}: it is'
      f' damaged, half-written or of another model): {cure}'
    ) from error
  found = jax.tree_util.tree_leaves_with_path(tree)
  for (name, leaf), wanted in zip(found, jax.tree.leaves(empty), strict=True):
    if leaf.shape != wanted.shape:
      name = jax.tree_util.keystr(name, simple=True, separator='/')
      raise ValueError(
        f'the checkpoint {path} has shape {leaf.shape} for {name!r}, this'
        f' run {wanted.shape}: {cure}'
      )
  return tree
