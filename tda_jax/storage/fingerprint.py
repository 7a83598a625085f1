"""Fingerprints of computations: hashes that differ if the computation does.

A function of the user is identified by its jaxpr, with the constants that it
closes over, so that an edited loss is another loss whatever its name. Arrays are
identified by their contents.
"""

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from tda_jax import parallel, shapes, sources
from tda_jax.problem import Problem, bound
from tda_jax.trees import PyTree
from tda_jax.version import __version__

ADDRESS = re.compile(r'\bat 0x[0-9a-f]+')  # of a function, anew in each process


def digest(tree: PyTree) -> str:
  """A short hash of the contents of a tree of arrays, the same everywhere."""
  if isinstance(tree, sources.Source):
    return _of_source(tree)
  sha = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      # Keys of another kind draw other numbers from the same data.
      sha.update(str(leaf.dtype).encode())
      leaf = jax.random.key_data(leaf)
    leaf = np.ascontiguousarray(leaf)
    name = jax.tree_util.keystr(path)
    sha.update(f'{name} {leaf.dtype} {leaf.shape}'.encode())
    sha.update(leaf.reshape(-1).view(np.uint8).data)
  return sha.hexdigest()[:16]


def _of_source(source) -> str:
  """The digest that the rows would have as arrays, read block by block."""
  sha = hashlib.sha256()
  example = jax.tree_util.tree_leaves_with_path(sources.example(source))
  for i, (path, leaf) in enumerate(example):
    shape = (source.count, *leaf.shape)
    name = jax.tree_util.keystr(path)
    sha.update(f'{name} {leaf.dtype} {shape}'.encode())
    for _, block in sources.blocks(source):
      column = np.ascontiguousarray(jax.tree.leaves(block)[i])
      sha.update(column.reshape(-1).view(np.uint8).data)
  return sha.hexdigest()[:16]


def versions() -> dict[str, str]:
  """The versions that numbers, and the text of jaxprs, depend on."""
  return {'tda_jax': __version__, 'jax': jax.__version__}


def abstract(tree: PyTree) -> PyTree:
  """Shapes and types of a tree of arrays."""
  return jax.tree.map(shapes.shape, tree)


def of_rows(rows: PyTree) -> PyTree:
  """Shapes and types of one example."""
  return sources.example(abstract(rows))


def of_problem(
  problem: Problem,
  params: PyTree,
  rows: PyTree,
  frozen: PyTree = None,
  queries: PyTree = None,
) -> dict[str, str]:
  """Hashes of the problem's functions and their derivatives, by name.

  Args:
    params, frozen: of one model, arrays or their shapes.
    rows: arrays [N, ...], or their shapes, that have a loss.
    queries: rows that have a measure; they may lack columns that only the loss
      needs (the teacher's logits of a distilled one). None: `rows`.
  """
  queries = rows if queries is None else queries
  shapes = abstract(params), of_rows(rows), of_rows(queries), abstract(frozen)
  with parallel.no_mesh():
    return dict(_of_problem(problem, *map(_hashable, shapes)))


def of_training(
  problem: Problem, recipe: Any, n: int, rows: PyTree, frozen: PyTree = None
) -> dict[str, str]:
  """Hashes of the functions that training evaluates, by name.

  Args:
    recipe: see `training.fit.Recipe`.
    n: number of rows that a run trains on, from which its length follows.
    rows: arrays [N, ...], or their shapes.
    frozen: of one model.
  """
  shapes = of_rows(rows), abstract(frozen)
  with parallel.no_mesh():
    return dict(_of_training(problem, recipe, n, *map(_hashable, shapes)))


def of_function(function: Callable, *shapes: PyTree) -> str:
  """Hash of a function at the given shapes, constants included."""
  with parallel.no_mesh():
    return of_jaxpr(jax.make_jaxpr(function)(*shapes))


def of_jaxpr(closed: jax.extend.core.ClosedJaxpr) -> str:
  """Hash of a ClosedJaxpr: its text, and the values of its constants."""
  sha = hashlib.sha256(ADDRESS.sub('', str(closed)).encode())
  for const in _constants(closed):
    sha.update(digest(const).encode())
  return sha.hexdigest()[:16]


@functools.lru_cache(64)
def _of_problem(problem, params, example, query, frozen):
  params, example, query, frozen = map(_tree, (params, example, query, frozen))
  outputs_hash, shape = _outputs(problem, params, example, frozen)
  arguments = (shape, example)
  # A query may be a pair of rows, with outputs of another shape.
  asked = jax.eval_shape(_called(problem), params, query, frozen)
  hashes = {
    'outputs': outputs_hash,
    'loss': of_function(_derived(problem.loss), *arguments),
    'measure': of_function(_derived(problem.measure), asked, query),
  }
  # `sample` may fail for a problem whose labels are never drawn.
  with contextlib.suppress(Exception):
    hashes['sample'] = of_function(problem.sample, _key(), *arguments)
  return tuple(hashes.items())


@functools.lru_cache(64)
def _of_training(problem, recipe, n, example, frozen):
  example, frozen = _tree(example), _tree(frozen)
  params = jax.eval_shape(recipe.init, _key())
  steps = recipe.epochs * -(-n // recipe.batch_size)
  optimizer, rate = recipe.optimizer(steps), recipe.learning_rate(steps)
  moments = jax.eval_shape(optimizer.init, params)

  def update(gradient, moments, params):
    return optimizer.update(gradient, moments, params), optimizer.init(params)

  hashes = {}
  if recipe.augment is not None:
    hashes['augment'] = of_function(recipe.augment, _key(), example)
    example = jax.eval_shape(recipe.augment, _key(), example)
  outputs_hash, shape = _outputs(problem, params, example, frozen)
  hashes |= {
    'outputs': outputs_hash,
    'loss': of_function(_derived(problem.loss), shape, example),
    'init': of_function(recipe.init, _key()),
    'optimizer': of_function(update, params, moments, params),
    'learning_rate': of_function(rate, jax.ShapeDtypeStruct((), jnp.int32)),
  }
  return tuple(hashes.items())


def _outputs(problem, params, example, frozen):
  """(hash of the outputs and of their derivative, their shape)."""

  outputs = _called(problem)

  def derived(params, example, frozen, cotangent):
    value, pull = jax.vjp(lambda p: outputs(p, example, frozen), params)
    return value, pull(cotangent)

  shape = jax.eval_shape(outputs, params, example, frozen)
  return of_function(derived, params, example, frozen, shape), shape


def _called(problem):
  """(params, example, frozen) -> outputs."""

  def outputs(params, example, frozen):
    member_problem = bound(problem, frozen if jax.tree.leaves(frozen) else None)
    return member_problem.outputs(params, example)

  return outputs


def _derived(function):
  """A function of (outputs, example), with its derivative in the outputs."""
  return jax.value_and_grad(lambda o, e: jnp.sum(function(o, e)))


def _key():
  return jax.eval_shape(lambda: jax.random.key(0))


def _constants(closed):
  """Constants of a ClosedJaxpr and of those within its equations."""
  yield from closed.consts
  for eqn in closed.jaxpr.eqns:
    for value in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda v: hasattr(v, 'eqns')
    ):
      if hasattr(value, 'consts'):
        yield from _constants(value)
      elif hasattr(value, 'eqns'):  # a Jaxpr, whose constants are arguments
        yield from _constants(jax.extend.core.ClosedJaxpr(value, ()))


def _hashable(tree):
  leaves, structure = jax.tree.flatten(tree)
  return tuple(leaves), structure


def _tree(hashable):
  leaves, structure = hashable
  return jax.tree.unflatten(structure, leaves)
