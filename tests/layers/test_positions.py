"""What padding positions do to the layers' statistics: nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import tda_jax as tda
from tda_jax import problem as problem_lib
from tda_jax.curvature import ekfac
from tda_jax.data import rows as rows_lib
from tda_jax.layers import positions
from tda_jax.models import decoder

KEY = jax.random.key(5)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def fit(problem, params, stack, kind, labels):
  return ekfac.fit(problem, params, stack, KEY, kind=kind, labels=labels)


@functools.partial(jax.jit, static_argnums=0)
def counted(problem, params, batch):
  return positions.counted(problem, params, batch)


def blocks(t, kind='kfac', labels='data'):
  stack = rows_lib.stacked(t.train, 4)  # the second batch has padding rows
  return fit(t.problem, t.params, stack, kind, labels)


def count(t):
  return counted(t.problem, t.params, tiny.batch(t.train))


def language(extra, first=0):
  """Next tokens, the loss of positions without a target left out."""

  def outputs(params, e):
    return tiny.padded_outputs(params, e['x'])[0] @ params['out']

  def loss(z, e):
    each = jnp.take_along_axis(jax.nn.log_softmax(z), e['y'][:, None], 1)
    return -jnp.sum(e['mask'] * each[:, 0])

  def sample(key, z, e):
    return {**e, 'y': jax.random.categorical(key, z)}

  t = tiny.padded(extra)
  x = t.train['x']
  mask = ((x != 0) & (np.arange(x.shape[1]) >= first)).astype(np.float32)
  rows = {'x': x, 'y': x % 3, 'mask': mask}
  measure = lambda z, e: -loss(z, e)
  problem = problem_lib.Problem(
    outputs, loss, measure, sample, lambda s, r: None
  )
  return tiny.Tiny(problem, t.params, rows, rows)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
  ('make', 'kind', 'labels'),
  [
    (tiny.padded, 'kfac', 'data'),
    (language, 'kfac', 'exact'),
    pytest.param(tiny.padded, 'kfac', 'sampled', marks=SLOW),
    pytest.param(language, 'kfac', 'sampled', marks=SLOW),
    pytest.param(language, 'kfac', 'data', marks=SLOW),
    pytest.param(tiny.padded, 'ekfac', 'data', marks=SLOW),
    pytest.param(language, 'ekfac', 'exact', marks=SLOW),
  ],
)
def test_blocks_do_not_depend_on_padding(make, kind, labels):
  without, more = (blocks(make(extra), kind, labels) for extra in (0, 5))
  for name, block in without.items():
    want, got = block.eigenvalues, more[name].eigenvalues
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def test_kfac_is_that_of_every_real_position_as_an_observation():
  """T·A ⊗ S in float64, of a and δ by hand at ids that are not 0."""
  t = tiny.padded(3)
  block, here = blocks(t)['embed'], count(t)
  real = t.train['x'] != 0
  # 'out' has one position; the embedding has as many as there are ids.
  assert (np.asarray(here['out']) == 1).all()
  np.testing.assert_array_equal(here['embed'], real)
  ids, n = t.train['x'][real], len(real)
  a = np.bincount(ids, minlength=7) / n
  trace = np.asarray(block.eigenvalues, np.float64).sum(0)

  def of(embedded, ids, y):
    params = {**t.params, 'embed': jnp.eye(len(ids)) @ embedded}
    own = jnp.where(ids != 0, 1 + jnp.arange(len(ids)), 0)
    padded = jnp.concatenate([jnp.zeros((1, 4)), params['embed']])
    out = t.problem.outputs({**params, 'embed': padded}, {'x': own, 'y': y})
    return t.problem.loss(out, {'y': y})

  embedded = t.params['embed'][t.train['x']]
  gradient = jax.jit(jax.vmap(jax.grad(of)))
  delta = gradient(embedded, t.train['x'], t.train['y'])
  delta = np.asarray(delta, np.float64)[real]
  s = np.linalg.eigvalsh(delta.T @ delta / n)
  want = a.sum() * s / real.sum() * n
  np.testing.assert_allclose(trace, want, rtol=1e-4)


def test_a_prompt_counts_where_it_is_read():
  t = language(2, first=2)
  here = count(t)
  real = t.train['x'] != 0
  targets = t.train['mask'] != 0
  some = targets.any(1, keepdims=True)
  np.testing.assert_array_equal(here['out'], targets)
  np.testing.assert_array_equal(here['embed'], real & some)


def test_a_loss_alone_may_leave_positions_out():
  t = language(2)
  outputs = lambda params, e: params['embed'][e['x']] @ params['out']
  masks = counted(
    t.problem._replace(outputs=outputs), t.params, tiny.batch(t.train)
  )
  for name in ('embed', 'out'):
    np.testing.assert_array_equal(masks[name], t.train['mask'])


def test_units_that_are_off_are_no_padding():
  """Whole positions of zero gradient by relu and max pooling all count."""

  def off(params, x, masked):
    h = jax.nn.relu(x @ params['in'] - 3)  # [B, T, 2], most of it zero
    h = jnp.maximum(h, 0) * jnp.where(masked, x[..., :1] != 9, 1)
    return h.max(1) @ params['out']

  rng = np.random.default_rng(0)
  params = {
    'in': jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    'out': jnp.asarray(rng.normal(size=(2, 2)), jnp.float32),
  }
  rows = {'x': rng.normal(size=(5, 4, 3)).astype(np.float32)}
  rows['y'] = np.zeros(5, int)
  for masked in (False, True):
    apply = functools.partial(off, masked=masked)
    t = tiny.Tiny(problem_lib.classification(apply), params, rows, rows)
    assert (np.asarray(count(t)['in']) == 1).all()


def test_convolutions_are_not_searched():
  t = tiny.model('conv')
  find = lambda params: positions.counted(
    t.problem, params, tiny.batch(t.train)
  )
  jaxpr = jax.make_jaxpr(find)(t.params)
  assert not any('conv_general' in str(e.primitive) for e in jaxpr.eqns)
  assert (np.asarray(count(t)['conv']) == 1).all()


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('rotary', [True, False])
def test_the_first_position_counts_for_its_query_too(scanned, rotary):
  """It attends to itself alone: whatever its query is, nothing changes."""
  sizes = decoder.Sizes(
    vocabulary=11, width=8, blocks=2, heads=2, kv_heads=1, hidden=12, context=8,
    scanned=scanned, **({} if rotary else {'rotary': 0.0}),
  )  # fmt: skip
  init, apply = decoder.decoder(sizes)
  problem = tda.language_modeling(apply)
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 11, (5, 7))
  lengths = np.array([6, 3, 1, 4, 6])[:, None]
  mask = (np.arange(6) < lengths).astype(np.float32)
  rows = {'ids': ids[:, :-1], 'targets': ids[:, 1:], 'mask': mask}
  for found in (
    counted(problem, init(KEY), tiny.batch(rows)),
    positions.counted(problem, init(KEY), tiny.batch(rows)),
  ):
    for name, of in found.items():
      if of.shape[-1] == 6:
        want = np.broadcast_to(mask, of.shape)
        np.testing.assert_array_equal(of, want, err_msg=name)
