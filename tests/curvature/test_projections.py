"""Random projections against gradients of single rows."""

import functools

import jax
import layer_cases
import numpy as np
import pytest
import tiny
from layer_cases import B

from tda_jax import problem as problem_lib
from tda_jax.curvature import projections
from tda_jax.data import rows as rows_lib

KEY = jax.random.key(3)
KINDS = ('dense', 'factored')
# Programs run once on tiny arrays: the time is the compiler's.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
CASES = (
  layer_cases.cnn,  # positions, groups, biases, leaves
  layer_cases.nnx_attention,  # an embedding
  layer_cases.dict_nested_scan,  # stacks
)


def of_case(case, as_leaf=()):
  """(problem, its rows as a batch, gradients [B, P] in float64)."""
  problem = problem_lib.Problem(
    case.outputs, layer_cases.loss, None, None, None, as_leaf=as_leaf
  )
  value = lambda p, e: layer_cases.loss(case.outputs(p, e), e)
  grads = jit(jax.vmap(jax.grad(value), (None, 0)))(case.params, case.examples)
  batch = rows_lib.Batch(case.examples, np.arange(B), np.ones(B, np.float32))
  return problem, batch, tiny.flat(grads)


def projected(problem, params, batch, size, kind, key=KEY):
  project = functools.partial(
    projections.project, problem.loss, problem, size=size, kind=kind
  )
  call = jit(lambda params, batch, key: project(params, batch, key))
  return np.asarray(call(params, batch, key), np.float64)


def assert_unbiased(phi, g, variance):
  """⟨φ, φ'⟩ is within 5 standard deviations of ⟨g, g'⟩, and not by caution."""
  error = np.abs(phi @ phi.T - g @ g.T)
  assert (error <= 5 * np.sqrt(variance / phi.shape[1])).all()
  assert error.max() > 0.05 * np.sqrt(variance.max() / phi.shape[1])


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize('kind', KINDS)
def test_inner_products_are_kept_in_expectation(kind, case):
  case = case()
  problem, batch, g = of_case(case)
  phi = projected(problem, case.params, batch, 20000, kind)
  squares = np.sum(g**2, 1)
  both = np.outer(squares, squares)
  if kind == 'dense':
    variance = both + (g @ g.T) ** 2 - 2 * (g**2) @ (g**2).T
  else:
    variance = 9 * both
  assert_unbiased(phi, g, variance)


@pytest.mark.parametrize('kind', KINDS)
def test_a_row_is_projected_alike_in_any_batch(kind):
  case = layer_cases.nnx_attention()
  problem, batch, _ = of_case(case)
  every = projected(problem, case.params, batch, 40, kind)
  last = jax.tree.map(lambda x: x[2:], batch)
  np.testing.assert_allclose(
    projected(problem, case.params, last, 40, kind), every[2:], atol=1e-5
  )
  padded = batch._replace(mask=np.array([1, 1, 0, 1], np.float32))
  masked = projected(problem, case.params, padded, 40, kind)
  assert (masked[2] == 0).all()
  np.testing.assert_array_equal(masked[[0, 1, 3]], every[[0, 1, 3]])


@pytest.mark.parametrize('kind', KINDS)
def test_the_key_decides_under_vmap_too(kind):
  case = layer_cases.mlp()
  problem, batch, _ = of_case(case)
  keys = jax.random.split(KEY, 2)
  alone = [projected(problem, case.params, batch, 33, kind, k) for k in keys]
  again = projected(problem, case.params, batch, 33, kind, keys[0])
  np.testing.assert_array_equal(alone[0], again)
  assert np.abs(alone[0] - alone[1]).max() > 0.1
  mapped = jax.vmap(
    lambda key: projections.project(
      problem.loss, problem, case.params, batch, key, 33, kind
    )
  )(keys)
  np.testing.assert_allclose(mapped, alone, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_it_is_one_matrix_of_signs_cut_in_blocks_or_not(kind, monkeypatch):
  t = tiny.classification()
  g = tiny.gradients(t.problem.loss, t, t.train)
  monkeypatch.setattr(projections, 'BLOCK', 3 * 96 * 2)  # 3 rows of 2 outputs
  r = tiny.projection(t, 96, kind, KEY)
  length = np.sqrt(len(r) / 96)  # of signs, reflected or not
  np.testing.assert_allclose(np.linalg.norm(r, axis=0), length, rtol=1e-5)
  if kind == 'dense':
    np.testing.assert_allclose(np.abs(r), 1 / np.sqrt(96), atol=1e-6)
  assert abs(r.mean()) < 5 / np.sqrt(96 * r.size)
  assert np.linalg.matrix_rank(r) == min(r.shape)
  monkeypatch.undo()
  phi = projected(t.problem, t.params, tiny.batch(t.train), 96, kind)
  np.testing.assert_allclose(phi, g @ r, atol=1e-5 * np.abs(phi).max())


@pytest.mark.parametrize('classes', [2, 3])
def test_no_column_misses_a_softmax(classes):
  """Its gradients sum to 0 over outputs, as columns of equal signs would need."""
  t = tiny.classification(n=11, widths=(5, classes))
  g = tiny.gradients(t.problem.loss, t, t.train)
  phi = projected(t.problem, t.params, tiny.batch(t.train), 20000, 'factored')
  squares = np.sum(g**2, 1)
  assert_unbiased(phi, g, 9 * np.outer(squares, squares))
  reached = (np.abs(phi) > 1e-4 * np.abs(phi).max()).any(0)
  assert reached.all()  # of signs alone, a share 2^(1 − classes) is not


def test_tied_parameters_are_refused_until_they_are_held():
  # Its other matrix is applied twice, which is no trouble.
  case = layer_cases.dict_tied()
  problem, batch, _ = of_case(case)
  with pytest.raises(ValueError, match=r"share parameters.*as_leaf=\('embed',"):
    projected(problem, case.params, batch, 8, 'factored')
  problem, batch, g = of_case(case, ('embed',))
  phi = projected(problem, case.params, batch, 20000, 'factored')
  squares = np.sum(g**2, 1)
  assert_unbiased(phi, g, 9 * np.outer(squares, squares))


def test_bad_settings_are_refused():
  t = tiny.classification()
  batch = tiny.batch(t.train)
  with pytest.raises(ValueError, match="projection='sparse' is unknown"):
    projected(t.problem, t.params, batch, 8, 'sparse')
  with pytest.raises(ValueError, match='projection_dim=0'):
    projected(t.problem, t.params, batch, 0, 'dense')
