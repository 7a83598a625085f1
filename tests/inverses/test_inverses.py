"""What every inverse must do: solve, jit, vmap over members, report."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.flatten_util import ravel_pytree

from tda_jax import settings, trees
from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import (
  arnoldi,
  cg,
  datainf,
  dense,
  descent,
  ekfac,
  exact,
  inverse,
)

KEY = jax.random.key(2)
DAMPING = 0.05
EXACT = functools.partial(ekfac.ekfac, DAMPING, labels='exact')
SOLVERS = {
  'exact': exact.exact(DAMPING, batch_size=4),
  'exact_of_some': exact.exact(
    DAMPING, batch_size=4, memory_limit=12 * 10**2, tolerance=1e-5
  ),
  'dense': dense.dense(DAMPING, batch_size=4, columns=7),
  'cg': cg.cg(DAMPING, batch_size=4, tolerance=1e-5),
  'cg_ekfac': cg.cg(
    DAMPING, precondition=EXACT(), batch_size=4, tolerance=1e-5
  ),
  'neumann': descent.neumann(
    DAMPING, steps=400, batch_size=11, rounds=20, tolerance=1e-3
  ),
  'lissa': descent.lissa(
    DAMPING,
    repeats=2,
    steps=200,
    batch_size=16,
    rounds=20,
    tolerance=1e-3,
  ),
  'astra': descent.astra(
    DAMPING, precondition=EXACT(), batch_size=8, rounds=12, tolerance=1e-3
  ),
}
STOCHASTIC = ('astra', 'lissa', 'neumann')
CLOSED = {
  'arnoldi': arnoldi.arnoldi(DAMPING, rank=8, steps=20, batch_size=4),
  'datainf': datainf.datainf('heuristic', batch_size=4),
  'identity': inverse.identity(),
  'diagonal': ekfac.diagonal(DAMPING, batch_size=4),
  'kfac': ekfac.kfac(DAMPING, batch_size=4),
  'ekfac': ekfac.ekfac('heuristic', batch_size=4),
}


def solve(solver, t, v):
  return tiny.solve(solver, t, v, KEY)


@pytest.mark.parametrize('l2', [0.0, 0.1])
@pytest.mark.parametrize('name', SOLVERS)
def test_solves_the_dense_system(name, l2):
  t = tiny.classification(l2=l2)
  v = tiny.vectors(t)
  found = solve(SOLVERS[name], t, v)
  system = tiny.dense_ggn(t, t.train)
  system = system + DAMPING * np.eye(len(system))
  want = np.linalg.solve(system, tiny.flat(v).T).T
  got = tiny.flat(found.x)
  direct = name in ('exact', 'dense')
  tolerance = 1e-5 if direct else 2e-2 if name in STOCHASTIC else 1e-3
  error = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
  assert error.max() < tolerance
  # What it says of its residual is the truth.
  left = tiny.flat(v) - got @ system
  truth = np.linalg.norm(left, axis=1) / np.linalg.norm(tiny.flat(v), axis=1)
  np.testing.assert_allclose(found.residuals[-1], truth, atol=2e-5)
  assert found.converged.all() and not found.diverged.any()


@pytest.mark.parametrize('name', SOLVERS)
def test_a_tiny_vector_is_solved_for_as_a_large_one(name):
  t = tiny.classification()
  v = tiny.vectors(t)
  small = jax.tree.map(lambda x: x * jnp.float32(1e-25), v)
  found, want = (solve(SOLVERS[name], t, one) for one in (small, v))
  assert not found.diverged.any() and found.converged.all()
  got = tiny.flat(found.x) * 1e25
  scale = np.abs(tiny.flat(want.x)).max()
  np.testing.assert_allclose(got, tiny.flat(want.x), atol=1e-2 * scale)


@pytest.mark.parametrize('name', [*SOLVERS, *CLOSED])
def test_vmapped_over_members_is_each_alone(name):
  solver = {**SOLVERS, **CLOSED}[name]
  t = tiny.classification()
  v = tiny.vectors(t)
  members = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), t.params)

  run = lambda params: solve(solver, t._replace(params=params), v).x
  many = jax.jit(jax.vmap(run))(members)
  for e in range(2):
    got, want = (
      tiny.flat(x) for x in (trees.row(many, e), run(trees.row(members, e)))
    )
    # Stochastic solvers may take one more round beside a slower member.
    loose = 5e-3 if name in STOCHASTIC else 1e-3
    assert np.abs(got - want).max() < loose * np.abs(want).max()


@pytest.mark.slow
@pytest.mark.parametrize('name', [*SOLVERS, *CLOSED])
def test_padding_positions_count_for_nothing(name):
  solver = {**SOLVERS, **CLOSED}[name]
  found = [
    tiny.flat(solve(solver, t, tiny.vectors(t)).x)
    for t in (tiny.padded(0), tiny.padded(5))
  ]
  loose = 5e-3 if name in STOCHASTIC else 1e-3
  np.testing.assert_allclose(*found, atol=loose * np.abs(found[0]).max())


def test_ekfac_solve_is_the_inverse_of_its_own_matrix():
  t = tiny.classification(l2=0.02)
  solver = ekfac.ekfac(DAMPING, batch_size=4)
  state = tiny.fit(solver, t, KEY)
  example = rows_lib.take(t.train, 0)
  apply = jax.jit(
    lambda v: blocks_lib.apply(
      state.blocks, lambda _, s: s, t.problem, t.params, example, v
    )
  )
  matrix = tiny.flat(apply(tiny.basis(t.params)))
  v = tiny.vectors(t)
  found = solve(solver, t, v)
  system = matrix + (DAMPING + 0.02) * np.eye(len(matrix))
  want = np.linalg.solve(system, tiny.flat(v).T).T
  np.testing.assert_allclose(tiny.flat(found.x), want, atol=1e-3)


def test_heuristic_damping_is_a_tenth_of_the_mean_eigenvalue():
  t = tiny.classification()
  state = tiny.fit(EXACT(), t, KEY)
  shift = ekfac.layer_damping(state.blocks, 'heuristic')
  for name, block in state.blocks.items():
    np.testing.assert_allclose(
      shift[name], 0.1 * np.mean(block.eigenvalues), rtol=1e-6
    )
  ggn = tiny.dense_ggn(t, t.train)
  want = 0.1 * np.trace(ggn) / len(ggn)
  for solver in (
    exact.exact('heuristic'),
    dense.dense('heuristic'),
    cg.cg('heuristic', precondition=EXACT()),
  ):
    found = solve(solver, t, tiny.vectors(t))
    np.testing.assert_allclose(found.damping, want, rtol=1e-4)
  with pytest.raises(ValueError, match='preconditioner'):
    solve(cg.cg('heuristic'), t, tiny.vectors(t))


def test_paper_schedule_is_the_recursion_of_eq_9():
  """Against a plain numpy transcription, full batch so that noise is none."""
  t = tiny.classification(n=1)
  solver = descent.astra(
      DAMPING, precondition=EXACT(), steps=7, step_per_damping=0.1,
      decay_every=3, batch_size=5,
  )  # fmt: skip
  v = tiny.vectors(t, 1)
  found = solve(solver, t, v)
  system = tiny.dense_ggn(t, t.train)
  system = system + DAMPING * np.eye(len(system))
  inverse_p = tiny.flat(solve(EXACT(), t, tiny.basis(t.params)).x)
  b = tiny.flat(v)[0]
  x, m = inverse_p @ b, 0.0
  for k in range(7):
    m = 0.9 * m + inverse_p @ (system @ x - b)
    x = x - 0.1 * DAMPING * 0.5 ** (k // 3) * m
  np.testing.assert_allclose(
    tiny.flat(found.x)[0], x, atol=2e-4 * np.abs(x).max()
  )


def test_rounds_stop_at_the_tolerance_and_residuals_fall():
  t = tiny.classification()
  found = solve(SOLVERS['astra'], t, tiny.vectors(t))
  residuals = np.asarray(found.residuals.max(1))
  assert residuals[-1] < 1e-3 < residuals[0]
  assert found.steps[-1] < 200 * 12


@pytest.mark.parametrize('rounds', [1, 3])
def test_a_descent_reports_the_objective_of_its_solution(rounds):
  t = tiny.classification()
  found = solve(
    descent.astra(
      DAMPING,
      precondition=EXACT(),
      steps=8,
      reports=2,
      rounds=rounds,
      tolerance=1e-9,
    ),
    t,
    v := tiny.vectors(t),
  )
  system = np.asarray(tiny.dense_ggn(t, t.train), np.float64)
  system = system + DAMPING * np.eye(len(system))
  x, b = (tiny.flat(of).astype(np.float64) for of in (found.x, v))
  want = (0.5 * ((x @ system) * x).sum(1) - (b * x).sum(1)) / (b * b).sum(1)
  assert (
    found.objectives.shape == found.residuals.shape == (1 + 2 * rounds, len(b))
  )
  np.testing.assert_allclose(found.objectives[-1], want, rtol=1e-4)
  best = -0.5 * (np.linalg.solve(system, b.T).T * b).sum(1) / (b * b).sum(1)
  assert (
    np.asarray(found.objectives) > best * (1 + 1e-5)
  ).all()  # best is below 0


def test_a_round_that_lengthens_the_residual_is_left_out():
  """A step so long that each round multiplies what is left by more than 1."""
  t = tiny.classification()
  v = tiny.vectors(t)
  lengthening = functools.partial(
    descent.astra,
    DAMPING,
    precondition=EXACT(),
    batch_size=1,
    steps=10,
    step_size=0.1,
  )
  once = solve(lengthening(), t, v)
  again = solve(lengthening(rounds=5), t, v)
  assert (once.residuals[-1] > 1).all() and not once.diverged.any()
  np.testing.assert_array_equal(tiny.flat(again.x), tiny.flat(once.x))
  np.testing.assert_array_equal(again.residuals[-1], once.residuals[-1])
  assert again.steps[-1] == 2 * again.steps[1]  # one round more shows it
  assert not again.converged.any()


@pytest.mark.slow
def test_projection_keeps_only_high_curvature():
  t = tiny.classification()
  v = tiny.vectors(t)
  inner = exact.exact(DAMPING)
  everything = solve(ekfac.projected(inner, -1.0), t, v)
  np.testing.assert_allclose(
    tiny.flat(everything.x), tiny.flat(solve(inner, t, v).x), atol=1e-3
  )
  nothing = solve(ekfac.projected(inner, 1e9), t, v)
  assert np.abs(tiny.flat(nothing.x)).max() == 0
  some = tiny.flat(solve(ekfac.projected(inner, 0.05), t, v).x)
  assert 0 < np.linalg.norm(some) < np.linalg.norm(tiny.flat(everything.x))


def test_with_residual_measures_a_direct_solver():
  t = tiny.classification()
  v = tiny.vectors(t)
  found = solve(inverse.with_residual(ekfac.ekfac(DAMPING)), t, v)
  system = tiny.dense_ggn(t, t.train) + DAMPING * np.eye(tiny.flat(v).shape[1])
  left = tiny.flat(v) - tiny.flat(found.x) @ system
  truth = np.linalg.norm(left, axis=1) / np.linalg.norm(tiny.flat(v), axis=1)
  np.testing.assert_allclose(found.residuals[-1], truth, rtol=1e-3)


def test_cg_survives_what_library_cg_does_not():
  """Tiny eigenvalues over a million float32 entries; a zero query beside it."""
  t = tiny.regression(n=2, widths=(3, 1))
  wide = 300_000
  params = {'w': jnp.ones((wide, 1)) * 1e-3}
  from tda_jax import problem as problem_lib

  problem = problem_lib.regression(lambda p, x: x @ p['w'])
  x = np.asarray(jax.random.normal(KEY, (3, wide)) * 1e-3, np.float32)
  t = tiny.Tiny(
    problem, params, {'x': x, 'y': np.zeros((3, 1), np.float32)}, None
  )
  v = {'w': jnp.stack([jnp.ones((wide, 1)), jnp.zeros((wide, 1))])}
  found = solve(cg.cg(1e-5, tolerance=1e-3), t, v)
  assert np.isfinite(tiny.flat(found.x)).all()
  assert found.converged.all()
  assert np.abs(tiny.flat(found.x)[1]).max() == 0


def test_errors_say_what_to_change():
  t = tiny.classification()
  for make in (
    exact.exact,
    cg.cg,
    descent.astra,
    ekfac.ekfac,
    dense.dense,
    datainf.datainf,
  ):
    with pytest.raises(ValueError, match='give a number above 0'):
      make(0.0).fit(t.problem, t.params, t.train, KEY)
  with pytest.raises(ValueError, match="damping='auto': give a finite number"):
    cg.cg('auto').fit(t.problem, t.params, t.train, KEY)
  with pytest.raises(
    ValueError,
    match='needs .* kB, above memory_limit=10 bytes: use cg or astra',
  ):
    solve(exact.exact(DAMPING, memory_limit=10), t, tiny.vectors(t))
  with pytest.raises(ValueError, match="factor='qr' is unknown"):
    exact.exact(DAMPING, factor='qr')
  with pytest.raises(ValueError, match='of 39 parameters.*use exact, cg'):
    solve(dense.dense(DAMPING, memory_limit=1e3), t, tiny.vectors(t))
  bad = solve(descent.astra(DAMPING, step_size=50.0), t, tiny.vectors(t))
  with pytest.raises(ValueError, match='ASTRA diverged on 3 of 3.*step_size'):
    inverse.check(bad, 'ASTRA')
  closed = inverse.closed_form(tiny.vectors(t), DAMPING)
  bad = closed._replace(diverged=jnp.ones(3, bool))
  with pytest.raises(ValueError, match=r'raise damping \(.*eigenvalue\)$'):
    inverse.check(bad, 'EKFAC')
  with pytest.raises(ValueError, match='finite; else raise ridge'):
    inverse.check(bad, 'TRAK', 'raise ridge')
  with pytest.raises(ValueError, match='reports=3 does not divide'):
    descent.astra(DAMPING, reports=3)


@pytest.mark.parametrize(
  'limit', [pytest.param(8e9, marks=pytest.mark.slow), 36 * 10**2]
)
def test_one_fit_of_eigenvectors_serves_all_dampings(limit):
  t = tiny.classification()
  v = tiny.vectors(t)
  of = functools.partial(
    exact.exact, batch_size=4, memory_limit=limit, factor='eigh', tolerance=1e-5
  )
  state = tiny.fit(of(0.7), t, KEY)
  ggn = tiny.dense_ggn(t, t.train)
  for damping in (0.02, DAMPING):
    solver = of(damping)
    assert settings.of_fit(solver).data == settings.of_fit(of(0.7)).data
    found = jax.jit(solver.solve, static_argnums=1)(
      state, t.problem, t.params, t.train, v, KEY
    )
    system = ggn + damping * np.eye(len(ggn))
    want = np.linalg.solve(system, tiny.flat(v).T).T
    error = np.abs(tiny.flat(found.x) - want).max()
    assert found.converged.all() and error < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize('name', ['exact', 'cg', 'astra', 'ekfac', 'lissa'])
def test_more_gradient_entries_than_an_int32_counts_are_traced(name):
  t = tiny.classification()
  solver = {
    'exact': exact.exact(DAMPING, memory_limit=2e7),
    'cg': cg.cg(DAMPING),
    'astra': descent.astra('heuristic'),
    'ekfac': ekfac.ekfac(),
    'lissa': descent.lissa(DAMPING),
  }[name]
  of = jax.ShapeDtypeStruct
  train = {'x': of((2**17, 5), np.float32), 'y': of((2**17,), np.int32)}
  wide = jax.tree.map(
    lambda x: of(x.shape, np.float32), tiny.mlp_init((5, 4096, 3), KEY)
  )
  v = jax.tree.map(lambda x: of((2, *x.shape), np.float32), wide)

  def call(params, train, v):
    state = solver.fit(t.problem, params, train, KEY)
    return solver.solve(state, t.problem, params, train, v, KEY).x

  assert 2**17 * sum(x.size for x in jax.tree.leaves(wide)) > 2**31
  found = jax.eval_shape(call, wide, train, v)
  assert jax.tree.structure(found) == jax.tree.structure(v)


def test_some_rows_say_where_they_stop_short():
  t = tiny.classification()
  v = tiny.vectors(t)
  solver = exact.exact(
    1e-4, batch_size=4, memory_limit=12 * 10**2, tolerance=1e-5, max_steps=2
  )
  found = solve(solver, t, v)
  assert not found.converged.any() and found.steps[-1] == 2
  system = tiny.dense_ggn(t, t.train) + 1e-4 * np.eye(tiny.flat(v).shape[1])
  left = tiny.flat(v) - tiny.flat(found.x) @ system
  truth = np.linalg.norm(left, axis=1) / np.linalg.norm(tiny.flat(v), axis=1)
  np.testing.assert_allclose(found.residuals[-1], truth, rtol=1e-3)


def test_l2_alone_makes_the_curvature_regular():
  t = tiny.classification(l2=0.1)
  v = tiny.vectors(t)
  found = solve(exact.exact(0.0), t, v)
  want = np.linalg.solve(tiny.dense_ggn(t, t.train), tiny.flat(v).T).T
  np.testing.assert_allclose(tiny.flat(found.x), want, atol=1e-3)


def test_parameters_that_are_not_finite_are_said_to_be():
  t = tiny.classification()
  params = jax.tree.map(lambda x: x * jnp.nan, t.params)
  found = solve(EXACT(), t._replace(params=params), tiny.vectors(t))
  assert np.isnan(tiny.flat(found.x)).all()


def test_every_step_of_a_descent_draws_its_own_minibatch():
  """Steps on one minibatch end at the solution of that minibatch's system."""
  t = tiny.classification()
  v = tiny.vectors(t)
  solver = descent.descent(
    DAMPING, precondition=EXACT(), batch_size=2, steps=300, step_size=0.1,
    decay=0.5,
  )  # fmt: skip
  got = tiny.flat(solve(solver, t, v).x)
  ggn = tiny.dense_ggn(t, t.train)
  system = ggn + DAMPING * np.eye(len(ggn))
  want = np.linalg.solve(system, tiny.flat(v).T).T
  error = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
  assert error.max() < 0.15


def test_cg_moves_no_query_that_has_converged():
  t = tiny.classification()
  v = tiny.vectors(t)
  ggn = tiny.dense_ggn(t, t.train)
  # An eigenvector and a little more: one step is enough, others go on.
  _, vectors = np.linalg.eigh(ggn)
  matrix = tiny.flat(v)
  matrix[0] = vectors[:, -1] + 0.02 * matrix[0] / np.linalg.norm(matrix[0])
  _, unravel = ravel_pytree(t.params)
  v = jax.vmap(unravel)(jnp.asarray(matrix, jnp.float32))
  alone = jax.tree.map(lambda x: jnp.stack([x[0]] * 3), v)
  solver = cg.cg(DAMPING, tolerance=0.1)
  one, all_ = (solve(solver, t, x) for x in (alone, v))
  assert one.steps[-1] == 1 < all_.steps[-1]
  np.testing.assert_allclose(
    tiny.flat(all_.x)[0], tiny.flat(one.x)[0], rtol=1e-4, atol=1e-5
  )


def test_refinement_squares_the_error_of_a_factorisation():
  v = {'w': jnp.array([[1.0, -2.0], [4.0, 0.0]])}
  found = inverse.refined_solution(
    lambda b: trees.scaled(0.49, b), lambda x: trees.scaled(2.0, x), v, 0.1
  )
  # (1 − 2·.49)² of v is left, where .02 was after one solve.
  np.testing.assert_allclose(found.x['w'], (1 - 4e-4) * v['w'] / 2, rtol=1e-6)
  np.testing.assert_allclose(found.residuals, 4e-4, rtol=1e-3)
