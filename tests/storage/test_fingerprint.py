"""A result is found by what computed it, never by its name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

import tda_jax as tda
from tda_jax import scoring, settings
from tda_jax.evaluation import further_training, retraining
from tda_jax.storage import fingerprint
from tda_jax.training import distill

T = tiny.classification()
RATE = lambda steps: optax.constant_schedule(0.1)
INIT = lambda key: tiny.mlp_init((5, 4, 3), key)
RECIPE = tda.Recipe(INIT, lambda s: optax.sgd(0.1), RATE, 4, 1)
SUBSETS = np.stack([np.arange(8), np.arange(3, 11)])
WEIGHTS = jnp.asarray([1.0, 1.0, 0.5])


def weighted(outputs, example):
  return T.problem.loss(outputs * WEIGHTS, example)


# What is changed -> the words that say it.
PROBLEMS = {
  'outputs': (
    {'outputs': lambda p, e: 2 * T.problem.outputs(p, e)},
    'outputs is another function',
  ),
  'loss': ({'loss': weighted}, 'loss is another function'),
  'l2': ({'l2': 0.1}, 'l2 is 0.0 there and 0.1 now'),
}
MEASURE = {'measure': lambda o, e: -T.problem.loss(o, e)}
SAMPLE = {'sample': lambda key, o, e: e}
RECIPES = {
  'init': (
    {'init': lambda key: jax.tree.map(lambda x: 2 * x, INIT(key))},
    'init is another function',
  ),
  'momentum': (
    {'optimizer': lambda s: optax.sgd(0.1, momentum=0.9)},
    'optimizer is another function',
  ),
  'augment': (
    {'augment': lambda key, e: {**e, 'x': -e['x']}},
    'augment is another function|augment is null',
  ),
  'rate': (
    {'learning_rate': lambda s: optax.constant_schedule(0.2)},
    'learning_rate',
  ),
}
EKFAC = tda.influence(tda.ekfac(0.1))
METHODS = {
  'damping': (
    tda.influence(tda.ekfac(3.0)),
    'settings.inverse.damping is 0.1 there and 3.0 now',
  ),
  'labels': (
    tda.influence(tda.ekfac(0.1, labels='data')),
    'settings.inverse.labels is .*there and .data. now',
  ),
  'solver': (tda.influence(tda.kfac(0.1)), 'settings.inverse.name'),
  'method': (tda.grad_dot(), 'settings.name is'),
  'another score': (
    EKFAC._replace(score=lambda *given: -EKFAC.score(*given)),
    'method',
  ),
}


def score(path, method=EKFAC, problem=T.problem):
  return scoring.score(
    method, problem, T.params, T.train, T.queries, path, name='m',
    progress=False,
  )  # fmt: skip


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  path = tmp_path_factory.mktemp('stored')
  score(path)
  return path


@pytest.mark.parametrize('change', METHODS)
def test_scores_of_another_method_are_refused(stored, change):
  method, words = METHODS[change]
  with pytest.raises(ValueError, match=words):
    score(stored, method)


@pytest.mark.parametrize(
  'change', [*PROBLEMS.values(), (MEASURE, 'measure'), (SAMPLE, 'sample')]
)
def test_scores_of_another_problem_are_refused(stored, change):
  changed, words = change
  with pytest.raises(ValueError, match=words):
    score(stored, problem=T.problem._replace(**changed))


def test_scores_with_a_parameter_as_a_leaf_are_others(stored):
  words = 'as_leaf is null there and .*layer0/w.* now'
  with pytest.raises(ValueError, match=words):
    score(stored, problem=T.problem._replace(as_leaf=('layer0/w',)))


def test_the_same_written_again_is_the_same(stored):
  """As in a new process: other objects, the same computation."""
  again = tda.classification(tiny.mlp_apply)
  got = score(stored, tda.influence(tda.ekfac(0.1)), again)
  np.testing.assert_array_equal(got, score(stored))


def train(path, problem=T.problem, recipe=RECIPE):
  return tda.train(
    problem, recipe, T.train, [0], directory=path, progress=False
  )


def outcomes(path, problem=T.problem, recipe=RECIPE):
  return retraining.outcomes(
    problem,
    recipe,
    T.train,
    T.queries,
    SUBSETS,
    repeats=1,
    key=0,
    path=path,
    progress=False,
  )


def left_out(path, problem=T.problem, recipe=RECIPE):
  return retraining.leave_one_out(
    problem,
    recipe,
    T.train,
    T.queries,
    [1],
    repeats=1,
    key=0,
    path=path,
    progress=False,
  )


def further(path, problem=T.problem, recipe=RECIPE):
  return further_training.further_training(
    problem, recipe, T.params, T.train, T.queries, [1], repeats=1, key=0, path=path,
    progress=False,
  )  # fmt: skip


@pytest.mark.parametrize('verb', [train, outcomes, left_out, further])
def test_training_by_anything_else_is_refused(verb, tmp_path):
  verb(tmp_path / 'a')
  verb(tmp_path / 'a', tda.classification(tiny.mlp_apply))  # the same again
  for changed, words in PROBLEMS.values():
    with pytest.raises(ValueError, match=words):
      verb(tmp_path / 'a', T.problem._replace(**changed))
  for name, (changed, words) in RECIPES.items():
    if verb is further and name == 'init':
      continue  # which it does not use
    with pytest.raises(ValueError, match=words):
      verb(tmp_path / 'a', recipe=RECIPE._replace(**changed))
  if verb is not train:
    with pytest.raises(ValueError, match='measure is another function'):
      verb(tmp_path / 'a', T.problem._replace(**MEASURE))


def test_a_constant_of_a_nested_program_counts():
  shape = jax.ShapeDtypeStruct((3,), jnp.float32)

  def made(weights):
    inner = jax.jit(lambda x: x * weights)
    return fingerprint.of_function(lambda x: inner(x) + 1, shape)

  assert made(np.float32([1, 2, 3])) == made(np.float32([1, 2, 3]))
  assert made(np.float32([1, 2, 3])) != made(np.float32([1, 2, 4]))


def test_a_rule_of_its_own_counts():
  """Two functions of equal values whose derivatives differ."""

  def made(slope):
    @jax.custom_vjp
    def f(x):
      return x

    f.defvjp(lambda x: (x, None), lambda _, g: (slope * g,))
    loss = lambda o, e: f(T.problem.loss(o, e))
    problem = T.problem._replace(loss=loss)
    return fingerprint.of_problem(problem, T.params, T.train)['loss']

  assert made(1.0) != made(2.0)


def test_queries_need_not_have_what_a_loss_needs():
  """Of a distilled problem they have no teacher."""
  problem = distill.distilled(T.problem, 0.5, 2.0, 'teacher||student')
  rows = distill.with_teacher(T.problem, T.params, T.train)
  found = fingerprint.of_problem(problem, T.params, rows, queries=T.queries)
  plain = fingerprint.of_problem(T.problem, T.params, T.train)
  assert found['loss'] != plain['loss']
  assert found['measure'] == plain['measure']


def test_a_rate_of_dropout_counts_in_training():
  def made(rate):
    def apply(params, x, key=None):
      if key is not None:
        x = x * jax.random.bernoulli(key, 1 - rate, x.shape)
      return tiny.mlp_apply(params, x)

    recipe = RECIPE._replace(augment=tda.data.rows.with_dropout())
    problem = tda.classification(apply)
    return fingerprint.of_training(problem, recipe, 11, T.train)['outputs']

  assert made(0.1) != made(0.5)


def test_settings_are_data():
  made = tda.ensemble(
    tda.influence(tda.cg(0.1, precondition=tda.ekfac('heuristic')))
  )
  found = settings.of(made)
  told = settings.readable(found.data)
  assert found.known and told['name'] == 'ensemble'
  assert told['method']['inverse']['damping'] == 0.1
  assert told['method']['inverse']['precondition']['name'] == 'ekfac'
  hash(made)  # a static argument of jit
  opaque = tda.additional_step(optax.sgd(0.1))
  assert not settings.of(opaque).known
  assert settings.of(made._replace(score=lambda *given: 0)) is None


def test_a_method_of_functions_is_known_by_what_it_computes(tmp_path):
  step = functools.partial(tda.additional_step)
  score(tmp_path, step(optax.sgd(0.1)))
  score(tmp_path, step(optax.sgd(0.1)))
  with pytest.raises(ValueError, match='method is another function'):
    score(tmp_path, step(optax.sgd(0.2)))


def test_what_a_store_is_known_by_cannot_be_named_otherwise(tmp_path):
  rows = (T.problem, T.params, T.train, T.queries)
  with pytest.raises(ValueError, match="attributes name 'models'"):
    scoring.score(EKFAC, *rows, tmp_path, attributes={'models': 'an mlp'})
  with pytest.raises(ValueError, match="attributes name 'key', 'queries'"):
    retraining.outcomes(
      T.problem, RECIPE, T.train, T.queries, SUBSETS, repeats=1, key=0, path=tmp_path / 'o',
      attributes={'key': 0, 'queries': 4}, progress=False,
    )  # fmt: skip


def test_a_key_of_another_generator_is_another_key():
  keys = [jax.random.key(0, impl=name) for name in ('rbg', 'unsafe_rbg')]
  data = [np.asarray(jax.random.key_data(key)) for key in keys]
  np.testing.assert_array_equal(*data)
  assert fingerprint.digest(keys[0]) != fingerprint.digest(keys[1])


def test_settings_are_of_the_whole_product():
  assert settings.of(EKFAC._replace(members=True)) is None
  one, two = (settings.kept(made)(given) for made, given in (
    (_named, ('a, b',)), (_named, ('a', 'b')),
  ))  # fmt: skip
  assert settings.of(one).data != settings.of(two).data


def _named(names):
  del names
  return tda.grad_dot()
