"""`only` and `leave_out`: what is left out is a constant to every method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tda_jax import chosen, scoring, trees
from tda_jax import problem as problem_lib
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import arnoldi, cg, datainf, dense, descent, ekfac, exact
from tda_jax.layers import find as layers_lib
from tda_jax.methods import (
  additional_step,
  displaced,
  gradients,
  influence,
  logra,
  relatif,
  representer,
  similarity,
  source,
  tracin,
  trackstar,
  trak,
  unrolled,
)  # fmt: skip
from tda_jax.methods import method as method_lib
from tda_jax.run import Run
from tda_jax.training import fit, members

KEY = jax.random.key(3)
DECAY = optax.adamw(0.01, weight_decay=0.1)
HEURISTIC = dense.dense('heuristic', columns=8)
ASTRA = functools.partial(
  descent.astra, 0.3, steps=5, batch_size=8, tolerance=0.9
)
METHODS = {
  'grad_dot': gradients.grad_dot(),
  'grad_cos': gradients.grad_cos(),
  'additional_step': additional_step.additional_step(DECAY),
  'dense': influence.influence(HEURISTIC),
  'exact': influence.influence(exact.exact('heuristic')),
  'cg': influence.influence(
    cg.cg('heuristic', precondition=ekfac.ekfac('heuristic', labels='exact'))
  ),
  'astra': influence.influence(ASTRA(precondition=ekfac.kfac(0.1))),
  'arnoldi': influence.influence(arnoldi.arnoldi(0.1, rank=4, steps=6)),
  'datainf': influence.influence(datainf.datainf()),
  'ekfac': influence.influence(ekfac.ekfac('heuristic')),
  'relatif': relatif.relatif(ekfac.kfac(0.1)),
  'displaced': displaced.displaced_influence(exact.exact(0.1)),
  'representer': representer.representer(),
  'similarity': similarity.similarity(),
  'trak': trak.trak(8, ridge=0.1),
  'logra': logra.logra(0.1, rank=(2, 2)),
  'trackstar': trackstar.trackstar(0.1, rank=(2, 2)),
}
# Where parameters themselves, or their number, count beside the layers.
QUICK = ('additional_step', 'dense', 'displaced')


def tiny_of(**options):
  t = tiny.classification(l2=0.05)
  made = problem_lib.classification(tiny.mlp_apply, 0.05, **options)
  return t._replace(problem=made)


LEFT = tiny_of(leave_out='layer0/b')


def closed_over():
  """The same, the left-out bias a constant that the user closed over."""
  t = tiny.classification(l2=0.05)
  bias = t.params['layer0']['b']

  def apply(params, x):
    every = {**params, 'layer0': {'w': params['layer0']['w'], 'b': bias}}
    return tiny.mlp_apply(every, x)

  own = {**t.params, 'layer0': {'w': t.params['layer0']['w']}}
  return t._replace(problem=problem_lib.classification(apply, 0.05), params=own)


def attribute(method, t, run=None):
  run = t.params if run is None else run
  return method_lib.attribute(
    method, t.problem, run, t.train, t.queries, key=KEY
  )


@pytest.mark.parametrize(
  'name',
  [
    n if n in QUICK else pytest.param(n, marks=pytest.mark.slow)
    for n in METHODS
  ],
)
def test_scores_are_those_with_the_left_out_closed_over(name):
  found = attribute(METHODS[name], LEFT)
  want = attribute(METHODS[name], closed_over())
  np.testing.assert_allclose(found, want, atol=2e-4 * np.abs(want).max())
  if name == 'additional_step':
    whole = attribute(METHODS[name], tiny.classification(l2=0.05))
    assert np.abs(found - whole).max() > 1e-3 * np.abs(whole).max()


def test_scores_are_of_the_block_of_the_dense_curvature():
  """Without any closure: rows and columns of the whole model's float64."""
  t = tiny.classification(l2=0.05)
  names = trees.names(t.params)
  sizes = [x.size for x in jax.tree.leaves(t.params)]
  which = np.repeat(np.array(names) != 'layer0/b', sizes)
  a = tiny.dense_ggn(t, t.train)[np.ix_(which, which)] + 0.1 * np.eye(
    which.sum()
  )
  m = tiny.gradients(t.problem.measure, t, t.queries)[:, which]
  g = tiny.gradients(t.problem.loss, t, t.train)[:, which]
  want = -g @ np.linalg.solve(a, m.T) / len(g)
  method = influence.influence(exact.exact(0.1))
  np.testing.assert_allclose(attribute(method, LEFT), want, atol=1e-5)
  runs = tiny.run(jax.tree.map(lambda x: jnp.stack([x, x]), t.params))
  runs = runs._replace(checkpoints=None)
  both = attribute(method_lib.ensemble(method), LEFT, runs)
  np.testing.assert_allclose(both, want, atol=1e-5)
  only = tiny_of(only=('layer1/*', '*/w'), leave_out=())
  np.testing.assert_allclose(attribute(method, only), want, atol=1e-5)


@pytest.mark.parametrize(
  'method',
  [
    tracin.tracin(),
    pytest.param(source.source(2), marks=pytest.mark.slow),
    pytest.param(source.source(1, solver=exact.exact), marks=pytest.mark.slow),
  ],
)
def test_a_checkpoint_has_its_own_left_out_parameters(method):
  t = tiny.classification(l2=0.05)

  def apply(params, x):
    first = {
      **params['layer0'],
      'b': jax.lax.stop_gradient(params['layer0']['b']),
    }
    return tiny.mlp_apply({**params, 'layer0': first}, x)

  by_hand = t._replace(problem=problem_lib.classification(apply, 0.05))
  run = tiny.run(t.params, 2)
  want = attribute(method, by_hand, run)
  found = attribute(method, LEFT, run)
  np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())
  last = jax.tree.map(lambda c, p: jnp.broadcast_to(p, c.shape), run.checkpoints, t.params)  # fmt: skip
  same = jax.tree.map(lambda x: x, run.checkpoints)
  same['layer0']['b'] = last['layer0']['b']
  other = attribute(method, LEFT, run._replace(checkpoints=same))
  assert np.abs(other - want).max() > 1e-3 * np.abs(want).max()


@pytest.mark.parametrize('solver', [exact.exact(0.1), cg.cg(0.1)])
def test_an_inverse_alone_solves_in_what_is_left(solver):
  v = tiny.vectors(LEFT)
  found = tiny.solve(solver, LEFT, v, KEY)
  assert not found.x['layer0']['b'].any()
  own = closed_over()
  short = {**v, 'layer0': {'w': v['layer0']['w']}}
  want = tiny.solve(solver, own, short, KEY)
  got = {**found.x, 'layer0': {'w': found.x['layer0']['w']}}
  np.testing.assert_allclose(
    tiny.flat(got),
    tiny.flat(want.x),
    atol=1e-4 * np.abs(tiny.flat(want.x)).max(),
  )


def test_stores_top_rows_and_self_influence_are_of_what_is_left(tmp_path):
  method, t = METHODS['grad_dot'], LEFT
  want = attribute(method, closed_over())
  run = Run(jax.tree.map(lambda x: x[None], t.params), None, None, None)
  stored = scoring.score(
    method, t.problem, run, t.train, t.queries, tmp_path / 's', name='dot',
    key=KEY, progress=False,
  )  # fmt: skip
  np.testing.assert_allclose(stored[0], want, atol=1e-5)
  with pytest.raises(ValueError, match='leave_out is'):
    scoring.score(
      method, tiny_of(leave_out='layer0/w').problem, run, t.train, t.queries,
      tmp_path / 's', name='dot', key=KEY, progress=False,
    )  # fmt: skip
  one = run._replace(params=t.params)
  values, _ = scoring.top_k(
    method, t.problem, one, t.train, t.queries, 2, name='dot', key=KEY
  )
  np.testing.assert_allclose(values, -np.sort(-want, 0)[:2].T, atol=1e-5)
  own = scoring.self_influence(method, t.problem, one, t.train)
  alone = closed_over()
  self_want = attribute(method, alone._replace(queries=t.train))
  np.testing.assert_allclose(own, np.diagonal(self_want), atol=1e-5)


def test_training_trains_everything():
  rate = lambda total: optax.constant_schedule(0.1)
  recipe = fit.Recipe(
    lambda key: LEFT.params, lambda total: optax.sgd(0.1), rate, 4, 2
  )
  keys = jax.random.split(KEY, 1)
  plain = tiny.classification(l2=0.05).problem
  runs = [
    members.train(p, recipe, LEFT.train, keys) for p in (LEFT.problem, plain)
  ]
  jax.tree.map(np.testing.assert_array_equal, runs[0].params, runs[1].params)
  with pytest.raises(ValueError, match='without only or leave_out'):
    own = trees.row(runs[0]._replace(learning_rates=None, steps=None), 0)
    attribute(unrolled.unrolled(recipe), LEFT, own)


def test_layers_are_found_among_what_is_left_only():
  t = tiny_of(leave_out=('layer0/*',), as_leaf=('layer0/w', 'layer1/b'))
  problem, kept = chosen.restricted(t.problem, t.params)
  example = rows_lib.take(t.train, 0)
  layers = layers_lib.find(problem.outputs, kept, example, problem.as_leaf)
  assert {n: x.kind for n, x in layers.items()} == {
    'layer1/w': 'dense',
    'layer1/b': 'leaf',
  }
  assert sum(row.parameters for row in layers_lib.coverage(layers, kept)) == 15


@pytest.mark.parametrize(
  'options, said',
  [
    ({'only': 'layr1/*'}, r"only='layr1/\*' fits no parameter: choose among"),
    ({'leave_out': ('layer0/w', 'q')}, "leave_out='q' fits .*'layer1/w'"),
    ({'leave_out': '*'}, 'leave no parameter to score rows by'),
    ({'leave_out': 'layer0/b', 'as_leaf': 'q'}, "as_leaf='q' fits no"),
  ],
)
def test_patterns_that_say_nothing_are_refused(options, said):
  t = tiny_of(**options)
  with pytest.raises(ValueError, match=said):
    attribute(METHODS['grad_dot'], t)
