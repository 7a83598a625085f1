"""Flax models as (apply, params): state apart, set to evaluation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tda_jax as tda
from tda_jax.models import convert

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(2, 3, (7, 4)).astype(np.float32)
TRAIN = {'x': X[:5], 'y': np.arange(5) % 3}
QUERIES = {'x': X[5:], 'y': np.array([2, 0])}


class Linen(nn.Module):
  rate: float = 0.5

  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.Dense(6)(x)
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = nn.Dropout(self.rate, deterministic=not train)(x)
    return nn.Dense(3)(x)


class Nnx(nnx.Module):
  def __init__(self, rngs, drop=True):
    self.layers = nnx.List([nnx.Linear(4, 6, rngs=rngs)])
    self.norm = nnx.BatchNorm(6, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs if drop else None)
    self.out = nnx.Linear(6, 3, rngs=rngs)

  def __call__(self, x):
    x = self.dropout(self.norm(self.layers[0](x)))
    return self.out(x)


def linen_variables(module):
  every = module.init(KEY, X, train=False)
  own = {'mean': X.mean() * jnp.ones(6), 'var': jnp.arange(1.0, 7.0)}
  return {**every, 'batch_stats': {'BatchNorm_0': own}}


def nnx_model():
  model = Nnx(nnx.Rngs(0))
  model(X)  # moves its running averages
  return model


def by_hand(apply, params, x, mean, var):
  """Dense, normalised by the given averages, dense; float64."""
  w, norm, out = (
    jax.tree.map(lambda v: np.asarray(v, np.float64), params[n])
    for n in ('first', 'norm', 'out')
  )
  h = np.asarray(x, np.float64) @ w['kernel'] + w['bias']
  h = (h - mean) / np.sqrt(np.asarray(var, np.float64) + 1e-5)
  h = h * norm['scale'] + norm['bias']
  return h @ out['kernel'] + out['bias']


def converted(kind):
  """(apply, params, params by role, mean, var)."""
  if kind == 'linen':
    variables = linen_variables(Linen())
    apply, params = convert.from_linen(Linen(), variables)
    averages = variables['batch_stats']['BatchNorm_0']
    names = ('Dense_0', 'BatchNorm_0', 'Dense_1')
    roles = dict(
      zip(('first', 'norm', 'out'), map(params.get, names), strict=True)
    )
    return apply, params, roles, averages['mean'], averages['var']
  model = nnx_model()
  apply, params = convert.from_nnx(model)
  assert not model.dropout.deterministic  # the user's own is left alone
  roles = {'first': params['layers'][0], **params}
  return apply, params, roles, model.norm.mean[...], model.norm.var[...]


@pytest.mark.parametrize('kind', ['linen', 'nnx'])
def test_state_is_apart_and_the_model_is_in_evaluation(kind):
  apply, params, roles, mean, var = converted(kind)
  assert sum(x.size for x in jax.tree.leaves(params)) == 30 + 12 + 21
  want = by_hand(apply, roles, X, mean, var)
  np.testing.assert_allclose(apply(params, X), want, atol=2e-4)
  tda.layers.find.check_independent(apply, params, X)


@pytest.mark.parametrize('kind', ['linen', 'nnx'])
def test_scores_are_those_with_state_closed_over_by_hand(kind):
  apply, params, *_ = converted(kind)
  if kind == 'linen':
    state = linen_variables(Linen())
    del state['params']
    plain = lambda p, x: Linen().apply({'params': p, **state}, x, False)
    own = params
  else:
    model = nnx_model()
    model.eval()
    graph, own, rest = nnx.split(model, nnx.Param, ...)
    plain = lambda p, x: nnx.merge(graph, p, rest)(x)
  method = tda.influence(tda.kfac(0.1))
  found = tda.attribute(
    method, tda.classification(apply), params, TRAIN, QUERIES
  )
  want = tda.attribute(method, tda.classification(plain), own, TRAIN, QUERIES)
  np.testing.assert_allclose(found, want, atol=1e-6)
  assert np.abs(found).max() > 1e-3


@pytest.mark.parametrize('kind', ['linen', 'nnx'])
def test_a_key_draws_the_mask_and_leaves_the_norm_alone(kind):
  apply, params, roles, mean, var = converted(kind)
  # What is dropped is a column of the last product: solve for the mask.
  out = roles['out']
  h = by_hand(apply, {**roles, 'out': {'kernel': np.eye(6), 'bias': 0}}, X[:1], mean, var)[0]  # fmt: skip
  masks = np.array(list(np.ndindex(*[2] * 6)))
  could = (2 * masks * h) @ np.asarray(out['kernel']) + np.asarray(out['bias'])
  drawn = [
    np.asarray(apply(params, X[:1], key))[0] for key in jax.random.split(KEY, 3)
  ]
  which = [np.abs(could - y).max(1) for y in drawn]
  assert max(w.min() for w in which) < 1e-3
  assert len({int(w.argmin()) for w in which}) > 1
  again = jax.jit(apply)(params, X[:1], jax.random.split(KEY, 3)[0])
  np.testing.assert_allclose(again[0], drawn[0], atol=1e-5)
  problem = tda.problem.bound(tda.classification(apply), KEY)
  scores = tda.attribute(tda.grad_dot(), problem, params, TRAIN, QUERIES)
  plain = tda.classification(apply)
  whole = tda.attribute(tda.grad_dot(), plain, params, TRAIN, QUERIES)
  assert np.isfinite(scores).all() and np.abs(scores - whole).max() > 1e-3


class Plain(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(x)


class AlwaysDrops(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(nn.Dropout(0.5)(x, deterministic=False))


class Nothing(nn.Module):
  pass


class NoCall(nnx.Module):
  pass


def use(pair, *args):
  return pair[0](pair[1], *args)


def of_plain(module=None):
  return convert.from_linen(module or Plain(), Plain().init(KEY, X))


NNX = lambda **kw: convert.from_nnx(Nnx(nnx.Rngs(0), **kw))


@pytest.mark.parametrize(
  'call, said',
  [
    (lambda: use(of_plain(), X, KEY), 'Plain, whose outputs do not depend'),
    (lambda: use(NNX(drop=False), X, KEY), 'Nnx, whose outputs do not depend'),
    (lambda: use(of_plain(AlwaysDrops()), X), 'AlwaysDrops draws random numb'),
    (lambda: of_plain(Plain), 'not Plain of type type: give the model itself'),
    (lambda: of_plain(Nothing()), 'Nothing has no __call__'),
    (lambda: convert.from_nnx(NoCall()), 'NoCall has no __call__'),
    (lambda: convert.from_nnx(Plain()), 'from_nnx takes a nnx module, not Pla'),
    (
      lambda: convert.from_linen(Plain(), Plain().init(KEY, X)['params']),
      'give what its init returns',
    ),
    (
      lambda: use(convert.from_linen(Linen(), {'params': {'a': X}}), X),
      'Linen cannot be applied to variables of',
    ),
    (
      lambda: convert.from_nnx(Nnx(nnx.Rngs(0)), nnx.Cache),
      'Nnx has no variables that are',
    ),
    (lambda: NNX()[0]({'out': X}, X), 'Nnx has the parameters'),
  ],
)
def test_what_cannot_be_converted_is_said(call, said):
  with pytest.raises(ValueError, match=said):
    call()
