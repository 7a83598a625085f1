"""Vector algebra on parameter trees, for one vector or a stack of Q.

A stack of Q vectors is a tree whose leaves are [Q, ...]. `add`, `scaled` and
`where` are optax.tree's `add_scale`, `scale` and `where` with two differences:
a scale or condition may be [Q], one for each vector of a stack, and the result
keeps the type of the leaves (a bfloat16 leaf times a float32 scale is bfloat16).
"""

import fnmatch
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# A tree of arrays: nested dicts, lists, tuples and NamedTuples, as
# `jax.tree.map` takes them. Types do not say more: JAX has none for trees.
PyTree = Any
# An array, on the device or on the host.
Array = jax.Array | np.ndarray


def size(tree: PyTree) -> int:
  """Number of entries."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def names(tree: PyTree) -> list[str]:
  """Paths of the leaves, for example 'layer0/kernel'."""
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
  return [jax.tree_util.keystr(p, simple=True, separator='/') for p in paths]


def fitting(
  names: Sequence[str], patterns: str | Sequence[str], field: str
) -> set[int]:
  """Indices of the names that fit a pattern, for example '*/kernel'.

  Args:
    field: where the patterns were given.

  Raises:
    ValueError: a pattern fits no name.
  """
  chosen = set()
  for pattern in (patterns,) if isinstance(patterns, str) else patterns:
    fit = {i for i, n in enumerate(names) if fnmatch.fnmatch(n, pattern)}
    if not fit:
      raise ValueError(
        f'{field}={pattern!r} fits no parameter: choose among {[*names]}'
      )
    chosen |= fit
  return chosen


def add(a: PyTree, b: PyTree, scale: ArrayLike = 1.0) -> PyTree:
  """a + scale·b; `scale` is a number, or [Q] for stacks of Q vectors."""
  return jax.tree.map(lambda x, y: x + _aligned(scale, y) * y, a, b)


def scaled(scale: ArrayLike, tree: PyTree) -> PyTree:
  """scale·tree; `scale` is a number, or [Q] for a stack of Q vectors."""
  return jax.tree.map(lambda x: _aligned(scale, x) * x, tree)


def where(condition: jax.Array, a: PyTree, b: PyTree) -> PyTree:
  """a where `condition` [Q] is true, else b, for two stacks of Q vectors."""
  return jax.tree.map(
    lambda x, y: jnp.where(_aligned(condition, x), x, y), a, b
  )


def zeros(tree: PyTree) -> PyTree:
  """A tree of zeros, shaped like another."""
  return jax.tree.map(jnp.zeros_like, tree)


def dots(a: PyTree, b: PyTree) -> jax.Array:
  """Inner products of two stacks of vectors, [Q]."""
  of_leaves = (
    jnp.sum(
      x * y,
      axis=tuple(range(1, x.ndim)),
      dtype=jnp.promote_types(x.dtype, jnp.float32),
    )
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )
  return cast(jax.Array, sum(of_leaves))


def norms(a: PyTree) -> jax.Array:
  """Euclidean norms of a stack of vectors, [Q]."""
  return jnp.sqrt(dots(a, a))


def largest(a: PyTree) -> jax.Array:
  """Largest absolute entries of a stack of vectors, [Q]."""
  sizes = [
    jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), initial=0.0)
    for x in jax.tree.leaves(a)
  ]
  return jnp.max(jnp.stack(sizes), 0)


def count(stack: PyTree) -> int:
  """Length Q of the leading axis, which all leaves share."""
  lengths = {leaf.shape[0] for leaf in jax.tree.leaves(stack)}
  if len(lengths) != 1:
    raise ValueError(f'leading axes differ: {sorted(lengths)}')
  return lengths.pop()


def row(stack: PyTree, i: int | jax.Array) -> PyTree:
  """Entry i along the leading axis."""
  return jax.tree.map(lambda x: x[i], stack)


def repeated(tree: PyTree, times: int) -> PyTree:
  """Each leaf repeated on a new leading axis; NumPy's leaves as views."""

  def of(x):
    library = np if isinstance(x, np.ndarray) else jnp
    return library.broadcast_to(x, (times, *jnp.shape(x)))

  return jax.tree.map(of, tree)


def widened(tree: PyTree) -> PyTree:
  """Converts floating leaves that are narrower than float32 to float32."""
  return jax.tree.map(
    lambda x: (
      x.astype(jnp.promote_types(x.dtype, jnp.float32))
      if jnp.issubdtype(x.dtype, jnp.floating)
      else x
    ),
    tree,
  )


def _aligned(scale, leaf):
  """`scale` in the leaf's type, with axes of length 1 for all but the first."""
  scale = jnp.asarray(scale, leaf.dtype)  # the algebra keeps the leaves' types
  return (
    scale.reshape(scale.shape + (1,) * (leaf.ndim - scale.ndim))
    if scale.ndim
    else scale
  )
