"""Methods by name."""

import jax
import pytest
import tiny

from tda_jax.methods import registry as methods
from tda_jax.training.fit import Recipe


def test_source_damps_its_solver_by_the_runs_learning_rates():
  t = tiny.classification()
  run = tiny.run(t.params)
  settings = {'kind': 'source', 'segments': 2, 'momentum': 0.5}
  solver = {'kind': 'exact'}
  made = methods.make(**settings, solver=solver)
  prepare = jax.jit(made.prepare, static_argnums=0)
  key = jax.random.key(0)
  prepared = prepare(t.problem, run, t.train, t.queries, key)
  spans = 2 * 20 * (0.1 + 0.2), 2 * 20 * (0.3 + 0.4)
  want = (1 / spans[0] + 1 / spans[1]) / 2
  assert float(prepared.solution.damping) == pytest.approx(want, rel=1e-5)


def test_unrolled_needs_a_recipe():
  t = tiny.classification()
  with pytest.raises(ValueError, match='without a Recipe'):
    methods.make('unrolled', recipe=tiny.run(t.params))
  recipe = Recipe(None, None, None, 4, 1)
  with pytest.raises(ValueError, match="method 'unrolled'.*damping"):
    methods.make('unrolled', recipe=recipe, damping=0.1)
  with pytest.raises(ValueError, match="unknown method 'sorce': .*source"):
    methods.make('sorce')
