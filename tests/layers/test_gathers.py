"""Rows and matrices that a gather chooses, in every mode, against jax.grad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from layer_cases import normal

from tda_jax import problem as problem_lib
from tda_jax.curvature import ekfac
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import cg, datainf, exact
from tda_jax.inverses import ekfac as ekfac_inverse
from tda_jax.layers import find as layers
from tda_jax.layers import taps
from tda_jax.methods import gradients, influence, logra, trackstar, trak
from tda_jax.methods import method as method_lib

V, I, O = 4, 3, 2  # noqa: E741
READ = {
  'plain': lambda w, i: w[i],
  'fill': lambda w, i: jnp.take(w, i, 0, mode='fill', fill_value=0),
  'take_clip': lambda w, i: jnp.take(w, i, 0, mode='clip'),
  'wrap': lambda w, i: jnp.take(w, i, 0, mode='wrap'),
  'drop': lambda w, i: w.at[i].get(mode='drop', fill_value=0.5),
  'clip': lambda w, i: w.at[i].get(mode='clip'),
  'promised': lambda w, i: w.at[i].get(mode='promise_in_bounds'),
  'no_wrap': lambda w, i: w.at[i].get(
    mode='fill', fill_value=0, wrap_negative_indices=False
  ),
  'one_hot': lambda w, i: jax.nn.one_hot(i, V) @ w,
  'small': lambda w, i: jnp.take(w, i.astype(jnp.int8), 0, mode='clip'),
  'scalars': lambda w, i: jnp.stack([w[i[s]] for s in range(4)]),
}
# Past both ends, at them, inside, and where a negative one wraps to.
IDS = np.array([[0, 3, 4, -1], [9, -4, -5, 2], [1, 1, -9, 100]])


def loss(z, e):
  return -jax.nn.log_softmax(z)[e['y']]


def check_gradients(outputs, params, examples, kinds):
  """Layers add up to the gradient of each example."""
  one = jax.tree.map(lambda x: x[0], examples)
  found = layers.find(outputs, params, one)
  assert {n: layer.kind for n, layer in found.items()} == kinds

  def gradient(layer, a, g, _):
    if layer.kind == 'embed':  # of a dropped id, δ is dropped too
      g = jnp.where((a < layer.num_in)[..., None] | (g == 0), g, jnp.nan)
    a = jax.nn.one_hot(a, layer.num_in) if layer.kind == 'embed' else a
    return jnp.einsum('bsi,bso->bio', a, g)

  def both(params):
    each = taps.collect(gradient, outputs, loss, params, examples)
    total = 0
    for name, layer in found.items():
      back = lambda w, layer=layer: layers.unmatrix(layer, w, params)
      part = jax.vmap(back, len(layer.stack))(each[name])
      total = jax.tree.map(jnp.add, total, part) if total else part
    value = lambda p, e: loss(outputs(p, e), e)
    return total, jax.vmap(jax.grad(value), (None, 0))(params, examples)

  got, want = jax.jit(both)(params)
  for name in params:
    assert np.abs(want[name]).max() > 0
    np.testing.assert_allclose(got[name], want[name], atol=1e-6)
  return found


@pytest.mark.parametrize('mode', READ)
def test_rows_of_a_table(mode):
  params = {'w': normal(0, V, O), 'o': normal(1, O, 3)}

  def outputs(p, e):
    return jnp.tanh(READ[mode](p['w'], e['i']) + 0.2).sum(0) @ p['o']

  kind = 'dense' if mode == 'one_hot' else 'embed'
  examples = {'i': jnp.asarray(IDS), 'y': jnp.arange(3)}
  check_gradients(outputs, params, examples, {'w': kind, 'o': 'dense'})


EXPERTS = {
  'einsum': lambda read, w, x, i: jnp.einsum('sd,sdf->sf', x, read(w, i)),
  'transposed': lambda read, w, x, i: jnp.einsum(
    'sd,sfd->fs', x, read(w, i).transpose(0, 2, 1)
  ).T,
  'vmap': lambda read, w, x, i: jax.vmap(lambda x, i: x @ read(w, i))(x, i),
  'remat': lambda read, w, x, i: jax.checkpoint(
    lambda w, x: jnp.einsum('sd,sdf->sf', x, read(w, i))
  )(w, x),
  'one': lambda read, w, x, i: x @ read(w, i[1]),
  'two_each': lambda read, w, x, i: jnp.einsum(
    'sd,skdf->skf', x, read(w, jnp.stack([i, i + 1], 1))
  ).sum(1),
  'slots': lambda read, w, x, i: jnp.einsum(
    'ksd,skdf->kfs', jnp.stack([x, 2 * x]), read(w, jnp.stack([i, -i], 1))
  ).sum(0).T,
}  # fmt: skip


@pytest.mark.parametrize('form', EXPERTS)
def test_experts_are_a_stack_of_layers(form):
  """Factors of I and O an expert, only of what was sent to it."""
  params = {'w': normal(0, V, I, O), 'o': normal(1, O, 3)}
  mode = {'one': 'plain', 'vmap': 'plain', 'remat': 'clip'}.get(form, 'fill')

  def outputs(p, e):
    y = EXPERTS[form](READ[mode], p['w'], e['x'], e['i'])
    return jnp.tanh(y).sum(0) @ p['o']

  examples = {'i': jnp.asarray(IDS), 'x': normal(2, 3, 4, I)}
  examples['y'] = jnp.arange(3)
  kinds = {'w': 'dense', 'o': 'dense'}
  found = check_gradients(outputs, params, examples, kinds)
  assert (found['w'].stack, found['w'].routed) == ((V,), True)
  assert (found['w'].num_in, found['w'].num_out) == (I, O)


def test_gathered_matrices_that_are_no_product_stay_rows():
  params = {'w': normal(0, V, I, O), 'o': normal(1, O, 3)}

  def outputs(p, e):
    # Chosen inside the remat, used outside: the numbers do not come out.
    w = jax.checkpoint(lambda w: w[e['i']])(p['w'])
    return jnp.tanh(jnp.einsum('sd,sdf->sf', e['x'], w)).sum(0) @ p['o']

  examples = {'i': jnp.asarray(IDS % V), 'x': normal(2, 3, 4, I)}
  examples['y'] = jnp.arange(3)
  check_gradients(outputs, params, examples, {'w': 'embed', 'o': 'dense'})


def test_kfac_of_an_expert_is_that_of_what_was_sent_to_it():
  params = {'w': normal(0, V, I, O), 'o': normal(1, O, 3)}

  def outputs(p, e):
    w = READ['fill'](p['w'], e['i'])
    return jnp.einsum('sd,sdf->sf', e['x'], w).sum(0) @ p['o']

  rows = {'i': IDS, 'x': np.asarray(normal(2, 3, 4, I)), 'y': np.arange(3)}
  none = lambda *_: None
  problem = problem_lib.Problem(outputs, loss, loss, none, none)
  fit = jax.jit(
    lambda p: ekfac.fit(
        problem, p, rows_lib.stacked(rows, 2), jax.random.key(0),
        kind='kfac', labels='data',
    )
  )  # fmt: skip
  got = fit(params)['w'].eigenvalues
  at = np.where(IDS < 0, IDS + V, IDS)
  logits = np.stack([
    np.asarray(outputs(params, jax.tree.map(lambda v, b=b: v[b], rows)))
    for b in range(3)
  ]).astype(np.float64)  # fmt: skip
  p = np.exp(logits - logits.max(1, keepdims=True))
  residual = p / p.sum(1, keepdims=True) - np.eye(3)
  delta = residual @ np.asarray(params['o'], np.float64).T  # [B, O]
  for e in range(V):
    b, s = np.nonzero(at == e)
    a, d = rows['x'][b, s].astype(np.float64), delta[b]
    values = [np.linalg.eigvalsh(v.T @ v / 3) for v in (a, d)]
    want = np.maximum(np.outer(*values), 0) / max(len(b) / 3, 1e-9)
    np.testing.assert_allclose(got[e], want, atol=1e-5 * max(want.max(), 1))


# --- methods ----------------------------------------------------------------

METHODS = {
  'grad_dot': gradients.grad_dot(),
  'grad_cos': gradients.grad_cos(),
  'exact': influence.influence(exact.exact(0.1)),
  'cg': influence.influence(cg.cg(0.1, tolerance=3e-6)),
  'ekfac': influence.influence(ekfac_inverse.ekfac(0.1, labels='data')),
  'kfac': influence.influence(ekfac_inverse.kfac(0.1, labels='data')),
  'datainf': influence.influence(datainf.datainf(0.1)),
  'trak': trak.trak(8, ridge=0.1),
  'logra': logra.logra(0.1, rank=(2, 2), labels='data'),
  'trackstar': trackstar.trackstar(rank=(2, 2)),
}


def by_modes(params, x):
  """Tables read clipped, filled and promised, experts of dropped tokens."""
  h = READ['clip'](params['clip'], x) + READ['fill'](params['fill'], x)
  h = h + READ['plain'](params['plain'], x)
  # Sent by other ids: what a dropped token has for input shows nothing.
  w = READ['fill'](params['w'], x[:, ::-1])
  return jnp.tanh(jnp.einsum('bsd,bsdf->bsf', h, w)).sum(1) @ params['o']


def by_masks(params, x):
  """The same, of ids that are all in the tables."""
  x = jnp.where(x < 0, x + V, x)
  near = jnp.clip(x, 0, V - 1)
  here = ((x == near) & (x >= 0))[..., None]
  h = params['clip'][near] + params['fill'][near] * here
  plain = params['plain'][near]  # the last row is read, but not learned from
  h = h + jnp.where(here, plain, jax.lax.stop_gradient(plain))
  sent = jax.nn.one_hot(x[:, ::-1], V).transpose(2, 0, 1)[..., None] * h
  y = jnp.einsum('vbsd,vdf->vbsf', sent, params['w']).sum(0)
  return jnp.tanh(y).sum(1) @ params['o']


@functools.cache
def case(apply):
  params = {
    'clip': normal(0, V, I),
    'fill': normal(1, V, I),
    'plain': normal(4, V, I),
    'w': normal(2, V, I, O),
    'o': normal(3, O, 3),
  }
  rng = np.random.default_rng(0)
  x = rng.integers(-V - 2, V + 3, (9, 5))
  rows = {'x': x, 'y': rng.integers(0, 3, 9)}
  train, queries = (rows_lib.take(rows, slice(*s)) for s in ((6,), (6, 9)))
  problem = problem_lib.classification(apply)
  return tiny.Tiny(problem, params, train, queries)


def scores(t, name):
  return method_lib.attribute(
    METHODS[name], t.problem, t.params, t.train, t.queries
  )


def fast(names, *chosen):
  """The names, all but those chosen marked slow."""
  slow = pytest.mark.slow
  return [n if n in chosen else pytest.param(n, marks=slow) for n in names]


@pytest.mark.parametrize('name', fast(METHODS, 'kfac'))
def test_scores_are_those_of_masked_reads(name):
  got, want = (scores(case(apply), name) for apply in (by_modes, by_masks))
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize('name', fast(['grad_dot', 'exact', 'cg'], 'cg'))
def test_scores_are_those_of_jax_grad(name):
  """Dense, in float64."""
  t = case(by_modes)
  m = tiny.gradients(t.problem.measure, t, t.queries)
  g = tiny.gradients(t.problem.loss, t, t.train)
  inverse = np.eye(m.shape[1])
  if name != 'grad_dot':
    inverse = np.linalg.inv(tiny.dense_ggn(t, t.train) + 0.1 * inverse)
  want = -g @ inverse @ m.T / len(g)
  np.testing.assert_allclose(
    scores(t, name), want, atol=1e-4 * np.abs(want).max()
  )
