"""One step on a row, against the same steps taken one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax.data import rows as rows_lib
from tda_jax.methods import additional_step
from tda_jax.methods import method as method_lib
from tda_jax.methods import registry as methods

OPTIMIZERS = {
  'sgd': optax.sgd(0.3),
  'adam': optax.chain(optax.add_decayed_weights(0.05), optax.adam(0.01)),
}


def attribute(t, method):
  return method_lib.attribute(method, t.problem, t.params, t.train, t.queries)


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('l2', [0.0, 0.3])
def test_is_the_effect_of_the_step(name, l2):
  t, optimizer = tiny.classification(l2=l2), OPTIMIZERS[name]

  def objective(params, row):
    square = optax.tree.norm(params, squared=True)
    return t.problem.loss(t.problem.outputs(params, row), row) + l2 / 2 * square

  @jax.jit
  def effect(row):
    step = jax.grad(objective)(t.params, row)
    updates, _ = optimizer.update(step, optimizer.init(t.params), t.params)
    after = optax.apply_updates(t.params, updates)
    change = problem_lib.measures(t.problem, after, t.queries)
    return change - problem_lib.measures(t.problem, t.params, t.queries)

  want = np.array([effect(rows_lib.take(t.train, i)) for i in range(11)])
  got = attribute(t, additional_step.additional_step(optimizer, batch_size=4))
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.abs(want).max() > 0.01


def test_a_small_step_of_sgd_is_grad_dot():
  t = tiny.classification()
  m = tiny.gradients(t.problem.measure, t, t.queries)
  g = tiny.gradients(t.problem.loss, t, t.train)
  step = 1e-2
  got = attribute(t, additional_step.additional_step(optax.sgd(step)))
  want = -g @ m.T
  np.testing.assert_allclose(got / step, want, atol=0.1 * np.abs(want).max())


def test_by_plain_numbers():
  t = tiny.classification()
  settings = {'optimizer': 'adam', 'learning_rate': 0.01, 'weight_decay': 0.05}
  got = attribute(t, methods.make('additional_step', **settings, batch_size=2))
  want = attribute(t, additional_step.additional_step(OPTIMIZERS['adam']))
  np.testing.assert_allclose(got, want, atol=1e-6)
  with pytest.raises(ValueError, match="unknown optimizer 'lion'"):
    methods.make('additional_step', optimizer='lion')
  with pytest.raises(ValueError, match="method 'additional_step'.*momentum"):
    methods.make('additional_step', momentum=0.9)
  with pytest.raises(ValueError, match='batch_size=0'):
    methods.make('additional_step', batch_size=0)


def test_many_queries_are_taken_in_parts(monkeypatch):
  t = tiny.classification()
  make = lambda: additional_step.additional_step(optax.sgd(0.1))
  want = attribute(t, make())
  monkeypatch.setattr(additional_step, 'QUERIES_AT_ONCE', 3)
  np.testing.assert_allclose(attribute(t, make()), want, atol=1e-6)
  assert jnp.isfinite(want).all()
