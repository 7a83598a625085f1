"""Evaluates a user's function on the shapes of one example."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import trees
from tda_jax.trees import PyTree


class Refused(ValueError):
  """An example that a ready problem refuses: its sentence reaches the user as it is."""


def of(
  function: Callable, name: str, params: PyTree, example: PyTree
) -> PyTree:
  """Shapes of function(params, example), as `jax.eval_shape` gives them.

  Args:
    name: of the function, for the error.

  Raises:
    Refused: as the function raised it.
    ValueError: the function raised; the sentence says what it was given.
  """
  leaves, structure = jax.tree.flatten(example)
  # JAX has no arrays of text: such leaves are passed on as they are.
  arrays = [isinstance(x, jax.Array) or _numeric(x) for x in leaves]

  def of_arrays(params, given):
    given = iter(given)
    filled = [
      next(given) if is_array else x
      for is_array, x in zip(arrays, leaves, strict=True)
    ]
    return function(params, structure.unflatten(filled))

  try:
    if all(arrays):
      return evaluated(function, params, example)
    given = [x for is_array, x in zip(arrays, leaves, strict=True) if is_array]
    return jax.eval_shape(of_arrays, params, given)
  except Refused:
    raise
  except Exception as error:
    said = (str(error).strip() or 'no message').splitlines()[0]
    raise ValueError(
      f'{name} raised {type(error).__name__} on one example: {said.rstrip(".")};'
      f' it was given parameters {described(params)} and the example'
      f' {described(example)} (without a batch axis)'
    ) from error


def evaluated(function: Callable, *given: PyTree) -> PyTree:
  """`jax.eval_shape`, cached by function and shapes."""
  return _evaluated(function, *(_hashable(tree) for tree in given))


@functools.lru_cache(256)
def _evaluated(function, *given):
  trees_ = [structure.unflatten(leaves) for leaves, structure in given]
  return jax.eval_shape(function, *trees_)


def _hashable(tree):
  leaves, structure = jax.tree.flatten(tree)
  return tuple(map(shape, leaves)), structure


def shape(leaf: Any) -> jax.ShapeDtypeStruct:
  """Shape of an array, and the type that JAX would give it."""
  dtype = getattr(leaf, 'dtype', None)
  dtype = jnp.result_type(leaf) if dtype is None else dtype
  if not jnp.issubdtype(dtype, jax.dtypes.extended):
    dtype = jax.dtypes.canonicalize_dtype(dtype)
  return jax.ShapeDtypeStruct(jnp.shape(leaf), dtype)


def described(tree: PyTree, most: int = 8) -> str:
  """Names, types and shapes of the leaves, for example '{w float32[4, 3]}'."""
  shown = [
    f'{name or "array"} {getattr(leaf, "dtype", type(leaf).__name__)}'
    f'{list(jnp.shape(leaf))}'
    for name, leaf in zip(trees.names(tree), jax.tree.leaves(tree), strict=True)
  ]
  more = f' and {len(shown) - most} more' if len(shown) > most else ''
  return f'{{{", ".join(shown[:most])}{more}}}'


def _numeric(leaf):
  return jnp.issubdtype(np.asarray(leaf).dtype, np.number) or (
    np.asarray(leaf).dtype == bool
  )


def depends(function: Callable, params: PyTree, example: PyTree) -> bool:
  """Whether function(params, example) reads any leaf of the parameters."""
  return _depends(function, _hashable(params), _hashable(example))


@functools.lru_cache(256)
def _depends(function, params, example):
  params, example = (s.unflatten(leaves) for leaves, s in (params, example))
  jaxpr = jax.make_jaxpr(function)(params, example).jaxpr
  reached = {id(v) for v in jaxpr.invars[: len(jax.tree.leaves(params))]}
  for (
    equation
  ) in jaxpr.eqns:  # what is within an equation reads all it is given
    if any(id(v) in reached for v in equation.invars):
      reached.update(map(id, equation.outvars))
  return any(id(v) in reached for v in jaxpr.outvars)
