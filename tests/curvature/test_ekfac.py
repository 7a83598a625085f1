import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax.curvature import ekfac
from tda_jax.data import rows
from tda_jax.layers import find as layers_lib

KEY = jax.random.key(5)


def fit(t, **kwargs):
  size = kwargs.pop('size', 4)
  stack = jax.tree.map(jnp.asarray, rows.stacked(t.train, size))
  call = jax.jit(lambda p, s: ekfac.fit(t.problem, p, s, KEY, **kwargs))
  return call(t.params, stack)


def dense(t, blocks, function=lambda _, values: values):
  example = rows.take(t.train, 0)
  apply = functools.partial(ekfac.apply, function=function, problem=t.problem)
  call = jax.jit(
    lambda blocks, params, v: apply(
      blocks, params=params, example=example, vectors=v
    )
  )
  return tiny.flat(call(blocks, t.params, tiny.basis(t.params)))


@pytest.mark.parametrize('kind', ekfac.KINDS)
def test_exact_labels_keep_the_trace_and_the_eigenvalues_help(kind):
  t = tiny.classification()
  ggn = tiny.dense_ggn(t, t.train)
  approximation = dense(t, fit(t, kind=kind, labels='exact'))
  if kind != 'kfac':  # their eigenvalues are the diagonal in their basis
    np.testing.assert_allclose(
      np.trace(approximation), np.trace(ggn), rtol=1e-5
    )
  np.testing.assert_allclose(approximation, approximation.T, atol=1e-5)


def test_ekfac_is_nearer_to_the_fisher_than_kfac_and_diagonal():
  t = tiny.classification()
  ggn = tiny.dense_ggn(t, t.train)
  error = {
    kind: np.linalg.norm(dense(t, fit(t, kind=kind, labels='exact')) - ggn)
    for kind in ekfac.KINDS
  }
  assert error['ekfac'] <= error['kfac'] + 1e-6
  assert error['ekfac'] < error['diagonal']


def test_one_layer_one_row_is_exact():
  """One example of a linear model: the Fisher is one Kronecker product."""
  t = tiny.regression(n=1, widths=(3, 1))
  approximation = dense(t, fit(t, labels='exact'))
  np.testing.assert_allclose(
    approximation, tiny.dense_ggn(t, t.train), atol=1e-4
  )


@pytest.mark.parametrize('labels', ['sampled', 'exact', 'data'])
def test_blocks_do_not_depend_on_the_batch_size(labels):
  t = tiny.classification()
  one, all_ = (dense(t, fit(t, labels=labels, size=s)) for s in (1, 11))
  np.testing.assert_allclose(one, all_, atol=3e-5)


def test_sampled_labels_are_exact_in_expectation():
  t = tiny.classification(n=6, widths=(3, 2, 3))
  stack = rows.stacked(t.train, 6)
  want = fit(t, kind='diagonal', labels='exact', size=6)

  def draw(key):
    blocks = ekfac.fit(t.problem, t.params, stack, key, kind='diagonal')
    return {name: b.eigenvalues for name, b in blocks.items()}

  draws = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 2000))
  for name, block in want.items():
    values = np.asarray(draws[name], np.float64)
    bound = 5 * values.std(0) / np.sqrt(len(values)) + 1e-6
    assert (np.abs(values.mean(0) - block.eigenvalues) < bound).all()


def test_data_labels_give_the_empirical_fisher():
  t = tiny.classification()
  g = tiny.gradients(t.problem.loss, t, t.train)
  blocks = fit(t, kind='diagonal', labels='data')
  np.testing.assert_allclose(
    np.diag(dense(t, blocks)), (g**2).mean(0), atol=1e-6
  )


@pytest.mark.parametrize(
  'function',
  [lambda s: 1 / (s + 0.1), jnp.sqrt, lambda s: jnp.exp(-2 * s)],
)
def test_apply_is_the_matrix_function(function):
  t = tiny.classification()
  blocks = fit(t, labels='exact')
  matrix = dense(t, blocks)
  values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
  want = (vectors * np.asarray(function(np.maximum(values, 0)))) @ vectors.T
  got = dense(t, blocks, lambda _, values: function(values))
  np.testing.assert_allclose(got, want, atol=2e-3)


def test_fit_under_jit_and_vmap_over_members():
  t = tiny.classification()
  stack = rows.stacked(t.train, 4)
  members = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), t.params)
  many = jax.jit(
    jax.vmap(lambda p: ekfac.fit(t.problem, p, stack, KEY, labels='exact'))
  )(members)
  for e in range(2):
    params = jax.tree.map(lambda x, e=e: x[e], members)
    alone = t._replace(params=params)
    block = jax.tree.map(lambda x, e=e: x[e], many)
    np.testing.assert_allclose(
      dense(alone, block), dense(alone, fit(alone, labels='exact')), atol=1e-4
    )


def test_blocks_of_checkpoints_are_their_means_in_one_basis():
  """Λ = mean over checkpoints of diag(Qᵀ G_c Q), Q of the mean factors."""
  t = tiny.classification()
  stack = rows.stacked(t.train, 4)
  checkpoints = jax.tree.map(lambda x: jnp.stack([x, -0.5 * x]), t.params)
  blocks = jax.jit(
    lambda c: ekfac.fit_average(t.problem, c, stack, KEY, labels='exact')
  )(checkpoints)
  alone = [
    t._replace(params=jax.tree.map(lambda x, c=c: x[c], checkpoints))
    for c in range(2)
  ]
  ggn = np.mean([tiny.dense_ggn(one, t.train) for one in alone], 0)
  layers = layers_lib.find(t.problem.outputs, t.params, rows.take(t.train, 0))
  for name, block in blocks.items():
    # Columns of Q as parameter trees, in the order of Λ's entries.
    eye = np.eye(block.eigenvalues.size)
    units = eye.reshape(len(eye), *block.eigenvalues.shape)
    one = {name: block}
    columns = tiny.flat(
      jax.vmap(
        lambda w, one=one, name=name: ekfac.unrotated(
          one, layers, {name: w}, t.params
        )
      )(jnp.asarray(units, jnp.float32))
    )
    want = np.einsum('kp,pq,kq->k', columns, ggn, columns)
    np.testing.assert_allclose(block.eigenvalues.ravel(), want, atol=1e-5)
  hidden = [
    np.tanh(
      t.train['x'] @ one.params['layer0']['w'] + one.params['layer0']['b']
    )
    for one in alone
  ]
  a = [np.c_[h, np.ones(len(h))] for h in hidden]
  moment = np.mean([x.T @ x / len(x) for x in a], 0)
  q = np.asarray(next(b for n, b in blocks.items() if 'layer1' in n).inputs)
  rotated = q.T @ moment @ q
  np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-5)


def test_stacked_layers_and_weight_sharing_keep_the_trace():
  """A scanned sequence model: eigenvalues are those of per-example gradients."""

  def apply(params, x):  # x [B, T, I]
    x = x @ params['in']
    body = lambda h, w: (jnp.tanh(h @ w), None)
    x, _ = jax.lax.scan(body, x, params['layers'])
    return (x @ params['out']).mean(1)

  keys = jax.random.split(KEY, 5)
  params = {
    'in': jax.random.normal(keys[0], (3, 4)),
    'layers': jax.random.normal(keys[1], (2, 4, 4)),
    'out': jax.random.normal(keys[2], (4, 3)),
  }
  x = jax.random.normal(keys[3], (6, 5, 3))
  train = {'x': np.asarray(x), 'y': np.arange(6) % 3}
  t = tiny.Tiny(problem_lib.classification(apply), params, train, train)
  want = np.trace(tiny.dense_ggn(t, t.train))
  got = np.trace(dense(t, fit(t, labels='exact')))
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_refuses_shared_layers_and_unknown_names():
  t = tiny.classification(widths=(3, 3, 3))

  def apply(params, x):
    w = params['layer0']['w']
    return jnp.tanh(x @ w) @ w

  shared = t._replace(problem=problem_lib.classification(apply))
  with pytest.raises(ValueError, match='applied more than once'):
    fit(shared)
  with pytest.raises(ValueError, match="labels='true' is unknown"):
    fit(t, labels='true')
  with pytest.raises(ValueError, match="kind='full' is unknown"):
    fit(t, kind='full')


def one_row():
  """A linear model on one row: what a label gives is known."""
  t = tiny.classification(n=1, widths=(3, 3))
  labels = [{**t.train, 'y': np.full(1, y)} for y in range(3)]
  return t, [tiny.gradients(t.problem.loss, t, rows_)[0] for rows_ in labels]


def test_the_eigenvalues_are_of_labels_drawn_afresh():
  """With the labels of the factors every row would lie on one direction."""
  t, _ = one_row()
  stack = rows.stacked(t.train, 1)
  draw = lambda key: ekfac.fit(t.problem, t.params, stack, key)
  many = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 30))
  (block,) = many.values()
  values = np.sort(np.asarray(block.eigenvalues).reshape(30, -1))
  assert (values[:, -2] > 1e-3 * values[:, -1]).mean() > 0.2


def test_each_checkpoint_draws_its_own_labels():
  """Two equal checkpoints: some means are of two labels' Fishers."""
  t, gradients = one_row()
  stack = rows.stacked(t.train, 1)
  twice = jax.tree.map(lambda x: jnp.stack([x, x]), t.params)
  draw = lambda key: ekfac.fit_average(
    t.problem, twice, stack, key, kind='diagonal'
  )
  (block,) = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 30)).values()
  traces = np.asarray(block.eigenvalues).reshape(30, -1).sum(1)
  of_label = np.array([g @ g for g in gradients])
  means = (of_label[:, None] + of_label) / 2
  off = np.abs(traces[:, None] - means.ravel()).min(1)
  np.testing.assert_allclose(off, 0, atol=1e-4 * of_label.max())
  alone = np.abs(traces[:, None] - of_label).min(1) < 1e-3 * of_label.max()
  assert 0 < alone.sum() < 30


def test_each_row_draws_its_own_label():
  """Rows that are alike: their mean is not the Fisher of one label."""
  t, gradients = one_row()
  alike = {name: np.repeat(x, 8, 0) for name, x in t.train.items()}
  blocks = fit(t._replace(train=alike), kind='diagonal', size=3)
  trace = sum(float(block.eigenvalues.sum()) for block in blocks.values())
  of_label = np.array([g @ g for g in gradients])
  assert of_label.min() < trace < of_label.max()
  assert np.abs(trace - of_label).min() > 0.05 * np.ptp(of_label)


def test_kfac_is_t_times_the_factors_of_a_position():
  """T·A ⊗ S, A and S means over rows and T positions."""
  keys = jax.random.split(KEY, 3)
  x = np.asarray(jax.random.normal(keys[0], (4, 5, 3)))
  params = {'w': jax.random.normal(keys[1], (3, 2))}
  out = jax.random.normal(keys[2], (2, 3))

  def apply(params, x):
    return (jnp.tanh(x @ params['w']) @ out).mean(1)

  train = {'x': x, 'y': np.arange(4) % 3}
  t = tiny.Tiny(problem_lib.classification(apply), params, train, train)
  (block,) = fit(t, kind='kfac', labels='data').values()

  def loss(y, row):  # of the layer's outputs y [T, 2]
    return t.problem.loss((jnp.tanh(y) @ out).mean(0), row)

  delta = np.asarray(jax.vmap(jax.grad(loss))(x @ params['w'], train))
  a = np.einsum('bti,btj->ij', x, x) / 20
  s = np.einsum('bto,btp->op', delta, delta) / 20
  np.testing.assert_allclose(
    np.sort(np.ravel(block.eigenvalues)),
    np.sort(5 * np.outer(*map(np.linalg.eigvalsh, (a, s))).ravel()),
    rtol=1e-3,
    atol=1e-7,
  )


def test_an_expectation_over_too_many_labels_is_refused(monkeypatch):
  t = tiny.classification()  # of 3 classes
  monkeypatch.setattr(ekfac, 'MOST_EXACT', 3)
  fit(t, labels='exact')
  monkeypatch.setattr(ekfac, 'MOST_EXACT', 2)
  words = "each of the 3 outputs .* use labels='sampled'"
  with pytest.raises(ValueError, match=words):
    fit(t, labels='exact', size=5)
  fit(t, labels='sampled', size=5)


def test_eigenvectors_on_a_cpu_are_numpys_without_a_call_into_python():
  """Programs that call back are not kept for the next process."""
  random = np.random.default_rng(0)
  a = random.standard_normal((2, 5, 5)).astype(np.float32)
  a = a @ a.swapaxes(-1, -2)
  eigh = jax.jit(jax.vmap(ekfac.eigh))
  values, vectors = eigh(a)
  expected, _ = np.linalg.eigh(a.astype(np.float64))
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  again = vectors * values[:, None] @ vectors.swapaxes(-1, -2)
  np.testing.assert_allclose(again, a, atol=1e-5)
  assert values.dtype == vectors.dtype == np.float32
  assert 'callback' not in eigh.lower(a).as_text()
  a[1, 2, 3] = np.nan
  values, vectors = eigh(a)
  assert np.isfinite(values[0]).all() and np.isfinite(vectors[0]).all()
  assert np.isnan(values[1]).all() and np.isnan(vectors[1]).all()


def test_the_root_of_a_hessian_does_not_turn_with_rounding():
  """Of 2I and a difference of 1e-6, whose eigenvectors are anything."""
  rng = np.random.default_rng(0)
  roots = []
  for _ in range(2):
    e = rng.normal(size=(3, 3))
    h = jnp.asarray(2 * np.eye(3) + 1e-6 * (e + e.T), jnp.float32)
    problem = tiny.classification().problem
    problem = problem._replace(loss=lambda z, _, h=h: z @ h @ z / 2)
    roots.append(ekfac.loss_hessian_root(problem, jnp.zeros(3), None))
    np.testing.assert_allclose(roots[-1] @ roots[-1].T, h, atol=1e-5)
  np.testing.assert_allclose(*roots, atol=1e-5)
