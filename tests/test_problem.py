"""Ready problems: formulas against numpy, and what each refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import tda_jax as tda
from tda_jax import problem as problem_lib
from tda_jax.curvature import products
from tda_jax.methods import method as method_lib

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype(np.float32)
linear = lambda params, x: x @ params['w']


def weights(k):
  return {'w': jnp.asarray(np.linspace(-1, 1, 4 * k).reshape(4, k), 'float32')}


def sigmoid(z):
  return 1 / (1 + np.exp(-z))


def log_odds(p):
  return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize('flat', [True, False])
def test_binary_is_logistic_regression(flat):
  apply = (lambda p, x: linear(p, x)[:, 0]) if flat else linear
  problem, params = tda.binary(apply), weights(1)
  rows = {'x': X, 'y': np.arange(8) % 2}
  z = X.astype(np.float64) @ np.asarray(params['w'], np.float64)[:, 0]
  own = np.where(rows['y'] == 1, sigmoid(z), sigmoid(-z))
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  near(problem_lib.losses(problem, params, rows), -np.log(own))
  near(problem_lib.measures(problem, params, rows), log_odds(own))
  # Logits (0, z) are the same model.
  two = tda.classification(
    lambda p, x: jnp.stack([jnp.zeros(len(x)), linear(p, x)[:, 0]], 1)
  )
  method = tda.grad_dot()
  near(
    tda.attribute(method, problem, params, rows, rows),
    tda.attribute(method, two, params, rows, rows),
  )


def test_binary_of_a_sure_model_is_finite():
  problem = tda.binary(lambda p, x: x * p)
  rows = {'x': np.float32([300, -300]), 'y': np.array([1, 1])}
  found = problem_lib.losses(problem, jnp.float32(1), rows)
  np.testing.assert_allclose(found, [0, 300])
  np.testing.assert_allclose(
    problem_lib.measures(problem, jnp.float32(1), rows), [300, -300]
  )


def test_multilabel_is_the_margin_of_the_whole_row_of_labels():
  problem, params = tda.multilabel(linear), weights(3)
  y = RNG.integers(0, 2, (8, 3))
  rows = {'x': X, 'y': y}
  z = X.astype(np.float64) @ np.asarray(params['w'], np.float64)
  joint = np.where(y == 1, sigmoid(z), sigmoid(-z)).prod(1)
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  near(problem_lib.losses(problem, params, rows), -np.log(joint))
  near(problem_lib.measures(problem, params, rows), log_odds(joint))
  one = {'x': X, 'y': y[:, :1]}
  flat = {'x': X, 'y': y[:, 0]}
  near(
    problem_lib.measures(problem, weights(1), one),
    problem_lib.measures(tda.binary(linear), weights(1), flat),
  )
  # Of the loss alone, as TRAK asks: the gradients in the outputs are parallel.
  example = {'y': y[0]}
  g, m = (
    np.asarray(jax.grad(f)(jnp.asarray(z[0], jnp.float32), example))
    for f in (problem.loss, problem.measure)
  )
  np.testing.assert_allclose(
    g @ m, -np.linalg.norm(g) * np.linalg.norm(m), rtol=1e-5
  )


@pytest.mark.parametrize('size', [1e-3, 5.0, 27.0, 28.0, 60.0, 300.0])
def test_multilabel_measures_a_sure_model(size):
  """log Σ over the other rows of labels; values and gradients in float32."""
  problem = tda.multilabel(lambda p, x: x * p)
  z = size * np.array([1.0, 1.3, 2.0])
  rows = {'x': z[None].astype(np.float32), 'y': np.ones((1, 3), int)}
  value = lambda p: problem_lib.measures(problem, p, rows)[0]
  found = jax.value_and_grad(value)(jnp.float32(1))
  others = [
    np.sum(-z[list(s)])
    for s in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2])
  ]
  other = np.logaddexp.reduce(others)
  shares = np.exp(np.array(others) - other)
  np.testing.assert_allclose(found[0], -other, rtol=1e-4)
  np.testing.assert_allclose(found[1], -shares @ others, rtol=1e-3)


@pytest.mark.parametrize('name, k', [('binary', 1), ('multilabel', 2)])
def test_sampled_labels_have_the_curvature_of_the_loss(name, k):
  """E over labels of gradients' squares is the GGN: a Fisher of many draws."""
  problem, params = getattr(tda, name)(linear), weights(k)
  y = np.zeros((1, k), int) if k > 1 else np.zeros(1, int)
  many = jax.tree.map(lambda v: np.repeat(v, 20000, 0), {'x': X[:1], 'y': y})
  v = {'w': jnp.sign(X[0])[:, None] * jnp.ones((4, k))}
  found = products.fisher(problem, params, tiny.batch(many), KEY)(v)
  want = products.ggn(problem, params, tiny.batch({'x': X[:1], 'y': y}))(v)
  np.testing.assert_allclose(found['w'], want['w'], atol=0.01)
  assert np.abs(want['w']).max() > 0.1


def test_inputs_are_taken_by_name_and_masks_are_inputs():
  def apply(params, ids, mask):
    return (params['e'][ids] * mask[..., None]).sum(1) @ params['w']

  params = {'e': jnp.asarray(RNG.normal(size=(5, 4)), 'float32'), **weights(3)}
  ids, mask = RNG.integers(0, 5, (8, 6)), RNG.integers(0, 2, (8, 6))
  rows = {'ids': ids, 'mask': mask.astype('f'), 'y': np.arange(8) % 3}
  problem = tda.classification(apply, inputs=('ids', 'mask'))
  assert problem.reads == ('ids', 'mask', 'y')
  method = tda.grad_dot()
  found = tda.attribute(method, problem, params, rows, rows)
  joined = {'x': np.stack([ids, mask], 1), 'y': rows['y']}
  both = tda.classification(
    lambda p, x: apply(p, x[:, 0], x[:, 1].astype(jnp.float32))
  )
  want = tda.attribute(method, both, params, joined, joined)
  np.testing.assert_allclose(found, want, atol=1e-5)
  with pytest.raises(ValueError, match="no column 'mask', which the problem"):
    problem_lib.check(problem, params, {'ids': ids, 'y': rows['y']})
  drop = lambda p, a, b, key=None: linear(p, a + b) * (1 if key is None else 2)
  masked = tda.problem.bound(tda.regression(drop, inputs=('a', 'b')), KEY)
  example = {'a': X[0], 'b': X[1], 'y': np.float32(0)}
  np.testing.assert_allclose(
    masked.outputs(weights(1), example),
    2 * (X[0] + X[1]) @ weights(1)['w'],
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  'name, k, y, same',
  [
    ('classification', 3, np.arange(8.0) % 3, np.arange(8) % 3),
    ('classification', 3, np.arange(8, dtype='u1') % 3, np.arange(8) % 3),
    ('classification', 2, np.arange(8) % 2 == 1, np.arange(8) % 2),
    ('binary', 1, np.arange(8) % 2 == 1, np.arange(8) % 2),
    ('binary', 1, np.arange(8.0) % 2, np.arange(8) % 2),
    ('multilabel', 1, np.arange(8.0)[:, None] % 2, np.arange(8)[:, None] % 2),
    ('regression', 1, np.arange(8), np.arange(8.0, dtype='f')),
    ('regression', 1, np.arange(8)[:, None], np.arange(8.0, dtype='f')),
    ('regression', 1, np.arange(8) > 3, np.float32(np.arange(8) > 3)),
  ],
)
def test_labels_of_one_reading_are_read(name, k, y, same):
  problem, params = getattr(tda, name)(linear), weights(k)
  rows = {'x': X, 'y': y}
  problem_lib.check(problem, params, rows)
  for of in (problem_lib.losses, problem_lib.measures):
    want = of(problem, params, {'x': X, 'y': same})
    np.testing.assert_allclose(of(problem, params, rows), want, atol=1e-6)
  drawn = jax.vmap(problem.sample)(
    jax.random.split(KEY, 8), jax.vmap(linear, (None, 0))(params, X), rows
  )
  problem_lib.check(problem, params, drawn)


EYE = np.eye(3, dtype=int)[np.arange(8) % 3]
TEXT = np.array(['cat', 'dog'])[np.arange(8) % 2]


@pytest.mark.parametrize(
  'name, k, y, said',
  [
    ('classification', 3, np.arange(8)[:, None] % 3, r'shape \[8, 1\]: give \[N'),
    ('classification', 3, EYE, r'one-hot rows: give .* y.argmax\(1\)'),
    ('classification', 3, 1.0 * EYE, r'one-hot rows: give .* y.argmax\(1\)'),
    ('classification', 3, np.ones((8, 2), int), 'give one class number a row'),
    ('classification', 2, TEXT, "first is 'cat'.: give integers from 0 to 1, for example"),
    ('classification', 2, TEXT.astype(object), 'have type object .*np.unique'),
    ('classification', 2, TEXT.astype('S'), 'have type .S3 '),
    ('classification', 3, np.arange(8) % 2 == 1, 'type bool, but the model has 3'),
    ('classification', 3, np.full(8, 0.5), 'row 0 has 0.5: give integers'),
    ('classification', 3, np.arange(8) - 1, 'row 0 has label -1, but'),
    ('classification', 3, np.arange(8), 'row 3 has label 3, but the model has 3'),
    ('classification', 3, np.array(1), 'are the one value 1: give one a row'),
    ('classification', 3, np.full(8, 1j), 'have type complex128'),
    ('classification', 3, None, "no column 'y', which the problem reads"),
    ('classification', 1, np.zeros(8, int), 'one output, .*use tda.binary'),
    ('binary', 1, np.arange(8) % 2 * 2 - 1, r'row 0 has label -1.*\(y \+ 1\) // 2'),
    ('binary', 2, np.zeros(8, int), r'shape \[2\], and binary takes one logit'),
    ('binary', 1, np.zeros((8, 1), int), r'\[8, 1\]: give \[N\], for example y\[:, 0\]'),
    ('multilabel', 3, np.arange(8) % 3, r'shape \[8\] for 3 logits: give'),
    ('multilabel', 3, 2 * EYE, 'row 0 has label 2: give multilabel 0 or 1'),
    ('multilabel', 3, EYE.astype(str), "the first is '1'.: give 0 and 1"),
    ('regression', 1, TEXT, "first is 'cat'.: give numbers, or use tda.classif"),
    ('regression', 2, np.zeros(8), 'each row has 1 targets, but the model gives 2'),
  ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(name, k, y, said):
  rows = {'x': X} if y is None else {'x': X, 'y': y}
  with pytest.raises(ValueError, match=said):
    problem_lib.check(getattr(tda, name)(linear), weights(k), rows)


ROWS = {'x': X, 'y': np.arange(8) % 3}


@pytest.mark.parametrize(
  'apply, said',
  [
    (lambda p, x: linear(p, x)[:, 0], r'outputs of shape \[B\], .*tda.binary'),
    (
      lambda p, x: linear(p, x)[0],
      r'outputs of shape \[3\] for a batch of one',
    ),
    (lambda p, x: linear(p, x).sum(), r'outputs of shape \[\] for a batch of'),
    (lambda p, x: linear(p, x)[:, None], r'shape \[1, 3\], and classification'),
    (lambda p, x: (linear(p, x), x), 'apply gave a tuple for a batch of one'),
    (
      lambda p, x: linear(p, x).astype(int),
      r'are int\d+\[3\]: return real num',
    ),
    (
      lambda p, x: p['w'] @ x,
      r'the model raised TypeError on one example: .*given parameters'
      r' {w float32\[4, 3\]} and the example {x float32\[4\], y int64\[\]}',
    ),
    (lambda p, x: p['v'], "the model raised KeyError on one example: 'v'; it"),
    (lambda p, x: 1 / 0, 'ZeroDivisionError on one example: division by zero'),
  ],
)
def test_what_the_model_does_with_one_example_is_said(apply, said):
  with pytest.raises(ValueError, match=said):
    problem_lib.check(tda.classification(apply), weights(3), ROWS)


@pytest.mark.parametrize('what', ['loss', 'measure'])
def test_a_value_that_is_not_one_number_is_refused_everywhere(what):
  plain = tda.classification(linear)
  own = getattr(plain, what)
  wrong = lambda outputs, example: own(outputs, example)[None]
  problem = plain._replace(**{what: wrong})
  of = {'loss': problem_lib.losses, 'measure': problem_lib.measures}[what]
  said = rf'the {what} of one example has shape \[1\] and must be one number'
  with pytest.raises(ValueError, match=said):
    of(problem, weights(3), ROWS)
  with pytest.raises(ValueError, match=said):
    method_lib.attribute(tda.grad_dot(), problem, weights(3), ROWS, ROWS)
  column = {**ROWS, 'y': ROWS['y'][:, None]}
  with pytest.raises(ValueError, match=r'has shape \[1'):
    of(plain, weights(3), column)
