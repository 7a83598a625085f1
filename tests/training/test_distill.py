"""Distillation against scipy and dense float64 oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy import special

from tda_jax.curvature import ekfac
from tda_jax.data import rows as rows_lib
from tda_jax.problem import losses
from tda_jax.training import distill

T = tiny.classification()
TEACHER = tiny.mlp_init((5, 4, 3), jax.random.key(7))
ROWS = distill.with_teacher(T.problem, TEACHER, T.train)
Z = np.array([0.3, -1.2, 0.8])
ROW = {'y': 1, 'teacher': np.array([1.5, 0.2, -0.7])}


def test_teacher_is_the_models_outputs():
  for i in range(3):
    want = tiny.mlp_apply(TEACHER, T.train['x'][i])
    np.testing.assert_allclose(ROWS['teacher'][i], want, 1e-5, 1e-6)
  assert ROWS['teacher'].shape == (11, 3)
  np.testing.assert_array_equal(ROWS['x'], T.train['x'])


@pytest.mark.parametrize('direction', distill.DIRECTIONS)
def test_loss_is_scipys(direction):
  alpha, temperature = 0.3, 3.0
  problem = distill.distilled(T.problem, alpha, temperature, direction)
  t, p = (special.softmax(z / temperature) for z in (ROW['teacher'], Z))
  first, second = (t, p) if direction == 'teacher||student' else (p, t)
  kl = special.rel_entr(first, second).sum()
  own = -special.log_softmax(Z)[1]
  want = alpha * temperature**2 * kl + (1 - alpha) * own
  assert float(problem.loss(jnp.asarray(Z), ROW)) == pytest.approx(want, 1e-5)
  assert problem.measure is T.problem.measure


@pytest.mark.parametrize('direction', distill.DIRECTIONS)
def test_the_two_ends(direction):
  """alpha = 0 is the problem's own loss; alpha = 1 is 0 at the teacher."""
  own = distill.distilled(T.problem, 0.0, 2.0, direction)
  want = losses(T.problem, T.params, T.train)
  np.testing.assert_allclose(losses(own, T.params, ROWS), want, 1e-6)
  only = distill.distilled(T.problem, 1.0, 2.0, direction)
  np.testing.assert_allclose(losses(only, TEACHER, ROWS), 0, atol=1e-6)
  at_teacher = T._replace(problem=only, params=TEACHER)
  assert np.abs(tiny.gradients(only.loss, at_teacher, ROWS)).max() < 1e-6
  elsewhere = at_teacher._replace(params=T.params)
  assert np.abs(tiny.gradients(only.loss, elsewhere, ROWS)).max() > 0.1


def test_gradient_in_the_outputs():
  """(1 − α)(softmax(z) − e_y) + αT(softmax(z/T) − softmax(teacher/T))."""
  alpha, temperature = 0.3, 3.0
  problem = distill.distilled(T.problem, alpha, temperature)
  found = tiny.gradients(problem.loss, T._replace(problem=problem), ROWS)
  jacobian = tiny.jacobian(T, T.train)
  z = np.asarray(
    jax.vmap(T.problem.outputs, (None, 0))(T.params, T.train), np.float64
  )
  soft = lambda x: special.softmax(np.float64(x) / temperature, -1)
  pull = (1 - alpha) * (special.softmax(z, -1) - np.eye(3)[T.train['y']])
  pull += alpha * temperature * (soft(z) - soft(ROWS['teacher']))
  np.testing.assert_allclose(
    found, np.einsum('nk,nkp->np', pull, jacobian), 1e-4, 1e-6
  )


def test_drawn_gradients_have_the_curvature_of_the_loss():
  problem = distill.distilled(T.problem, 0.3, 3.0)
  keys = jax.random.split(jax.random.key(0), 20_000)
  outputs = jnp.asarray(Z)

  def gradient(key):
    drawn = problem.sample(key, outputs, ROW)
    return jax.grad(problem.loss)(outputs, drawn)

  g = np.asarray(jax.vmap(gradient)(keys))
  want = jax.hessian(problem.loss)(outputs, ROW)
  np.testing.assert_allclose(g.T @ g / len(g), want, atol=5 / len(g) ** 0.5)
  np.testing.assert_allclose(g.mean(0), 0, atol=4 / len(g) ** 0.5)
  assert np.abs(want).max() > 0.1


def test_ekfac_of_drawn_rows_is_that_of_the_ggn():
  """`labels` 'sampled', the mean over keys, against 'exact'."""
  problem = distill.distilled(T.problem, 0.5, 2.0)
  stack = jax.tree.map(jnp.asarray, rows_lib.stacked(ROWS, 4))
  fit = jax.jit(
    lambda key, labels: ekfac.fit(
      problem, T.params, stack, key, kind='diagonal', labels=labels
    ),
    static_argnums=1,
  )
  exact = fit(jax.random.key(0), 'exact')
  keys = jax.random.split(jax.random.key(1), 600)
  drawn = jax.lax.map(lambda key: fit(key, 'sampled'), keys)
  for name, block in exact.items():
    values = np.asarray(drawn[name].eigenvalues)
    error = values.std(0) / len(keys) ** 0.5
    apart = np.abs(values.mean(0) - block.eigenvalues)
    assert (apart < 5 * error + 1e-6).all()


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'alpha': 1.5}, 'from 0 to 1'),
    ({'alpha': 0.5, 'temperature': 0}, 'above 0'),
    ({'alpha': 0.5, 'direction': 'both'}, "'both' is unknown"),
  ],
)
def test_bad_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    distill.distilled(T.problem, **settings)


def test_bad_rows():
  problem = distill.distilled(T.problem, 0.5)
  with pytest.raises(ValueError, match='with_teacher'):
    losses(problem, T.params, T.train)
  with pytest.raises(ValueError, match='same classes'):
    problem.check((4,), ROWS)
  with pytest.raises(ValueError, match='widen the model'):
    problem.check((2,), {**ROWS, 'teacher': ROWS['teacher'][:, :2]})
