"""The dual's largest rows, against a dense float64 oracle."""

import functools

import jax
import numpy as np
import tiny

from tda_jax.curvature import dual
from tda_jax.data import rows as rows_lib


@functools.partial(jax.jit, static_argnums=(0, 1))
def _of_largest(problem, count, params, train, v):
  stack = rows_lib.stacked(train, 4)
  z = dual.outputs(problem, params, stack)
  rows, total = dual.largest(problem, params, stack, z, count)
  forward, transpose = dual.products(problem, params, train, rows, 3)
  b = forward(v)
  matrix = dual.gram(problem, params, train, rows, 3)
  return rows, total, matrix, b, transpose(b)


def test_the_largest_rows_are_those_of_the_eigenvectors():
  t = tiny.classification()
  j, h = tiny.jacobian(t, t.train), tiny.loss_hessians(t, t.train)
  values, vectors = np.linalg.eigh(h)
  roots = vectors * np.sqrt(np.maximum(values, 0))[:, None]
  b = np.einsum('nkr,nkp->nrp', roots, j)
  squares = (b**2).sum(-1)
  largest = np.sort(squares.ravel())[::-1][:10]
  v = tiny.vectors(t)
  rows, total, matrix, along, back = _of_largest(
    t.problem, 10, t.params, t.train, v
  )
  np.testing.assert_allclose(total, squares.sum(), rtol=1e-4)
  np.testing.assert_allclose(np.diag(matrix), largest, rtol=1e-4)
  kept = np.einsum('rk,rkp->rp', rows.roots, j[rows.index])
  np.testing.assert_allclose(matrix, kept @ kept.T, atol=1e-5 * largest[0])
  np.testing.assert_allclose(along, tiny.flat(v) @ kept.T, atol=1e-4)
  np.testing.assert_allclose(
    tiny.flat(back), np.asarray(along) @ kept, atol=1e-4
  )


def test_all_rows_carry_the_whole_curvature():
  """One set of rows or another of the same curvature: the traces agree."""
  t = tiny.classification()
  n = len(t.train['y'])
  rows, total, matrix, _, _ = _of_largest(
    t.problem, 3 * n, t.params, t.train, tiny.vectors(t)
  )
  whole = jax.jit(dual.gram_of_all, static_argnums=(0, 3))(
    t.problem, t.params, t.train, 4
  )
  np.testing.assert_allclose(np.trace(matrix), total, rtol=1e-4)
  # BBᵀ of another root has other entries and the same eigenvalues.
  both = [np.linalg.eigvalsh(np.asarray(m, float)) for m in (matrix, whole)]
  np.testing.assert_allclose(*both, atol=1e-5 * both[0].max())
