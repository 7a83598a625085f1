"""Scores by token and by parameter: exactly the rows' scores, split."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.flatten_util import ravel_pytree

import tda_jax as tda
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib

N, Q, T, V, D = 9, 3, 5, 6, 4
KEY = jax.random.key(4)


def logits(params, ids):
  """Of one sequence: a scan of layers, that see the tokens before, and a head."""
  h = params['embed'][ids]

  def layer(h, w):
    before = jnp.cumsum(h, 0) / (1 + jnp.arange(len(ids)))[:, None]
    return h + jnp.tanh(before @ w), None

  h, _ = jax.lax.scan(layer, h, params['layers'])
  head = params['embed'].T if 'head' not in params else params['head']
  return h * params['scale'] @ head


PROBLEM = tda.language_modeling(jax.vmap(logits, (None, 0)))


@functools.cache
def model(tied=False):
  rng = np.random.default_rng(0)
  shapes = {'embed': (V, D), 'layers': (2, D, D), 'scale': (D,), 'head': (D, V)}
  if tied:
    del shapes['head']
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in shapes.items()
  }
  ids = rng.integers(0, V, (N + Q, T + 1))
  mask = (np.arange(T) < rng.integers(2, T + 1, (N + Q, 1))) * 1
  every = {'ids': ids[:, :-1], 'targets': ids[:, 1:], 'mask': mask}
  train, queries = (rows_lib.take(every, s) for s in (slice(N), slice(N, None)))
  return tiny.Tiny(PROBLEM, params, train, queries)


def token_scores(method, t, **kwargs):
  return tda.token_scores(
    method, t.problem, t.params, t.train, t.queries, key=KEY, **kwargs
  )


def attribute(method, t):
  return method_lib.attribute(
    method, t.problem, t.params, t.train, t.queries, key=KEY
  )


SLOW = pytest.mark.slow
EKFAC = tda.ekfac(0.1)
METHODS = {
  'grad_dot': tda.grad_dot(),
  'ekfac': tda.influence(EKFAC),
  'exact': tda.influence(tda.exact(0.1)),
  'low rank': tda.influence(EKFAC, query_rank=1),
  'low rank of a solve': tda.influence(tda.exact(0.1), query_rank=1),
  'logra': tda.logra(0.1, rank=(3, 2)),
  'logra of whole sides': tda.logra(0.1, rank=(9, 2), basis='random'),
  'displaced': tda.displaced_influence(tda.exact(0.1)),
  'laplace': tda.laplace_influence(EKFAC, draws=5),
}
QUICK = ('ekfac', 'laplace')


@pytest.mark.parametrize(
  'name', [n if n in QUICK else pytest.param(n, marks=SLOW) for n in METHODS]
)
@pytest.mark.filterwarnings('ignore:query_rank')
def test_tokens_add_up_to_the_rows(name):
  t, method = model(), METHODS[name]
  got, want = token_scores(method, t), attribute(method, t)
  assert got.shape == (N, T, Q)
  np.testing.assert_allclose(
    got.sum(1), want, atol=1e-6 * max(1, np.abs(want).max())
  )
  assert (got[t.train['mask'] == 0] == 0).all()


def flat(problem):
  """The problem with its outputs in one axis."""
  whole = lambda outputs: outputs.reshape(T, V)
  return problem._replace(
    outputs=lambda *args: problem.outputs(*args).ravel(),
    loss=lambda outputs, example: problem.loss(whole(outputs), example),
  )


def by_token(t, damping):
  """−(1/N) ∇term_it · (G + damping)⁻¹ ∇measure_q, dense in float64."""
  m = tiny.gradients(t.problem.measure, t, t.queries)
  ggn = tiny.dense_ggn(t._replace(problem=flat(t.problem)), t.train)
  x = np.linalg.solve(ggn + damping * np.eye(len(ggn)), m.T)
  with jax.enable_x64(True):
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), t.params)
    vector, unravel = ravel_pytree(params)

    def of_row(v, example):
      return t.problem.terms(t.problem.outputs(unravel(v), example), example)

    jacobian = jax.vmap(jax.jacrev(of_row), (None, 0))(vector, t.train)
    return -np.asarray(jacobian) @ x / N


@pytest.mark.parametrize('tied', [pytest.param(False, marks=SLOW), True])
def test_they_are_products_with_each_tokens_gradient(tied):
  """Tied: one leaf is in two layers, to both of which the vector came."""
  t = model(tied)
  solver = tda.cg(0.1, tolerance=1e-5, max_steps=200)
  got, want = token_scores(tda.influence(solver), t), by_token(t, 0.1)
  np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:query_rank')
def test_queries_of_low_rank_are_no_one_vector_of_a_tied_leaf(monkeypatch):
  method = tda.influence(tda.cg(0.1, tolerance=1e-3), query_rank=1)
  with pytest.raises(ValueError, match='applied more than once.*query_rank='):
    token_scores(method, model(tied=True))


def parameter_scores(method, t, **kwargs):
  return tda.parameter_scores(
    method, t.problem, t.params, t.train, t.queries, key=KEY, **kwargs
  )


@pytest.mark.parametrize(
  'name', [n if n == 'ekfac' else pytest.param(n, marks=SLOW) for n in METHODS]
)
@pytest.mark.filterwarnings('ignore:query_rank')
def test_parameters_add_up_to_the_rows(name):
  t, method = model(), METHODS[name]
  if method.vectors is None:
    with pytest.raises(ValueError, match='has no one vector .* its parameters'):
      parameter_scores(method, t)
    return
  got, want = parameter_scores(method, t, batch_size=4), attribute(method, t)
  assert {*got} == {*t.params}
  most = np.abs(want).max()
  np.testing.assert_allclose(sum(got.values()), want, atol=1e-5 * most)
  by_layer = parameter_scores(
    method, t, stacked=('lay*',), rows=np.array([5, 2])
  )
  assert {*got} - {*by_layer} == {'layers'}
  layers = by_layer['layers/0'] + by_layer['layers/1']
  np.testing.assert_allclose(layers, got['layers'][[5, 2]], atol=1e-5 * most)


def test_they_are_products_with_the_gradient_in_each_parameter():
  t = model(tied=True)
  t = t._replace(problem=PROBLEM._replace(as_leaf=('embed',)))
  got = parameter_scores(tda.grad_dot(), t, stacked=('layers',))
  of = lambda function, rows: jax.vmap(
    jax.grad(lambda p, row: function(t.problem.outputs(p, row), row)), (None, 0)
  )(t.params, rows)
  losses, measures = (
    of(t.problem.loss, t.train),
    of(t.problem.measure, t.queries),
  )
  split = lambda tree: {
    'embed': tree['embed'],
    'scale': tree['scale'],
    **{f'layers/{k}': tree['layers'][:, k] for k in range(2)},
  }
  losses, measures = split(losses), split(measures)
  assert {*got} == {*losses}
  for name, found in got.items():
    a, b = (of[name].reshape(len(of[name]), -1) for of in (losses, measures))
    want = -a @ b.T / N
    np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


def test_stacked_parameters_are_checked():
  for patterns, words in (
    (('blocks/*',), r"'blocks/\*' matches no parameter: .* \['embed'"),
    ('blocks/*', r"stacked=\['blocks/\*'\]: 'blocks/\*' matches no parameter"),
    (('*',), "'scale' of shape .* no axis of layers before its own"),
    (('layers', 'head'), "2 of 'layers'|4 of 'head'"),
  ):
    with pytest.raises(ValueError, match=words):
      parameter_scores(tda.grad_dot(), model(), stacked=patterns)


def test_batches_and_chosen_rows_do_not_change_them():
  t, method = model(), METHODS['grad_dot']
  every = token_scores(method, t)
  near = functools.partial(
    np.testing.assert_allclose, atol=1e-6 * np.abs(every).max()
  )
  rows = np.array([7, 0, 3])
  near(token_scores(method, t, rows=rows, batch_size=2), every[rows])
  only = t._replace(problem=PROBLEM._replace(only=('layers', 'head')))
  near(token_scores(method, only).sum(1), attribute(method, only))


def test_what_cannot_be_split_is_refused():
  t = model()
  refused = functools.partial(pytest.raises, ValueError)
  for method in (tda.grad_cos(), tda.trackstar(), tda.ensemble(tda.grad_dot())):
    with refused(match='has no one vector for each query.*use influence'):
      token_scores(method, t)
  dot = tda.grad_dot()
  of = lambda terms: t._replace(problem=PROBLEM._replace(terms=terms))
  with refused(match='loss of this problem is one number'):
    token_scores(dot, of(None))
  half = lambda outputs, example: PROBLEM.terms(outputs, example) / 2
  with refused(match='by term do not add up to its score by grad_dot'):
    token_scores(dot, of(half))
  against = dot._replace(score=lambda *args: -dot.score(*args))
  with refused(match='do not add up'):
    token_scores(against, t)
  for rows, words in (
    ([[1, 2]], r'rows are int64\[1, 2\]: give numbers'),
    ([0.5], 'rows are float64'),
    ([N], f'rows are from {N} to {N}, and there are {N}'),
  ):
    with refused(match=words):
      token_scores(dot, t, rows=np.array(rows))
