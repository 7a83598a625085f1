"""The little vector algebra on parameter trees that optax.tree does not have.

A stack of Q vectors is a tree whose leaves are [Q, ...].
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def size(tree: PyTree) -> int:
  """Number of entries."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def names(tree: PyTree) -> list[str]:
  """Paths of the leaves, as 'layer0/kernel'."""
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
  return [jax.tree_util.keystr(p, simple=True, separator='/') for p in paths]


def fitting(
  names: Sequence[str], patterns: str | Sequence[str], field: str
) -> set[int]:
  """The places of the names that fit a pattern, as '*/kernel'.

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


def add(a: PyTree, b: PyTree, scale=1.0) -> PyTree:
  """a + scale·b; `scale` is a number, or [Q] for stacks of Q vectors."""
  return jax.tree.map(lambda x, y: x + _along(scale, y) * y, a, b)


def scaled(scale, tree: PyTree) -> PyTree:
  """scale·tree; `scale` is a number, or [Q] for a stack of Q vectors."""
  return jax.tree.map(lambda x: _along(scale, x) * x, tree)


def where(kept, a: PyTree, b: PyTree) -> PyTree:
  """a where `kept` [Q] is true and b elsewhere, of two stacks of Q vectors."""
  return jax.tree.map(lambda x, y: jnp.where(_along(kept, x), x, y), a, b)


def dots(a: PyTree, b: PyTree) -> jax.Array:
  """Inner products of two stacks of vectors, [Q]."""
  return sum(
    jnp.sum(
      x * y,
      axis=tuple(range(1, x.ndim)),
      dtype=jnp.promote_types(x.dtype, jnp.float32),
    )
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


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


def row(stack: PyTree, i) -> PyTree:
  """Entry i along the leading axis."""
  return jax.tree.map(lambda x: x[i], stack)


def widened(tree: PyTree) -> PyTree:
  """Floating leaves as float32 where they are narrower, as bfloat16."""
  return jax.tree.map(
    lambda x: (
      x.astype(jnp.promote_types(x.dtype, jnp.float32))
      if jnp.issubdtype(x.dtype, jnp.floating)
      else x
    ),
    tree,
  )


def _along(scale, leaf):
  scale = jnp.asarray(scale, leaf.dtype)  # the algebra keeps the leaves' types
  return (
    scale.reshape(scale.shape + (1,) * (leaf.ndim - scale.ndim))
    if scale.ndim
    else scale
  )
