"""Weights that others have saved: files to tensors, tensors to parameters."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from tda_jax.trees import PyTree

ONE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
PARTS = ('query', 'key', 'value')  # of GPT-2's one matrix, in its order


def tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Name -> array, in the file's types, of one safetensors file.

  Raises:
    ValueError: no such file, or no safetensors; the package is absent.
  """
  import ml_dtypes  # noqa: F401  NumPy then knows bfloat16

  try:
    from safetensors import SafetensorError, safe_open
  except ImportError:
    raise ValueError(
      'weights are read with the package safetensors: pip install'
      ' "tda_jax[vit]", or "tda_jax[lm]" for language models'
    ) from None
  try:
    with safe_open(path, framework='np') as file:
      return {name: file.get_tensor(name) for name in file.keys()}
  except (OSError, SafetensorError) as error:
    raise ValueError(
      f'{path} is no safetensors file that can be read ({error}): give the path'
      ' of a model.safetensors'
    ) from None


def of_folder(folder: str | os.PathLike) -> dict[str, np.ndarray]:
  """The tensors of model.safetensors, or of all parts that its index names.

  Raises:
    ValueError: no such file; a part is absent or damaged.
  """
  folder = pathlib.Path(folder)
  if (folder / ONE).exists():
    return tensors(folder / ONE)
  if not (folder / INDEX).exists():
    raise ValueError(
      f'{folder} has no {ONE} and no {INDEX}: give the folder of a model that'
      ' was saved with save_pretrained(..., safe_serialization=True)'
    )
  parts = read_json(folder / INDEX).get('weight_map', {})
  if absent := [n for n in {*parts.values()} if not (folder / n).exists()]:
    raise ValueError(
      f'{folder} has no {min(absent)}, which {INDEX} names: download the parts'
      ' that are absent'
    )
  files = [tensors(folder / name) for name in sorted({*parts.values()})]
  return {name: x for file in files for name, x in file.items()}


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file.

  Raises:
    ValueError: no such file, or it holds no object.
  """
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except OSError:
    raise ValueError(
      f'there is no {path}: give the folder of a model, with its {path.name}'
    ) from None
  except ValueError as error:
    value = error
  if not isinstance(value, dict):
    raise ValueError(
      f'{path} is damaged, no JSON object ({value!s:.60}): get the file again'
    )
  return value


def without(
  prefix: str, given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """The tensors, with a prefix that some files put before names taken off."""
  return {name.removeprefix(prefix): x for name, x in given.items()}


def name_of(
  at: str, names: Mapping[str, str], blocks: str, block: str = 'block_'
) -> str:
  """The file's name of a parameter of ours.

  Args:
    at: path of the parameter, 'block_3/query/kernel' or 'norm/scale'.
    names: our names -> the file's, of what is in a block and of the rest.
    blocks: what the file puts before the number of a block.
    block: what we put there.
  """
  first, *rest = at.split('/')
  if first.startswith(block):
    stem = f'{blocks}.{first.removeprefix(block)}.{names[rest[0]]}'
  else:
    stem = names[first]
  return f'{stem}.{"bias" if rest[-1:] == ["bias"] else "weight"}'


def part_of(at: str) -> str:
  """What a parameter belongs to: 'query' of 'block_3/query/kernel', else ''."""
  return at.split('/')[-2] if '/' in at else ''


def third(part: str, tensor: np.ndarray, axis: int) -> np.ndarray:
  """One of `PARTS` of the matrix or bias that GPT-2 keeps them in, by outputs.

  Args:
    part: 'query', 'key' or 'value'.
    axis: that of the outputs.
  """
  return np.split(tensor, 3, axis)[PARTS.index(part)]


def inputs_first(at: str, tensor: np.ndarray) -> np.ndarray:
  """A parameter from torch's layout: matrices [O, I] as [I, O]."""
  return tensor.T if at.endswith(('kernel', 'head')) else tensor


def fitted(
  path: str | os.PathLike,
  given: Mapping[str, np.ndarray],
  wanted: PyTree,
  named: Callable[[str], str],
  converted: Callable[[str, np.ndarray], np.ndarray],
  hint: str,
  unused: Iterable[str] = (),
  dtype: Any = np.float32,
) -> PyTree:
  """The tensors as a tree of parameters like `wanted`.

  Args:
    path: of the file, for errors.
    given: its tensors, by name.
    wanted: shapes of the parameters.
    named: path of a parameter, 'a/b' -> its name in the file.
    converted: (path of a parameter, tensor) -> the parameter.
    hint: what errors about names say to do.
    unused: names that a file may have besides.
    dtype: of the parameters.

  Raises:
    ValueError: a tensor is missing, unknown, of another shape or type, or has
      numbers that are not finite.
  """
  paths = jax.tree_util.tree_map_with_path(lambda at, _: _path(at), wanted)
  names = {named(at) for at in jax.tree.leaves(paths)}
  for what, wrong in (
    ('has no tensor', names - {*given}),
    ('has an unknown tensor', {*given} - names - {*unused}),
  ):
    if wrong:
      first, *more = sorted(wrong)
      others = f' (nor {len(more)} others)' if more else ''
      raise ValueError(f'{path} {what} {first}{others}: {hint}')

  def parameter(at, want):
    tensor = given[named(at)]
    try:
      value = converted(at, tensor)
    except (ValueError, IndexError):  # of another number of axes or entries
      value = None
    if value is None or value.shape != want.shape:
      raise ValueError(
        f'{path}: {named(at)} has shape {[*map(int, tensor.shape)]}, which does not'
        f' fit the other tensors ({list(want.shape)} in this package): get the'
        ' file again'
      )
    floats = np.ascontiguousarray(value, dtype)
    whole = value.dtype.kind in 'iub'
    if whole or not np.isfinite(floats).all():
      what = (
        f'is {tensor.dtype}' if tensor.dtype.kind in 'iub' else 'is not finite'
      )
      raise ValueError(
        f'{path}: {named(at)} {what}: get the file again, or another that has its'
        ' weights as floating-point numbers'
      )
    return floats

  return jax.tree.map(parameter, paths, wanted)


def _path(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
