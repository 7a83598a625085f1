"""Saves and loads trees of arrays through orbax, with checksums.

A checkpoint is the folder that orbax writes and a list of its files in it, as
`sha256sum` makes and checks them; a comment in it has the folder's name, so that
one that was put in another's place is damaged. Of several hosts, each writes
checkpoints of its own, which orbax does for the first alone: these hold NumPy's
.npz instead, and both kinds are read anywhere.
"""

import hashlib
import logging
import os
import pathlib
import re
import shutil
from typing import Any, cast

import jax
import numpy as np

from tda_jax import parallel
from tda_jax.storage import files
from tda_jax.trees import PyTree

_log = logging.getLogger(__name__)
SUMS = 'sha256sums'
ARRAYS = 'arrays.npz'


def save(path: str | os.PathLike, tree: PyTree) -> None:
  """Writes `tree` to the folder `path`, which must not exist.

  It is written under another name and then renamed, so that neither a killed
  process nor a loss of power leaves half of it.

  Raises:
    ValueError: `path` exists.
  """
  from orbax.checkpoint import v1 as ocp

  files.check_local(path)
  path = pathlib.Path(path).absolute()
  if path.exists():
    raise ValueError(f'{path} exists already: delete it or save elsewhere')
  aside = path.with_name(path.name + '.partial')
  shutil.rmtree(aside, ignore_errors=True)
  aside.parent.mkdir(parents=True, exist_ok=True)
  arrays = jax.tree.map(np.asarray, tree)
  if jax.process_count() > 1:
    aside.mkdir()
    with open(aside / ARRAYS, 'wb') as file:
      np.savez(file, **cast(Any, dict(_named(arrays))))
  else:
    ocp.save(aside, arrays)  # pyright: ignore[reportArgumentType]  # takes any path
  parts = sorted(part for part in aside.rglob('*') if part.is_file())
  names = [part.relative_to(aside) for part in parts]
  (aside / SUMS).write_text(_sums(aside, names, path.name))
  for part in [*aside.rglob('*'), aside]:
    files.sync(part)
  os.replace(aside, path)
  files.sync(path.parent)


def load(path: str | os.PathLike, like: PyTree) -> PyTree:
  """The tree saved at `path`, as numpy arrays in the structure of `like`.

  Args:
    like: a tree of arrays or ShapeDtypeStructs, whose values are not read.

  Raises:
    ValueError: nothing is there, it is damaged, or it is of another model.
  """
  path = pathlib.Path(path).absolute()
  if not path.exists():
    raise ValueError(f'there is no checkpoint at {path}: run the stage first')
  hint = 'delete that folder and run the same command again'
  if not whole(path):
    raise ValueError(
      f'the checkpoint {path} is damaged or half-written: {hint}'
    )
  empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
  try:
    read = _load_npz if (path / ARRAYS).exists() else _load_alone
    tree = read(path, empty)
  except Exception as error:  # orbax and tensorstore raise a dozen kinds
    raise ValueError(
      f'the checkpoint {path} cannot be read ({type(error).__name__}: it is of'
      f' another model): {hint}'
    ) from error
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  for (name, leaf), wanted in zip(leaves, jax.tree.leaves(empty), strict=True):
    if leaf.shape != wanted.shape:
      name = jax.tree_util.keystr(name, simple=True, separator='/')
      raise ValueError(
        f'the checkpoint {path} has shape {leaf.shape} for {name!r}, this'
        f' run {wanted.shape}: {hint}'
      )
  return tree


def _named(tree) -> list[tuple[str, np.ndarray]]:
  """(name, array) of every leaf."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [(f'tree{jax.tree_util.keystr(path)}', leaf) for path, leaf in leaves]


def _load_npz(path, empty):
  """The arrays of a checkpoint that one of several hosts wrote."""
  wanted = _named(empty)
  with np.load(path / ARRAYS) as file:
    if {*file.files} != {name for name, _ in wanted}:
      raise ValueError('other names')
    read = [_typed(file[name], like.dtype) for name, like in wanted]
  return jax.tree.unflatten(jax.tree.structure(empty), read)


def _typed(array, dtype) -> np.ndarray:
  """The array as `dtype`; types that NumPy lacks (bfloat16) are bytes in a file."""
  return array.view(dtype) if array.dtype.kind == 'V' else array.astype(dtype)


def _load_alone(path, empty):
  """Loads without the other hosts."""
  from orbax.checkpoint import v1 as ocp

  this = jax.process_index()
  options = ocp.options.MultiprocessingOptions(
    primary_host=this,
    active_processes={this},
    barrier_sync_key_prefix=f'process_{this}',
  )
  with ocp.Context(multiprocessing_options=options):
    return ocp.load(path, empty)  # pyright: ignore[reportArgumentType]  # takes any path


def whole(path: str | os.PathLike) -> bool:
  """Whether the checkpoint exists and all its files are as they were saved."""
  path = pathlib.Path(path)
  try:
    text = (path / SUMS).read_text()
    names = [line[66:] for line in text.splitlines()[1:]]
    return bool(names) and _sums(path, names, path.name) == text
  except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
    return False


def keep(
  folder: str | os.PathLike, name: str, number: int, tree: PyTree
) -> None:
  """Saves `tree` as NAME_number, then deletes the others of that name.

  Of several hosts, only one may call it for a folder.
  """
  path = pathlib.Path(folder) / f'{name}_{number}'
  shutil.rmtree(path, ignore_errors=True)  # a damaged one
  save(path, tree)
  for other in _numbers(folder, name):
    if other != number:
      shutil.rmtree(path.with_name(f'{name}_{other}'))


def newest(folder: str | os.PathLike, name: str) -> int | None:
  """The largest number of an undamaged NAME_number; None if there is none.

  Damaged ones are logged: work continues from the one before them, to the same
  results.
  """
  for number in reversed(_numbers(folder, name)):
    path = pathlib.Path(folder) / f'{name}_{number}'
    if whole(path):
      return number
    _log.warning('%s is damaged: what it holds is computed again', path)
  return None


def parts(folder: str | os.PathLike, most: int) -> list[pathlib.Path]:
  """Folders of the parts into which hosts divide the work kept in `folder`.

  New work has a part for each host. Work that was begun keeps its parts on any
  number of hosts, which share these; a single part is in `folder` itself. All
  hosts call it, and none saves before.

  Args:
    most: how many parts there can be.
  """
  folder = pathlib.Path(folder)
  names = [path.name for path in folder.glob('*_*')]
  matches = [re.fullmatch(r'part_\d+_of_(\d+)', name) for name in names]
  count = max([int(match[1]) for match in matches if match], default=0)
  if not count:
    begun = any(re.fullmatch(r'[a-z]+_\d+', name) for name in names)
    count = 1 if begun else min(most, jax.process_count())
  parallel.barrier()  # all have looked before one saves
  if count == 1:
    return [folder]
  return [folder / f'part_{part}_of_{count}' for part in range(count)]


def _numbers(folder, name):
  paths = pathlib.Path(folder).glob(f'{name}_*')
  texts = [path.name.removeprefix(f'{name}_') for path in paths]
  return sorted(int(text) for text in texts if text.isdigit())


def _sums(path, names, called) -> str:
  """The folder's name, and a line for each file: its checksum and its name."""
  lines = [f'# {called}\n']
  for name in names:
    with open(path / name, 'rb') as file:
      sha = hashlib.file_digest(file, 'sha256')
    lines.append(f'{sha.hexdigest()}  {name}\n')
  return ''.join(lines)
