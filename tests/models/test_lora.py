"""Adapters beside frozen matrices equal merged ones, and are dense layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import cg, ekfac
from tda_jax.layers import find as layers
from tda_jax.methods import gradients, influence, trak
from tda_jax.methods import method as method_lib
from tda_jax.models import lora
from tda_jax.training import members
from tda_jax.training.fit import Recipe

KEY = jax.random.key(2)
ALPHA = 3.0


def _odd(params, ids):  # [B, T]
  """An embedding, a matrix reused by a scan under remat, and one turned."""
  x = params['embed'][ids]

  @jax.checkpoint
  def step(h, _):
    return jnp.tanh(h @ params['again'] + params['shift']), None

  x, _ = jax.lax.scan(step, x, None, length=2)
  return jnp.einsum('bto,co->bc', x, params['turned'])


def odd() -> tiny.Tiny:
  keys = jax.random.split(jax.random.key(0), 4)
  params = {
    'embed': jax.random.normal(keys[0], (7, 4)),
    'again': jax.random.normal(keys[1], (4, 4)),
    'shift': jax.random.normal(keys[2], (4,)),
    'turned': jax.random.normal(keys[3], (3, 4)),
  }
  return tiny.model('scan')._replace(
    problem=problem_lib.classification(_odd), params=params
  )


CASES = {
  'mlp': (tiny.classification, '*/w', 3),
  'odd': (odd, ('embed', 'again', 'turned'), 2),
  'conv': (lambda: tiny.model('conv'), ('conv', 'out'), 2),
}


def filled(params, targets, rank=2):
  """Adapters that change something."""
  zero = lora.init(KEY, params, rank, targets)
  leaves, structure = jax.tree.flatten(zero)
  keys = jax.random.split(KEY, len(leaves))
  noise = [
    0.5 * jax.random.normal(k, x.shape)
    for k, x in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, noise)


@pytest.mark.parametrize('case', CASES)
def test_adapters_beside_a_matrix_equal_the_merged_one(case):
  make, targets, rank = CASES[case]
  t = make()
  adapters = filled(t.params, targets, rank)
  problem = lora.adapted(t.problem, ALPHA)

  def beside(adapters):
    own = problem_lib.bound(problem, t.params)
    return problem_lib.losses(own, adapters, t.train)

  def merged(adapters):
    params = lora.merge(t.params, adapters, ALPHA)
    return problem_lib.losses(t.problem, params, t.train)

  plain = problem_lib.losses(t.problem, t.params, t.train)
  want = jax.jit(jax.jacrev(merged))(adapters)
  got = jax.jit(jax.jacrev(beside))(adapters)
  np.testing.assert_allclose(beside(adapters), merged(adapters), rtol=1e-5)
  assert np.abs(beside(adapters) - plain).max() > 0.1
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
    got,
    want,
  )
  start = lora.init(KEY, t.params, rank, targets)
  np.testing.assert_allclose(beside(start), plain, rtol=1e-6)
  assert np.std(start[next(iter(start))]['a']) > 0.1


def _scanned(turned):
  """A model of three scanned layers and a head; ids [B, T] -> [B, 3]."""

  def apply(params, ids):
    def step(h, w):
      return jnp.tanh(h @ (w.T if turned else w)), None

    x = params['embed'][ids]
    x, _ = jax.lax.scan(jax.checkpoint(step), x, params['layers'])
    return x.sum(1) @ params['head']

  return apply


@pytest.mark.parametrize('turned', [False, True])
def test_each_scanned_layer_has_adapters_of_its_own(turned):
  keys = jax.random.split(jax.random.key(0), 3)
  params = {
    'embed': jax.random.normal(keys[0], (7, 4)),
    'layers': jax.random.normal(keys[1], (3, 4, 4)),
    'head': jax.random.normal(keys[2], (4, 3)),
  }
  t = tiny.model('scan')
  problem = problem_lib.classification(_scanned(turned))
  adapters = filled(params, ('layers', 'head'))
  shapes = {side: x.shape for side, x in adapters['layers'].items()}
  assert shapes == {'a': (3, 4, 2), 'b': (3, 2, 4)}
  start = lora.init(KEY, params, 2, 'layers')['layers']['a']
  assert np.abs(start[0] - start[1]).max() > 0.1
  beside = problem_lib.bound(lora.adapted(problem, ALPHA), params)

  def merged(adapters):
    whole = lora.merge(params, adapters, ALPHA)
    return problem_lib.losses(problem, whole, t.train)

  got = jax.jit(jax.jacrev(lambda x: problem_lib.losses(beside, x, t.train)))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
    got(adapters),
    jax.jit(jax.jacrev(merged))(adapters),
  )
  example = rows_lib.take(t.train, 0)
  found = layers.find(beside.outputs, adapters, example)
  stacks = {name: (layer.kind, layer.stack) for name, layer in found.items()}
  assert stacks == {
    'head/a': ('dense', ()),
    'head/b': ('dense', ()),
    'layers/a': ('dense', (3,)),
    'layers/b': ('dense', (3,)),
  }


def adapters_of(n=11) -> tiny.Tiny:
  """A problem in adapters of one base, as any other."""
  t = tiny.classification(n=n)
  adapters = filled(t.params, '*/w', 2)
  problem = lora.adapted(t.problem, ALPHA)._replace(l2=0.02)
  return t._replace(
    problem=problem_lib.bound(problem, t.params), params=adapters
  )


def test_adapters_are_dense_layers():
  t = adapters_of()
  found = layers.find(t.problem.outputs, t.params, rows_lib.take(t.train, 0))
  assert sorted(found) == [
    f'layer{i}/w/{side}' for i in range(2) for side in 'ab'
  ]
  assert {layer.kind for layer in found.values()} == {'dense'}
  covered = layers.coverage(found, t.params)
  assert sum(row.parameters for row in covered) == trees.size(t.params)


def test_adapters_of_a_convolution_are_dense_layers():
  t = tiny.model('conv')
  adapters = filled(t.params, '*')
  problem = problem_lib.bound(lora.adapted(t.problem, ALPHA), t.params)
  found = layers.find(problem.outputs, adapters, rows_lib.take(t.train, 0))
  kinds = {name: layer.kind for name, layer in found.items()}
  names = [f'{name}/{side}' for name in ('conv', 'out') for side in 'ab']
  assert kinds == dict.fromkeys(names, 'dense')


def attribute(method, t, **kwargs):
  return method_lib.attribute(
    method, t.problem, t.params, t.train, t.queries, key=KEY, **kwargs
  )


def sides(t):
  g = tiny.gradients(t.problem.loss, t, t.train)
  m = tiny.gradients(t.problem.measure, t, t.queries)
  return g, m


def assert_close(got, want):
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_cg_and_grad_dot_are_the_dense_formula():
  t = adapters_of()
  g, m = sides(t)
  system = tiny.dense_ggn(t, t.train) + 0.1 * np.eye(g.shape[1])
  want = -g @ np.linalg.solve(system, m.T) / len(g)
  solver = influence.influence(cg.cg(0.1, tolerance=1e-5))
  assert_close(attribute(solver, t), want)
  dots = attribute(gradients.grad_dot(), t, batch_size=4)
  assert_close(dots, -g @ m.T / len(g))


def test_ekfac_of_one_row_is_the_dense_formula_by_layers():
  t = adapters_of(n=1)
  g, m = sides(t)
  system = tiny.dense_ggn(t, t.train)
  want, first = 0, 0
  for leaf in jax.tree.leaves(t.params):
    own = slice(first, first + leaf.size)
    first += leaf.size
    block = system[own, own] + 0.1 * np.eye(leaf.size)
    want -= g[:, own] @ np.linalg.solve(block, m[:, own].T)
  solver = influence.influence(ekfac.ekfac(0.1, labels='exact'))
  assert_close(attribute(solver, t), want)


@pytest.mark.slow
def test_trak_takes_the_run_of_adapters_over_several_bases():
  t = tiny.classification()
  bases = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x, -x]), t.params)
  problem = lora.adapted(t.problem, ALPHA)
  keys = jax.random.split(KEY, 3)
  traces = []

  def counted(*args):
    traces.append(1)
    return problem.outputs(*args)

  made, init = recipe(t.params)
  own = problem._replace(outputs=counted)
  run = members.train(own, made, t.train, keys, frozen=bases)
  assert len(traces) <= 4  # checked, and compiled once: not once for a base
  for e in range(3):
    base = trees.row(bases, e)
    begun = init(jax.random.fold_in(keys[e], 0))
    alone = problem_lib.bound(problem, base)
    one = members.train(alone, made, t.train, keys[e : e + 1])
    jax.tree.map(
      lambda x, y, z, e=e: (
        np.testing.assert_allclose(x[e], y[0], rtol=1e-4, atol=1e-5),
        np.testing.assert_array_less(0, np.abs(x[e] - z).max()),
      ),
      run.params,
      one.params,
      begun,
    )
    np.testing.assert_array_equal(
      run.frozen['layer0']['w'][e], base['layer0']['w']
    )
  method = trak.trak_ensemble(6, ridge=0.1)
  args = (method, problem, run, t.train, t.queries)
  scores = method_lib.attribute(*args, key=KEY, batch_size=4)
  again = method_lib.attribute(*args, key=KEY, batch_size=64)
  assert scores.shape == (11, 4) and np.isfinite(scores).all()
  np.testing.assert_allclose(scores, again, atol=1e-5 * np.abs(again).max())


def recipe(params):
  rate = lambda total: optax.constant_schedule(0.1)
  init = functools.partial(lora.init, params=params, rank=2, targets='*/w')
  return Recipe(init, lambda total: optax.sgd(0.1), rate, 4, 3), init


BAD = [
  ({'targets': 'layer9/w'}, "targets='layer9/w' fits no parameter"),
  ({'targets': ('*/w', '*/b')}, r'layer0/b has shape \[4\], of no matrix'),
  ({'targets': '*/w', 'rank': 4}, r'rank=4 for layer1/w \[4, 3\]: give 1 to 3'),
  ({'targets': '*/w', 'rank': 0}, 'rank=0'),
]


@pytest.mark.parametrize('change, message', BAD, ids=[m for _, m in BAD])
def test_bad_targets(change, message):
  params = tiny.classification().params
  with pytest.raises(ValueError, match=message):
    lora.init(KEY, params, **({'rank': 2} | change))


def test_a_matrix_that_is_cut_is_refused():
  t = tiny.classification()
  apply = lambda p, x: x @ p['w'][:, :3] + x @ p['w'][:, 3:]
  problem = lora.adapted(problem_lib.classification(apply))
  adapters = lora.init(KEY, {'w': jnp.ones((5, 6))}, 2, 'w')
  with pytest.raises(ValueError, match='not use w as one whole matrix'):
    example = rows_lib.take(t.train, 0)
    problem.outputs(adapters, example, {'w': jnp.ones((5, 6))})


@pytest.mark.parametrize(
  'use',
  [
    # The heads of attention are several matrices at once, and no scan.
    lambda w, x: jnp.einsum('bi,hio->hbo', x, w).sum(0),
    # One matrix of 25 rows, for which the adapters have another shape.
    lambda w, x: jnp.tile(x, 5) @ w.reshape(25, 5),
    # What is scanned are not the matrices that adapters were made for.
    lambda w, x: jax.lax.scan(
      lambda h, v: (h @ v, None), x, w.swapaxes(0, 1)[:, :, :5]
    )[0],
  ],
)
def test_a_stack_that_is_not_scanned_as_it_is_is_refused(use):
  t = tiny.classification()
  params = {'w': jnp.ones((5, 5, 5))}
  problem = lora.adapted(
    problem_lib.classification(lambda p, x: use(p['w'], x))
  )
  adapters = lora.init(KEY, params, 2, 'w')
  with pytest.raises(ValueError, match='not use w as one whole matrix'):
    problem.outputs(adapters, rows_lib.take(t.train, 0), params)


def test_left_out_parameters_are_the_models_and_not_the_adapters():
  problem = tiny.classification().problem._replace(leave_out=('*/b',))
  with pytest.raises(ValueError, match='choose by the targets of init'):
    lora.adapted(problem)


def test_entries_of_a_have_variance_one_over_i():
  params = {'kernel': np.zeros((400, 60), np.float32)}
  a = lora.init(KEY, params, 50, 'kernel')['kernel']['a']
  np.testing.assert_allclose(np.var(a), 1 / 400, rtol=0.05)
