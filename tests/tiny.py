"""Small problems and dense float64 oracles, shared by the tests."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.curvature import projections
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib
from tda_jax.run import Run


class Tiny(NamedTuple):
  problem: problem_lib.Problem
  params: dict
  train: dict
  queries: dict


def mlp_init(widths, key, scale=0.6):
  keys = jax.random.split(key, 2 * len(widths))
  return {
    f'layer{i}': {
      'w': scale * jax.random.normal(keys[2 * i], (a, b)),
      'b': scale * jax.random.normal(keys[2 * i + 1], (b,)),
    }
    for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
  }


def mlp_apply(params, x):
  for i in range(len(params)):
    layer = params[f'layer{i}']
    x = x @ layer['w'] + layer['b']
    if i < len(params) - 1:
      x = jnp.tanh(x)
  return x


def _once(make):
  """What `make` gives, made once for equal arguments.

  One problem is then the same object in all tests, by which `jax.jit` knows
  again what it has compiled with it as a static argument.
  """
  made = functools.cache(lambda wide, *args, **kw: make(*args, **kw))
  return lambda *args, **kw: made(jax.config.jax_enable_x64, *args, **kw)


@_once
def classification(n=11, q=4, l2=0.0, widths=(5, 4, 3)) -> Tiny:
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (n + q, widths[0]))
  y = jax.random.randint(keys[1], (n + q,), 0, widths[-1])
  rows = {'x': np.asarray(x), 'y': np.asarray(y)}
  return Tiny(
    problem_lib.classification(mlp_apply, l2),
    mlp_init(widths, keys[2]),
    rows_lib.take(rows, slice(0, n)),
    rows_lib.take(rows, slice(n, n + q)),
  )


@_once
def regression(n=11, q=4, l2=0.0, widths=(5, 4, 1)) -> Tiny:
  keys = jax.random.split(jax.random.key(1), 3)
  x = jax.random.normal(keys[0], (n + q, widths[0]))
  y = jax.random.normal(keys[1], (n + q, 1))
  rows = {'x': np.asarray(x), 'y': np.asarray(y)}
  return Tiny(
    problem_lib.regression(mlp_apply, l2),
    mlp_init(widths, keys[2]),
    rows_lib.take(rows, slice(0, n)),
    rows_lib.take(rows, slice(n, n + q)),
  )


def vectors(t, q=3):
  """A stack of Q random vectors."""
  keys = jax.random.split(jax.random.key(2), len(jax.tree.leaves(t.params)))
  keys = jax.tree.unflatten(jax.tree.structure(t.params), [*keys])
  return jax.tree.map(
    lambda k, x: jax.random.normal(k, (q, *x.shape)), keys, t.params
  )


def run(params, count=4):
  """A Run of `count` checkpoints on a straight way to params."""
  along = 1 - 0.2 * jnp.arange(count)[::-1]
  checkpoints = jax.vmap(lambda s: trees.scaled(s, params))(along)
  rates = 0.1 + 0.1 * np.arange(count)
  return Run(params, checkpoints, rates, 20 * (1 + np.arange(count)))


def _conv(params, x):  # [B, 6, 6, 2]
  x = jax.lax.conv_general_dilated(
    x,
    params['conv'],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return jnp.tanh(x).mean((1, 2)) @ params['out']


def _scan(params, x):  # ids [B, T]
  x = params['embed'][x]
  x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params['layers'])
  return x.mean(1) @ params['out']


@_once
def model(name) -> Tiny:
  """5 rows of: an 'mlp'; a 'conv'; a 'scan' of layers over an embedding."""
  if name == 'mlp':
    return classification(n=5)
  keys = jax.random.split(jax.random.key(0), 4)
  y = np.arange(5) % 3
  if name == 'conv':
    params = {
      'conv': jax.random.normal(keys[0], (3, 3, 2, 4)),
      'out': jax.random.normal(keys[1], (4, 3)),
    }
    x = np.asarray(jax.random.normal(keys[2], (5, 6, 6, 2)))
    apply = _conv
  else:
    params = {
      'embed': jax.random.normal(keys[0], (7, 4)),
      'layers': jax.random.normal(keys[1], (2, 4, 4)),
      'out': jax.random.normal(keys[2], (4, 3)),
    }
    x = np.array([[0, 1, 1], [2, 3, 4], [5, 6, 0], [1, 1, 1], [6, 2, 3]])
    apply = _scan
  rows = {'x': x, 'y': y}
  return Tiny(problem_lib.classification(apply), params, rows, rows)


def padded_outputs(params, ids):
  """Of one row: attention and a relu layer over ids that are not 0."""
  real, h = ids != 0, params['embed'][ids]
  weights = jnp.where(real, h @ params['keys'] @ h.T, -1e9)
  h = h + jax.nn.softmax(weights) @ h @ params['values']
  return h + jax.nn.relu(h @ params['in'] + 0.1) @ params['back'], real


def _pooled(params, x):  # ids [B, T]
  h, real = jax.vmap(padded_outputs, (None, 0))(params, x)
  h = jnp.where(real[..., None], h, 0).sum(1) / real.sum(1, keepdims=True)
  return h @ params['out']


@_once
def padded(extra, n=6, q=4) -> Tiny:
  """Rows of 1 to 4 ids, in 4 + `extra` positions; 0 is padding."""
  rng = np.random.default_rng(3)
  x = rng.integers(1, 7, (n + q, 4))
  x[np.arange(4) >= rng.integers(1, 5, (n + q, 1))] = 0
  x = np.pad(x, ((0, 0), (0, extra)))
  rows = {'x': x, 'y': np.arange(n + q) % 3}
  shapes = {
    'embed': (7, 4),
    'keys': (4, 4),
    'values': (4, 4),
    'in': (4, 3),
    'back': (3, 4),
    'out': (4, 3),
  }
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in shapes.items()
  }
  return Tiny(
    problem_lib.classification(_pooled),
    params,
    rows_lib.take(rows, slice(0, n)),
    rows_lib.take(rows, slice(n, n + q)),
  )


def batch(rows):
  n = rows_lib.count(rows)
  return rows_lib.Batch(rows, np.arange(n), np.ones(n, np.float32))


def solve(solver, t: Tiny, v, key):
  """A solver's Solution for the stack of vectors v."""
  return _solve(solver, t.problem, t.params, t.train, v, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve(solver, problem, params, train, v, key):
  state = solver.fit(problem, params, train, key)
  return solver.solve(state, problem, params, train, v, key)


def fit(solver, t: Tiny, key):
  """A solver's state."""
  return _fit(solver, t.problem, t.params, t.train, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit(solver, *args):
  return solver.fit(*args)


def flat(stack):
  """A stack of trees [Q, ...] as a float64 matrix [Q, P]."""
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(stack)]
  return np.concatenate([x.reshape(len(x), -1) for x in leaves], 1)


def basis(params):
  """The P unit vectors as a stack of trees."""
  vector, unravel = ravel_pytree(params)
  return jax.vmap(unravel)(jnp.eye(len(vector)))


def jacobian(tiny: Tiny, rows):
  """Of outputs in parameters, [n, K, P], float64."""
  return _oracle(_jacobian, tiny, rows)


def loss_hessians(tiny: Tiny, rows):
  """∂²loss/∂outputs², [n, K, K], float64."""
  return _oracle(_loss_hessians, tiny, rows)


def dense_ggn(tiny: Tiny, rows):
  """Mean GGN plus l2, [P, P], float64."""
  j, h = jacobian(tiny, rows), loss_hessians(tiny, rows)
  ggn = np.einsum('nkp,nkl,nlq->pq', j, h, j) / len(j)
  return ggn + tiny.problem.l2 * np.eye(len(ggn))


def dense_hessian(tiny: Tiny, rows):
  """Hessian of the objective, [P, P], float64."""
  return _oracle(_hessian, tiny, rows)


def gradients(of, tiny: Tiny, rows):
  """Per-row gradients of `of(outputs, example)`, [n, P], float64."""
  return _oracle(_gradients, tiny, rows, of)


def _oracle(formula, tiny, rows, *static):
  with jax.enable_x64(True):
    params, rows = _wide(tiny.params), _wide(rows)
    return np.asarray(formula(tiny.problem, *static, params, rows))


@functools.partial(jax.jit, static_argnums=0)
def _jacobian(problem, params, rows):
  vector, unravel = ravel_pytree(params)
  outputs = lambda v: jax.vmap(problem.outputs, (None, 0))(unravel(v), rows)
  return jax.jacrev(outputs)(vector)


@functools.partial(jax.jit, static_argnums=0)
def _loss_hessians(problem, params, rows):
  outputs = jax.vmap(problem.outputs, (None, 0))(params, rows)
  return jax.vmap(jax.hessian(problem.loss))(outputs, rows)


@functools.partial(jax.jit, static_argnums=0)
def _hessian(problem, params, rows):
  vector, unravel = ravel_pytree(params)

  def objective(v):
    losses = problem_lib.losses(problem, unravel(v), rows)
    return losses.mean() + problem.l2 * (v @ v) / 2

  return jax.hessian(objective)(vector)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradients(problem, of, params, rows):
  vector, unravel = ravel_pytree(params)
  value = lambda v, e: of(problem.outputs(unravel(v), e), e)
  return jax.vmap(jax.grad(value), (None, 0))(vector, rows)


def projection(tiny: Tiny, size, kind, key):
  """The matrix R/√k [P, k] of a random projection, from unit gradients."""
  example = rows_lib.take(tiny.train, 0)
  layers = layers_lib.find(tiny.problem.outputs, tiny.params, example)
  keys = projections.layer_keys(layers, key)
  total = 0
  for name, layer in layers.items():
    i, o = jnp.eye(layer.num_in), jnp.eye(layer.num_out)
    a = jnp.repeat(i, layer.num_out, 0)[:, None]
    g = jnp.tile(o, (layer.num_in, 1))[:, None]
    signs = projections.KINDS[kind](size, layer, a, g, keys[name])
    signs = signs.T.reshape(size, layer.num_in, layer.num_out)
    back = lambda w, layer=layer: layers_lib.unmatrix(layer, w, tiny.params)
    total += flat(jax.vmap(back)(signs))
  return total.T


def _wide(tree):
  floating = lambda x: np.issubdtype(x.dtype, np.floating)
  return jax.tree.map(
    lambda x: np.asarray(x, np.float64) if floating(x) else x, tree
  )
