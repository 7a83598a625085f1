"""Arnoldi against the leading eigenvectors; spaces that close."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax.inverses import arnoldi, inverse

KEY = jax.random.key(4)


def solve(solver, t, v):
  return tiny.solve(solver, t, v, KEY)


def leading(t, rank, damping=0.0):
  values, e = np.linalg.eigh(tiny.dense_ggn(t, t.train))
  e = e[:, -rank:]
  return (e / (values[-rank:] + damping)) @ e.T


def test_the_inverse_on_the_leading_eigenvectors():
  t = tiny.classification(l2=0.02)
  v = tiny.basis(t.params)
  found = solve(arnoldi.arnoldi(0.1, rank=6, steps=39, batch_size=4), t, v)
  want = leading(t, 6, 0.1)
  np.testing.assert_allclose(
    tiny.flat(found.x), want, atol=1e-3 * np.abs(want).max()
  )


def test_a_space_that_closes_early_is_exact_and_finite():
  """Two rows: the GGN has rank 4 of 39; 30 steps find no more directions."""
  t = tiny.classification(n=2)
  v = tiny.basis(t.params)
  found = solve(arnoldi.arnoldi(rank=20, steps=30), t, v)
  x = tiny.flat(found.x)
  assert np.isfinite(x).all()
  want = np.linalg.pinv(tiny.dense_ggn(t, t.train), rcond=1e-6)
  np.testing.assert_allclose(x, want, atol=2e-3 * np.abs(want).max())


def test_krylov_stops_where_nothing_is_left():
  a = jnp.diag(jnp.array([3.0, 3.0, 3.0, 1.0, 0.0]))
  start = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0])
  basis, projected = arnoldi.krylov(lambda v: a @ v, start, 5)
  lengths = jnp.linalg.norm(basis, axis=1)
  np.testing.assert_allclose(lengths, [1, 1, 0, 0, 0], atol=1e-6)
  np.testing.assert_allclose(
    np.linalg.eigvalsh(projected), [0, 0, 0, 1, 3], atol=1e-5
  )
  nothing = arnoldi.krylov(lambda v: 0 * v, start, 3)
  assert np.isfinite(nothing[0]).all() and np.abs(nothing[1]).max() == 0


def test_what_is_dropped_shows_in_the_residual():
  t = tiny.classification()
  v = jax.tree.map(lambda x: x[:3], tiny.basis(t.params))
  solver = arnoldi.arnoldi(0.1, rank=3, steps=20)
  found = solve(inverse.with_residual(solver), t, v)
  system = tiny.dense_ggn(t, t.train) + 0.1 * np.eye(39)
  left = tiny.flat(v) - tiny.flat(found.x) @ system
  np.testing.assert_allclose(
    found.residuals[-1], np.linalg.norm(left, axis=1), rtol=1e-3
  )


def test_parameters_that_are_not_finite_are_said_to_be():
  t = tiny.classification()
  t = t._replace(params=jax.tree.map(lambda x: x * jnp.nan, t.params))
  v = jax.tree.map(lambda x: jnp.ones((1, *x.shape)), t.params)
  found = solve(arnoldi.arnoldi(rank=2, steps=3), t, v)
  assert np.isnan(tiny.flat(found.x)).all()


def test_bad_settings():
  with pytest.raises(ValueError, match='rank=9 of 8 steps'):
    arnoldi.arnoldi(rank=9, steps=8)
  with pytest.raises(ValueError, match="damping='heuristic' of arnoldi"):
    arnoldi.arnoldi('heuristic')
