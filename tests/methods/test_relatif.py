"""RelatIF against explicit norms; the baselines."""

import functools

import jax
import numpy as np
import pytest
import tiny

from tda_jax.curvature import ekfac as blocks_lib
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import cg, ekfac, exact
from tda_jax.methods import baselines, relatif
from tda_jax.methods import method as method_lib

KEY = jax.random.key(0)


def attribute(method, t, **kwargs):
  return method_lib.attribute(
    method, t.problem, t.params, t.train, t.queries, **kwargs
  )


@functools.cache
def inverse_matrix(name, kind):
  """(F + 0.1)⁻¹ with the blocks that the method fits, [P, P]."""
  t = tiny.model(name)
  state = tiny.fit(ekfac.ekfac(0.1, kind=kind, labels='data'), t, KEY)
  example = rows_lib.take(t.train, 0)
  damped = lambda _, values: 1 / (values + 0.1)
  apply = jax.jit(
    lambda blocks, v: blocks_lib.apply(
      blocks, damped, t.problem, t.params, example, v
    )
  )
  return tiny.flat(apply(state.blocks, tiny.basis(t.params)))


@pytest.mark.parametrize('norm', relatif.POWERS)
@pytest.mark.parametrize('kind', ['ekfac', 'diagonal'])
@pytest.mark.parametrize('name', ['mlp', 'conv', 'scan'])
def test_is_influence_over_its_norm(name, kind, norm):
  t = tiny.model(name)
  solver = ekfac.ekfac(0.1, kind=kind, labels='data')
  got = attribute(relatif.relatif(solver, norm), t)
  h = inverse_matrix(name, kind)
  m = tiny.gradients(t.problem.measure, t, t.queries)
  g = tiny.gradients(t.problem.loss, t, t.train)
  moved = g @ h
  squares = (moved**2).sum(1) if norm == 'parameters' else (moved * g).sum(1)
  want = -moved @ m.T / np.sqrt(squares)[:, None]
  np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def test_other_inverses():
  t = tiny.classification()
  with pytest.raises(ValueError, match='norm for every training row'):
    attribute(relatif.relatif(exact.exact(0.1)), t)
  with pytest.raises(ValueError, match="norm='l2' is unknown"):
    relatif.relatif(ekfac.ekfac(0.1), 'l2')
  solver = cg.cg(0.1, precondition=ekfac.ekfac(0.1), tolerance=1e-5)
  assert np.isfinite(attribute(relatif.relatif(solver), t)).all()


def test_random_scores_are_normal_numbers_of_the_key():
  t = tiny.classification(n=500, q=4)
  scores = attribute(baselines.random(), t, key=KEY)
  assert abs(scores.mean()) < 0.1 and abs(scores.std() - 1) < 0.1
  assert np.abs(np.corrcoef(scores.T) - np.eye(4)).max() < 0.2
  again = attribute(baselines.random(), t, key=KEY, batch_size=7)
  np.testing.assert_array_equal(scores, again)
  other = attribute(baselines.random(), t, key=jax.random.key(1))
  assert (scores != other).all()


def test_loss_only_is_the_loss():
  t = tiny.classification()
  z = jax.vmap(t.problem.outputs, (None, 0))(t.params, t.train)
  losses = jax.vmap(t.problem.loss)(z, t.train)
  want = np.repeat(np.asarray(losses)[:, None], 4, 1)
  np.testing.assert_allclose(attribute(baselines.loss_only(), t), want, 1e-6)
