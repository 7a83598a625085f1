"""Solvers of the true Hessian, and what they say where it is indefinite."""

import jax
import numpy as np
import pytest
import tiny

from tda_jax.inverses import arnoldi, cg, dense, descent, ekfac, inverse

KEY = jax.random.key(3)
CURVED = {'curvature': 'hessian', 'batch_size': 4}
KRONECKER = ekfac.ekfac(0.5, labels='exact', batch_size=4)
SOLVERS = {
  'dense': lambda damping: dense.dense(damping, **CURVED),
  'cg': lambda damping: cg.cg(damping, tolerance=1e-5, **CURVED),
  'cg_ekfac': lambda damping: cg.cg(
    damping, tolerance=1e-5, precondition=KRONECKER, **CURVED
  ),
  'lissa': lambda damping: descent.lissa(
    damping, curvature='hessian', batch_size=16, rounds=30, tolerance=1e-3
  ),
  'astra': lambda damping: descent.astra(
    damping,
    curvature='hessian',
    precondition=KRONECKER,
    batch_size=16,
    rounds=30,
    tolerance=1e-3,
  ),
}


def solve(solver, t, v):
  return tiny.solve(solver, t, v, KEY)


def vectors(t):
  return jax.tree.map(lambda x: x[5:8], tiny.basis(t.params))


@pytest.mark.parametrize('name', SOLVERS)
def test_solves_the_hessian_where_damping_makes_it_positive(name):
  t = tiny.classification(l2=0.1)
  v = vectors(t)
  hessian = tiny.dense_hessian(t, t.train)
  smallest = np.linalg.eigvalsh(hessian)[0]
  assert smallest < -0.05  # the Hessian is not the GGN here
  damping = 0.3 - smallest
  found = solve(SOLVERS[name](damping), t, v)
  system = hessian + damping * np.eye(len(hessian))
  want = np.linalg.solve(system, tiny.flat(v).T).T
  error = np.linalg.norm(tiny.flat(found.x) - want, axis=1)
  loose = 2e-3 if name in ('lissa', 'astra') else 1e-4
  assert (error < loose * np.linalg.norm(want, axis=1)).all()
  assert found.converged.all() and not found.diverged.any()
  left = tiny.flat(v) - tiny.flat(found.x) @ system
  np.testing.assert_allclose(
    found.residuals[-1], np.linalg.norm(left, axis=1), atol=2e-5
  )


@pytest.mark.parametrize('name', ['dense', 'cg', 'cg_ekfac'])
def test_negative_curvature_is_said(name):
  t = tiny.classification()
  hessian = tiny.dense_hessian(t, t.train)
  values, directions = np.linalg.eigh(hessian)
  damping = -0.5 * values[0]
  unravel = jax.flatten_util.ravel_pytree(t.params)[1]
  v = jax.vmap(unravel)(directions[:, [0]].T.astype(np.float32))
  found = solve(SOLVERS[name](damping), t, v)
  assert found.diverged.all() and not found.converged.any()
  with pytest.raises(ValueError, match='above minus the smallest eigenvalue'):
    inverse.check(found, name)
  # With enough damping the same query is solved.
  assert not solve(SOLVERS[name](-2 * values[0]), t, v).diverged.any()


def test_descent_diverges_on_an_indefinite_hessian():
  t = tiny.classification()
  values, directions = np.linalg.eigh(tiny.dense_hessian(t, t.train))
  unravel = jax.flatten_util.ravel_pytree(t.params)[1]
  v = jax.vmap(unravel)(directions[:, [0]].T.astype(np.float32))
  solver = descent.lissa(
    1e-3, curvature='hessian', scale=2 * values[-1], steps=2000, batch_size=11
  )
  assert solve(solver, t, v).diverged.all()


def test_arnoldi_keeps_negative_eigenvalues():
  t = tiny.classification()
  values, e = np.linalg.eigh(tiny.dense_hessian(t, t.train))
  top = np.argsort(-np.abs(values))[:12]
  assert values[top].min() < 0 < values[top].max()
  solver = arnoldi.arnoldi(0.0, rank=12, steps=39, **CURVED)
  v = vectors(t)
  want = (tiny.flat(v) @ e[:, top] / values[top]) @ e[:, top].T
  np.testing.assert_allclose(
    tiny.flat(solve(solver, t, v).x), want, atol=2e-3 * np.abs(want).max()
  )


def test_bad_settings_of_the_hessian():
  with pytest.raises(ValueError, match="curvature='fisher' is unknown"):
    cg.cg(0.1, curvature='fisher')
  with pytest.raises(ValueError, match='may be negative for the Hessian'):
    dense.dense('heuristic', curvature='hessian')
