"""Every method runs over members that have something frozen."""

import functools

import jax
import numpy as np
import optax
import pytest
import test_methods
import test_unrolled
import tiny

from tda_jax import problem as problem_lib
from tda_jax import scoring, trees
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods import trak, unrolled
from tda_jax.models import mlp
from tda_jax.run import members_of
from tda_jax.training import ensembles, members
from tda_jax.training.fit import Member, Recipe

KEY = jax.random.key(5)
MASK = jax.random.key(6)
METHODS = {
  name: test_methods.METHODS[name]
  for name in (
    'grad_cos', 'ekfac', 'cg', 'exact', 'source', 'tracin', 'representer',
    'trak', 'logra', 'trackstar', 'displaced',
  )
}  # fmt: skip


@functools.cache
def dropout():
  init, apply = mlp.mlp((6, 4), 3, (5,), dropout=0.4)
  t = tiny.classification()
  problem = problem_lib.classification(apply)
  return tiny.Tiny(problem, init(KEY), t.train, t.queries)


def attribute(method, t, run, **kwargs):
  return method_lib.attribute(
    method, t.problem, run, t.train, t.queries, key=KEY, **kwargs
  )


# What binds the mask is the same for all methods: some stand for the others.
@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    name
    if name in ('grad_cos', 'ekfac', 'trak')
    else pytest.param(name, marks=pytest.mark.slow)
    for name in METHODS
  ],
)
def test_scores_are_those_of_the_sub_network(name):
  t = dropout()
  run = tiny.run(t.params)._replace(frozen=MASK)
  got = attribute(METHODS[name], t, run, batch_size=4)
  own = t._replace(problem=problem_lib.bound(t.problem, MASK))
  want = attribute(METHODS[name], own, tiny.run(t.params), batch_size=64)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  if name == 'grad_cos':
    whole = attribute(METHODS[name], t, tiny.run(t.params))
    assert np.abs(got - whole).max() > 0.01


def stack(t):
  every = jax.tree.map(lambda x: np.stack([x, 0.5 * x]), t.params)
  run = tiny.run(every)._replace(checkpoints=None)
  return ensembles.masked(run, 2, KEY)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['grad_cos', 'exact', 'trak'])
def test_an_ensemble_of_masks_is_the_mean_of_its_members(name, tmp_path):
  t = dropout()
  runs, method = stack(t), METHODS[name]
  stored = scoring.score(
      method, t.problem, runs, t.train, t.queries, tmp_path, name=name, key=KEY,
      progress=False, batch_size=4,
  )  # fmt: skip
  each = members_of(runs)
  if name == 'grad_cos':
    alone = [
      attribute(method, t, trees.row(each, e), batch_size=4) for e in range(4)
    ]
    np.testing.assert_allclose(stored, np.stack(alone), atol=1e-5)
  if name != 'trak':  # it has a projection of each member's own
    got = attribute(method_lib.ensemble(method), t, runs)
    np.testing.assert_allclose(got, stored.mean(0), atol=1e-5)
  with pytest.raises(ValueError, match='frozen is'):
    other = runs._replace(frozen=runs.frozen[::-1])
    scoring.score(
        method, t.problem, other, t.train, t.queries, tmp_path, name=name,
        key=KEY, progress=False, batch_size=4,
    )  # fmt: skip


@pytest.mark.slow
def test_trak_averages_its_factors_over_masks():
  t = dropout()
  runs = stack(t)
  got = attribute(trak.trak_ensemble(8, ridge=0.1), t, runs)
  keys = jax.random.split(KEY, 4)
  kernel, slopes = [], []
  for e in range(4):
    one = trees.row(members_of(runs), e)
    args = (t.problem, one, t.train, t.queries)
    both = [
      method_lib.attribute(method, *args, key=keys[e])
      for method in (trak.trak_kernel(8, ridge=0.1), trak.trak_slopes())
    ]
    kernel.append(both[0])
    slopes.append(both[1])
  want = np.mean(kernel, 0) * np.mean(slopes, 0)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_top_k_sees_the_mask():
  t = dropout()
  run = tiny.run(t.params)._replace(frozen=MASK)
  method = METHODS['grad_cos']
  values, rows = scoring.top_k(
    method, t.problem, run, t.train, t.queries, 3, name='grad_cos', key=KEY
  )
  scores = attribute(method, t, run)
  np.testing.assert_array_equal(rows, np.argsort(-scores, 0)[:3].T)


def recipe():
  rate = lambda total: optax.constant_schedule(0.1)
  optimizer = lambda total: optax.sgd(0.1, momentum=0.9)
  init = mlp.mlp((6, 4), 3, (5,))[0]
  return Recipe(init, optimizer, rate, 4, 3, rows_lib.with_dropout())


@pytest.mark.slow
def test_unrolled_is_the_derivative_of_training_with_dropout():
  with jax.enable_x64(True):
    t, plain, member = dropout(), recipe(), Member(test_unrolled.KEYS[0])
    wide = lambda key: jax.tree.map(lambda x: x.astype(float), plain.init(key))
    made = plain._replace(init=wide)
    want = test_unrolled.differences(t, made, member)
    parts, _ = test_unrolled.parts_of(t, made, member, np.array([9]))
    np.testing.assert_allclose(parts[0], want, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
def test_unrolled_replays_the_training_of_masked_members():
  t, made = dropout(), recipe()
  run = members.train(t.problem, made, t.train, test_unrolled.KEYS[:1])
  many = ensembles.masked(run, 2, KEY)
  each = members_of(many)
  method = unrolled.unrolled(made)
  scores = [attribute(method, t, trees.row(each, e)) for e in range(2)]
  # Only the measure at the end differs between the masks.
  assert np.abs(scores[0] - scores[1]).max() > 1e-3 * np.abs(scores[0]).max()
