"""What is given at the front door: made plain, or refused in one sentence."""

import collections
import functools
import pathlib
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import tiny
from jax.experimental import sparse as jsparse
from scipy import sparse

import tda_jax as tda
from tda_jax import door, scoring
from tda_jax.data import corpus
from tda_jax.evaluation import retraining
from tda_jax.methods import method as method_lib
from tda_jax.storage import checkpoints, files, record
from tda_jax.storage import scores as stores
from tda_jax.tracing.judges import endpoint, kept
from tda_jax.tracing.judges.client import Client
from tda_jax.tracing.judges.judge import Judge

T = tiny.classification()
DOT = tda.grad_dot()
RATE = lambda steps: optax.constant_schedule(0.1)
RECIPE = tda.Recipe(
  lambda key: tiny.mlp_init((5, 4, 3), key),
  lambda steps: optax.sgd(0.1),
  RATE,
  batch_size=4,
  epochs=1,
)


def attribute(method=DOT, problem=T.problem, params=T.params, train=T.train,
              queries=T.queries, **kwargs):  # fmt: skip
  return method_lib.attribute(method, problem, params, train, queries, **kwargs)


@functools.cache
def scores_of_t():  # not while tests are collected: workers would race to compile
  return attribute()


def column(rows, name, made):
  return {**rows, name: made(rows[name])}


# What is given -> words of the sentence.
KINDS = {
  'an Inverse': ({'method': tda.ekfac(0.1)}, 'an Inverse: give tda.influence'),
  'a name': ({'method': 'ekfac'}, "the name 'ekfac': give the method itself"),
  'a class': (
    {'method': tda.Method},
    'the class Method: give a method, for example tda.infl',
  ),
  'like a method': (
    {'method': types.SimpleNamespace(prepare=len, score=len)},
    r'make it by tda.Method\(prepare, score\)',
  ),
  'a factory': ({'method': tda.grad_dot}, r'grad_dot: call it, grad_dot\('),
  'nothing': ({'method': None}, 'the method is None; the order is attribute'),
  'swapped': (
    {'method': T.problem, 'problem': DOT},
    'the method is a Problem; the order is attribute',
  ),
  'an apply': ({'problem': tiny.mlp_apply}, 'mlp_apply: give tda.classif'),
  'params first': (
    {'problem': T.params, 'params': T.problem},
    'the problem is a dict; the order is',
  ),
}
ROWS = {
  'an array': (lambda r: r['x'], r'an array float32\[11, 5\]: give a dict'),
  'a DataFrame': (
    lambda r: __import__('pandas').DataFrame(r['x']),
    'a pandas DataFrame: make rows of it by tables.from_frame',
  ),
  'no rows': (lambda r: tda.trees.row(r, slice(0)), 'train is empty'),
  'nothing': (lambda r: {}, 'train is empty'),
  'text': (lambda r: column(r, 'x', lambda x: x.astype(str)), "'x' .* text"),
  'objects': (
    lambda r: column(r, 'x', lambda x: np.array([None] * 11, object)),
    "column 'x' of train holds values of type object",
  ),
  'complex': (lambda r: column(r, 'x', lambda x: x + 1j), "'x' .* complex"),
  'dates': (
    lambda r: column(r, 'x', lambda x: np.zeros(x.shape, 'datetime64[D]')),
    "'x' .* datetime64",
  ),
  'sparse': (
    lambda r: column(r, 'x', sparse.csr_matrix),
    r"'x' of train is sparse: give x.toarray\(\)",
  ),
  'sparse, of JAX': (
    lambda r: column(r, 'x', jsparse.BCOO.fromdense),
    r"'x' of train is sparse: give x.todense\(\)",
  ),
  'missing in a Series': (
    lambda r: {
      **r,
      'y': pd.Series([None, *r['y'][1:].tolist()], dtype='Int64'),
    },
    "'y' of train has missing values",
  ),
  'two pairs in a list': (
    lambda r: [(r['x'][0], r['y'][0]), (r['x'][1], r['y'][1])],
    'give a dict of columns',
  ),
  'masked': (
    lambda r: column(r, 'x', lambda x: np.ma.array(x, mask=x > 0)),
    "'x' of train has masked values",
  ),
  'ragged': (
    lambda r: {**r, 'x': [[1.0], *r['x'][1:].tolist()]},
    "'x' of train have different shapes",
  ),
  'a row without its axis': (
    lambda r: tda.trees.row(r, 0),
    "'y' of train is one number",
  ),
  'lengths': (
    lambda r: column(r, 'x', lambda x: x[1:]),
    'different numbers of rows',
  ),
  'not finite': (
    lambda r: column(r, 'x', lambda x: np.where(x > 1, np.nan, x)),
    "NaN or infinity in column 'x'",
  ),
  'beyond float32': (
    lambda r: column(r, 'x', lambda x: x.astype(float) * 1e300),
    "'x' of train has numbers beyond float32",
  ),
  'beyond int32': (
    lambda r: column(r, 'y', lambda y: y.astype(np.int64) + 2**40),
    "'y' of train has whole numbers .* beyond int32",
  ),
}
LEAVES = {
  'NaN': (lambda p: jax.tree.map(lambda x: x * np.nan, p), 'layer0/b.* NaN'),
  'empty': (lambda p: {}, 'the parameters are empty'),
  'counts': (lambda p: {**p, 'n': np.int32(3)}, "'n' .* int32.* not trained"),
  'a key': (lambda p: {**p, 'k': jax.random.key(0)}, "'k' .*not trained"),
  'a function': (lambda p: {**p, 'f': jnp.tanh}, "'f' .*function tanh"),
  'complex': (lambda p: {**p, 'w': np.ones(2) * 1j}, "'w' .* is complex"),
  'linen state': (
    lambda p: {'params': p, 'batch_stats': {}},
    "'batch_stats' beside params: tda.from_linen",
  ),
}


@pytest.mark.parametrize('given', KINDS)
def test_what_is_of_another_kind_is_named(given):
  change, words = KINDS[given]
  with pytest.raises(ValueError, match=words):
    attribute(**change)


@pytest.mark.parametrize('given', ROWS)
def test_rows_without_one_reading_are_refused(given):
  change, words = ROWS[given]
  with pytest.raises(ValueError, match=words):
    attribute(train=change(T.train))


@pytest.mark.parametrize('given', LEAVES)
def test_parameters_that_were_not_trained_are_named(given):
  change, words = LEAVES[given]
  with pytest.raises(ValueError, match=words):
    attribute(params=change(T.params))


def test_a_verb_within_jit_is_refused():
  with pytest.raises(ValueError, match='are traced: call this outside of jax'):
    jax.jit(lambda params: attribute(params=params))(T.params)


@pytest.mark.parametrize(
  'inverse',
  [0.1, tda.ekfac, DOT, None],
  ids=['number', 'factory', 'method', ''],
)
def test_an_influence_wants_an_inverse(inverse):
  with pytest.raises(ValueError, match='the inverse is'):
    tda.influence(inverse)


CONVERTED = {
  'lists': lambda r: {k: v.tolist() for k, v in r.items()},
  'examples': lambda r: [tda.trees.row(r, i) for i in range(len(r['y']))],
  'big-endian': lambda r: {k: v.astype(v.dtype.newbyteorder('>')) for k, v in r.items()},
  'objects': lambda r: column(r, 'x', lambda x: x.astype(object)),
  'float64': lambda r: column(r, 'x', lambda x: x.astype(float)),
  'int64': lambda r: column(r, 'y', lambda y: y.astype(np.int64)),
  'series': lambda r: column(r, 'y', __import__('pandas').Series),
  'jax': lambda r: jax.tree.map(jnp.asarray, r),
}  # fmt: skip


@pytest.mark.parametrize('given', CONVERTED)
def test_rows_with_one_reading_are_converted(given):
  made = CONVERTED[given]
  got = attribute(train=made(T.train), queries=made(T.queries))
  np.testing.assert_allclose(got, scores_of_t(), rtol=1e-6)


KEYS = {
  'integer': 3,
  'numpy integer': np.int64(3),
  'raw': jax.random.key_data(jax.random.key(3)),
  'typed': jax.random.key(3),
}


@pytest.mark.parametrize('given', KEYS)
def test_keys_may_be_integers(given):
  method = tda.random()
  want = attribute(method, key=jax.random.key(3))
  np.testing.assert_array_equal(attribute(method, key=KEYS[given]), want)


@pytest.mark.parametrize('given', ['x', 1.5, True, jnp.zeros((2, 2))])
def test_what_is_no_key_is_refused(given):
  with pytest.raises(ValueError, match='key is'):
    attribute(key=given)


STACK = jax.tree.map(lambda x: np.stack([x, 0.5 * x]), T.params)


def test_every_verb_takes_bare_parameters_a_run_and_a_stack(tmp_path):
  many = tda.ensemble(DOT)
  for params in (T.params, tda.Run(T.params)):
    np.testing.assert_allclose(
      attribute(params=params), scores_of_t(), rtol=1e-6
    )
    alone = scoring.score(
      DOT, T.problem, params, T.train, T.queries, tmp_path, progress=False
    )
    np.testing.assert_allclose(alone, scores_of_t()[None], rtol=1e-6)
    own = scoring.self_influence(DOT, T.problem, params, T.train)
    assert own.shape == (11,)
    values, _ = scoring.top_k(DOT, T.problem, params, T.train, T.queries, 2)
    np.testing.assert_allclose(
      values, -np.sort(-scores_of_t(), 0)[:2].T, atol=1e-6
    )
  for runs in (STACK, tda.Run(STACK)):
    scores = scoring.score(
      DOT, T.problem, runs, T.train, T.queries, tmp_path / 'e', progress=False
    )
    assert scores.shape == (2, *scores_of_t().shape)
    got = attribute(many, params=runs)
    np.testing.assert_allclose(got, scores.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match='has a member axis: give ensemble'):
      attribute(params=runs)


def test_rows_that_depend_on_each_other_are_refused():
  def apply(params, x):
    x = x - x.mean(0)
    return tiny.mlp_apply(params, x)

  with pytest.raises(ValueError, match='depend on the other examples of its'):
    attribute(problem=tda.classification(apply))
  own = T.problem._replace(outputs=lambda p, e: T.problem.outputs(p, e))
  np.testing.assert_allclose(attribute(problem=own), scores_of_t(), rtol=1e-6)


def test_rows_that_depend_on_each_other_are_seen_among_equal_rows_and_alone():
  problem = tda.classification(lambda p, x: tiny.mlp_apply(p, x - x.mean(0)))
  x = T.train['x'].copy()
  x[:] = x[0]
  equal = {**T.train, 'x': x}
  x = x.copy()
  x[4] += 1  # neither the second row nor the last
  for train in (equal, {**equal, 'x': x}, {k: v[:1] for k, v in equal.items()}):
    with pytest.raises(ValueError, match='depend on the other examples of its'):
      attribute(problem=problem, train=train)
    attribute(train=train)


def test_ground_truth_of_rows_that_depend_on_each_other_is_refused(tmp_path):
  problem = tda.classification(lambda p, x: tiny.mlp_apply(p, x - x.mean(0)))
  rows = problem, RECIPE, T.train
  for use in (
    lambda: tda.train(*rows, 0, progress=False),
    lambda: tda.leave_one_out(
      *rows,
      T.queries,
      np.array([0]),
      repeats=1,
      key=0,
      path=tmp_path / 'l',
      progress=False,
    ),
    lambda: tda.outcomes(
      *rows,
      T.queries,
      np.array([[0, 1]]),
      repeats=2,
      key=0,
      path=tmp_path / 'o',
      progress=False,
    ),
  ):
    with pytest.raises(ValueError, match='depend on the other examples of its'):
      use()
  assert not [*tmp_path.rglob('zarr.json')]


def test_outputs_that_are_not_finite_are_said_to_be():
  problem = tda.classification(lambda p, x: tiny.mlp_apply(p, jnp.log(-abs(x))))
  with pytest.raises(ValueError, match='outputs of row 0 are not finite'):
    attribute(problem=problem)


@pytest.mark.parametrize(
  'apply, words',
  [
    (lambda p, x: jnp.zeros((len(x), 3)), 'do not depend on the parameters'),
    (lambda p, x: x[:, :3], 'do not depend on the parameters'),
    (
      lambda p, x: jax.lax.while_loop(
        lambda c: c[0, 0] < 0, lambda c: c + 1, tiny.mlp_apply(p, x)
      ),
      'gradient of the model raised ValueError',
    ),
    (
      lambda p, x: jax.pure_callback(
        np.tanh, jax.ShapeDtypeStruct((1, 3), x.dtype), tiny.mlp_apply(p, x)
      ),
      'gradient of the model raised',
    ),
  ],
  ids=['constant', 'without parameters', 'while', 'callback'],
)
def test_models_without_a_gradient_are_refused(apply, words):
  with pytest.raises(ValueError, match=words):
    attribute(problem=tda.classification(apply))
  with pytest.raises(ValueError, match=words):
    tda.train(tda.classification(apply), RECIPE, T.train, 0, progress=False)


def test_columns_that_nothing_reads_may_be_of_any_kind():
  n = len(T.train['y'])
  more = {
    'day': np.zeros(n, 'datetime64[D]'),
    'id': np.arange(n) + 2**40,
    'note': ['a'] * n,
    'things': [{}] * n,
  }
  np.testing.assert_array_equal(
    attribute(train={**T.train, **more}), scores_of_t()
  )


def test_rows_of_a_named_tuple_are_read_by_name():
  rows = collections.namedtuple('Rows', 'y x')(T.train['y'], T.train['x'])
  np.testing.assert_array_equal(attribute(train=rows), scores_of_t())


@pytest.mark.parametrize('dtype', ['category', 'Int64', 'int64'])
def test_a_series_of_pandas_own_types_is_a_column(dtype):
  labels = pd.Series(T.train['y']).astype(dtype)
  found = attribute(train={**T.train, 'y': labels})
  np.testing.assert_array_equal(found, scores_of_t())


@pytest.mark.parametrize('seed', [2**40, -(2**40), 2**32])
def test_seeds_that_would_be_another_are_refused(seed):
  with pytest.raises(ValueError, match='give a whole number from 0 to 2\\^32'):
    attribute(key=seed)


def test_parameters_of_the_other_byte_order_are_converted():
  swapped = jax.tree.map(lambda x: np.asarray(x).astype('>f4'), T.params)
  np.testing.assert_array_equal(attribute(params=swapped), scores_of_t())
  wide = jax.tree.map(lambda x: np.asarray(x).astype(np.longdouble), T.params)
  with pytest.raises(ValueError, match='which JAX has not: give float32'):
    attribute(params=wide)


@pytest.mark.parametrize('number', [np.float32(0.1), np.array(0.1), 'jax'])
def test_a_damping_may_be_an_array_of_one_number(number):
  number = jnp.asarray(0.1) if isinstance(number, str) else number
  found = attribute(tda.influence(tda.ekfac(number)))
  np.testing.assert_allclose(
    found, attribute(tda.influence(tda.ekfac(0.1))), 1e-6
  )


def test_self_influence_says_that_a_solver_stopped_short():
  method = tda.influence(tda.cg(1e-3, max_steps=1))
  words = 'stopped before its tolerance'
  with pytest.warns(door.NotConverged, match=words) as told:
    scoring.self_influence(method, T.problem, T.params, T.train, batch_size=4)
  assert told[0].filename == __file__


@pytest.mark.parametrize(
  'optimizer, words',
  [
    (
      lambda steps: optax.lbfgs(),
      'the optimizer of the recipe raised TypeError',
    ),
    (lambda: optax.sgd(0.1), 'cannot be called with the number of steps'),
  ],
)
def test_optimizers_that_need_more_are_a_sentence(optimizer, words):
  recipe = RECIPE._replace(optimizer=optimizer)
  with pytest.raises(ValueError, match=words):
    tda.train(T.problem, recipe, T.train, 0, progress=False)


def test_what_is_given_to_the_other_verbs_is_a_sentence(tmp_path):
  rows = T.problem, RECIPE, T.train
  file = tmp_path / 'file'
  file.write_text('x')
  score = functools.partial(
    scoring.score, DOT, T.problem, T.params, T.train, T.queries
  )
  for words, use in {
    'train.problem, recipe, rows, keys': lambda: tda.train(
      RECIPE, T.problem, T.train, 0
    ),
    'a checkpoints of': lambda: tda.train(*rows, 0, checkpoints='a'),
    'indices must be .L. whole numbers': lambda: tda.leave_one_out(
      *rows, T.queries, [0.5], repeats=1, key=0, path=tmp_path / 'l'
    ),
    'an ensemble already': lambda: tda.ensemble(tda.ensemble(DOT)),
    'the path is None': lambda: score(None),
    'the path is 3': lambda: score(3),
    'is a file: name a folder': lambda: score(file),
    'k=2.5 of': lambda: tda.supporters(np.zeros((4, 9, 2)), 2.5),
  }.items():
    with pytest.raises(ValueError, match=words):
      use()


def test_a_rule_of_promotion_of_the_users_program_changes_nothing():
  method = tda.influence(tda.ekfac(0.1, labels='exact'))
  want = attribute(method)
  with (
    jax.numpy_dtype_promotion('strict'),
    jax.numpy_rank_promotion('raise'),
  ):
    np.testing.assert_array_equal(attribute(method), want)


def test_training_enters_by_the_same_door():
  run = tda.train(T.problem, RECIPE, T.train, [0, 1], progress=False)
  listed = {k: v.tolist() for k, v in T.train.items()}
  keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
  want = tda.train(T.problem, RECIPE, listed, keys, progress=False)
  for a, b in zip(
    *map(jax.tree.leaves, (run.params, want.params)), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  one = tda.train(T.problem, RECIPE, T.train, 0, progress=False)
  assert one.params['layer0']['b'].shape == (1, 4)
  for change, words in (
    ((tiny.mlp_apply, RECIPE, T.train, 0), 'the problem is the function'),
    ((RECIPE, T.problem, T.train, 0), 'the problem is a Recipe'),
    ((T.problem, 0.1, T.train, 0), 'the recipe is 0.1'),
    ((T.problem, RECIPE, T.train['x'], 0), 'train is an array'),
    ((T.problem, RECIPE, T.train, 'a'), 'keys is a str'),
    *(
      ((T.problem, RECIPE._replace(**{field: given}), T.train, 0), words)
      for field, given, words in (
        ('learning_rate', 0.1, 'learning_rate of the recipe is 0.1'),
        ('learning_rate', RATE(1), 'learning_rate .* gives a number'),
        ('optimizer', optax.sgd(0.1), 'optimizer of the recipe is'),
        ('optimizer', lambda steps: 0.1, 'optimizer .* gives no optax'),
        ('init', T.params, 'init of the recipe is a dict'),
        ('epochs', 0, 'epochs of the recipe=0'),
        ('batch_size', 2.5, 'batch_size of the recipe=2.5'),
      )
    ),
  ):
    with pytest.raises(ValueError, match=words):
      tda.train(*change, progress=False)


def test_ground_truth_enters_by_the_same_door(tmp_path):
  subsets = np.arange(8).reshape(1, 8)

  def outcomes(train, queries, path, key=0):
    return retraining.outcomes(
        T.problem, RECIPE, train, queries, subsets, repeats=1, key=key, path=tmp_path / path,
        progress=False,
    )  # fmt: skip

  want = outcomes(T.train, T.queries, 'a', jax.random.key(0))
  listed = {k: v.tolist() for k, v in T.train.items()}
  np.testing.assert_array_equal(outcomes(listed, T.queries, 'b'), want)
  text = column(T.queries, 'x', lambda x: x.astype(str))
  with pytest.raises(ValueError, match="'x' of queries holds text"):
    outcomes(T.train, text, 'c')
  assert not (tmp_path / 'c').exists()


@pytest.mark.parametrize('size', [0, -3, 1.5, True, 'all'])
def test_a_batch_size_is_a_whole_number(size):
  with pytest.raises(ValueError, match='batch_size=.*whole number from 1'):
    attribute(batch_size=size)


def test_a_solver_that_stopped_short_is_told():
  short = tda.influence(tda.cg(0.01, max_steps=1))
  rows = T.problem, T.params, T.train, T.queries
  words = 'cg stopped .* 100% of the quer'
  with pytest.warns(door.NotConverged, match=words) as told:
    tda.attribute(short, *rows)
    tda.top_k(short, *rows, 2)
  assert {warning.filename for warning in told} == {__file__}
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    attribute(tda.influence(tda.cg(0.1)))


def test_scores_that_are_not_finite_do_not_leave():
  huge = lambda problem, run, prepared, batch: jnp.full(
    (len(batch.index), 4), jnp.inf
  )
  with pytest.raises(ValueError, match='44 of 44 scores that are not finite'):
    attribute(DOT._replace(score=huge, self_influence=None))


# One linear read: its parameters can be taken apart in two ways.
ONE = tda.regression(lambda params, x: jnp.sum(x * params['w'], -1))
NUMBERS = [{**rows, 'y': rows['x'][:, 0]} for rows in (T.train, T.queries)]


def test_parameters_of_two_readings_are_told_apart_by_keys(tmp_path):
  params = {'w': np.ones(5, np.float32)}
  go = lambda given, path: scoring.score(
    DOT, ONE, given, *NUMBERS, tmp_path / path, progress=False
  )
  with pytest.raises(ValueError, match='one model and as 5 members: say which'):
    go(params, 'a')
  assert go(tda.Run(params, keys=0), 'b').shape == (1, 11, 4)
  assert go(tda.Run(params, keys=[0, 1, 2, 3, 4]), 'c').shape == (5, 11, 4)


def test_raw_keys_of_a_run_are_typed(tmp_path):
  raw = jax.random.PRNGKey(0)
  got = attribute(params=tda.Run(T.params, keys=raw))
  np.testing.assert_allclose(got, scores_of_t(), rtol=1e-6)
  many = tda.Run(STACK, keys=np.stack([raw, raw]))
  scores = scoring.score(
    DOT, T.problem, many, T.train, T.queries, tmp_path, progress=False
  )
  assert scores.shape == (2, 11, 4)


@pytest.mark.parametrize(
  'field, given, words',
  [
    ('l2', -1.0, 'l2 of the problem is -1.0'),
    ('l2', np.nan, 'l2 of the problem is nan'),
    ('l2', 'a', 'l2 of the problem is a str'),
    ('leave_out', ['layer0/w'], 'leave_out of the problem is a list'),
  ],
)
def test_a_problem_is_of_plain_numbers_and_names(field, given, words):
  with pytest.raises(ValueError, match=words):
    attribute(problem=T.problem._replace(**{field: given}))


def test_l2_may_be_an_array_and_a_column_be_called_dropout():
  apply = lambda params, x, more: tiny.mlp_apply(params, x) + more
  problem = tda.classification(
    apply, l2=jnp.asarray(1e-3), inputs=('x', 'dropout')
  )
  with_column = lambda rows: {**rows, 'dropout': 0 * rows['x'][:, :1]}
  got = attribute(
    problem=problem, train=with_column(T.train), queries=with_column(T.queries)
  )
  np.testing.assert_allclose(got, scores_of_t(), rtol=1e-6)


@pytest.mark.parametrize('k', [2.0, '2', True, 0, 12])
def test_k_is_a_number_of_rows(k):
  with pytest.raises(ValueError, match='k='):
    scoring.top_k(DOT, T.problem, T.params, T.train, T.queries, k)


def test_an_empty_path_is_not_the_current_folder():
  rows = (T.problem, T.params, T.train, T.queries)
  with pytest.raises(ValueError, match='path is empty'):
    scoring.score(DOT, *rows, '')
  with pytest.raises(ValueError, match='path is empty'):
    scoring.top_k(DOT, *rows, 2, path='')
  with pytest.raises(ValueError, match='path is empty'):
    tda.train(T.problem, RECIPE, T.train, 0, directory='')


@pytest.mark.parametrize(
  'path', ['gs://bucket/run', 's3://b/c', pathlib.Path('gs://bucket/run')]
)
def test_a_bucket_is_no_folder_of_this_machine(tmp_path, monkeypatch, path):
  monkeypatch.chdir(tmp_path)
  rows = (T.problem, T.params, T.train, T.queries)
  into = {
    'score': lambda: scoring.score(DOT, *rows, path),
    'fits': lambda: scoring.score(DOT, *rows, tmp_path / 'a', fits=path),
    'top_k': lambda: scoring.top_k(DOT, *rows, 2, path=path),
    'train': lambda: tda.train(T.problem, RECIPE, T.train, 0, directory=path),
    'build': lambda: corpus.build([], str, 4, path),
    'stage': lambda: record.begin(path, {}),
    'lock': lambda: files.lock(path).__enter__(),
    'store': lambda: stores.create(path, (2, 3), 1, {}),
    'checkpoint': lambda: checkpoints.save(path, {'a': np.ones(2)}),
    'page': lambda: files.show(path, b'a'),
    'answers': lambda: kept.kept(Judge(None, '', None), path),
    'endpoint': lambda: endpoint.judge(
      Client(None, 'http://localhost', None, 1), 'm', folder=path
    ),
  }
  for write in into.values():
    with pytest.raises(ValueError, match='is an address.*: mount the bucket'):
      write()
  assert not [*tmp_path.iterdir()]
  door.check_path('C:/run')
  door.check_path(tmp_path / 'a:b' / 'run')


def test_not_converged_is_said_of_kept_scores_too(tmp_path):
  short = tda.influence(tda.cg(0.01, max_steps=1))
  for _ in range(2):
    with pytest.warns(
      door.NotConverged, match='cg stopped .* 100% of the quer'
    ) as told:
      scoring.score(
        short, T.problem, T.params, T.train, T.queries, tmp_path, progress=False
      )
    assert told[0].filename == __file__


def test_what_is_given_by_position_yet_is_said(tmp_path):
  rows = T.problem, RECIPE, T.train, T.queries, np.array([[0, 1, 2]])
  words = 'repeats, key, path by keyword'
  with pytest.warns(DeprecationWarning, match=words) as told:
    found = tda.outcomes(*rows, 2, 0, tmp_path / 'a', progress=False)
  assert told[0].filename == __file__
  with pytest.raises(TypeError, match='takes at most 12 arguments, and 13'):
    tda.outcomes(*rows, 2, 0, tmp_path, 50, None, False, 1, 2)
  want = tda.outcomes(
    *rows, repeats=2, key=0, path=tmp_path / 'b', progress=False
  )
  np.testing.assert_array_equal(found, want)


def test_an_old_name_of_an_argument_works_yet_and_says_the_new_one():
  args = (DOT, T.problem, T.params, T.train)
  words = 'calls at_once batch_size now'
  with pytest.warns(DeprecationWarning, match=words) as told:
    old = scoring.self_influence(*args, at_once=4)
  assert told[0].filename == __file__
  with pytest.raises(TypeError, match='is given at_once and batch_size'):
    scoring.self_influence(*args, at_once=4, batch_size=4)
  np.testing.assert_array_equal(
    old, scoring.self_influence(*args, batch_size=4)
  )


def test_a_wrong_argument_of_a_factory_names_the_factory():
  with pytest.raises(
    TypeError,
    match="cg: missing .*'damping'; its arguments are damping, precondition",
  ):
    tda.cg(dampin=0.1)
