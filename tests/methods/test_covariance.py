"""Covariances over drawn models: against dense formulas, chains by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_methods import ridge

import tda_jax as tda
from tda_jax.scoring import programs

DAMPING, TEMPERATURE = 0.2, 3.0
EKFAC = tda.ekfac(DAMPING, labels='exact')
linear = lambda outputs, example: jnp.sum(outputs * (1 + example['y']))


@functools.cache
def line():
  """Ridge regression, asked about what is linear: all covariances are known."""
  t, _ = ridge()
  return t._replace(problem=t.problem._replace(measure=linear))


def scores(method, t, key=0, **kwargs):
  return tda.attribute(
    method, t.problem, t.params, t.train, t.queries, key=key, **kwargs
  )


def dense(t):
  """float64 (curvature with l2, gradients of losses [N, P], of measures [Q, P])."""
  rows = lambda name: np.asarray(t.train[name], np.float64)
  x, w = rows('x'), np.asarray(t.params['w'], np.float64)
  curvature = 2 * x.T @ x / len(x) + t.problem.l2 * np.eye(len(w))
  asked = np.asarray(t.queries['x'], np.float64)
  m = asked * (1 + np.asarray(t.queries['y']))[:, None]
  return curvature, 2 * (x @ w - rows('y'))[:, None] * x, m


def near_in_expectation(method, t, spread, keys=6):
  """The mean over keys is that of models of covariance (T/N)·`spread` [P, P].

  Within 5 standard errors: of D independent draws of a Gaussian they would be
  √((V_i V_q + Cov²)/D)/T; correlated ones have as much more as the keys say.
  """
  _, g, m = dense(t)
  want = -g @ spread @ m.T / len(g)
  each = lambda x: np.einsum('np,pq,nq->n', x, spread, x) / len(g)
  size = np.sqrt(each(g)[:, None] * each(m) + want**2)
  found = np.stack([scores(method, t, key) for key in range(keys)])
  error = size * np.sqrt((found.var(0, ddof=1) / size**2).mean() / keys)
  assert (error < 0.05 * size).all()
  assert (np.abs(found.mean(0) - want) < 5 * error).all()
  # Over all entries the noise is smaller still.
  slope = (found.mean(0) * want).sum() / (want**2).sum()
  assert abs(slope - 1) < 0.03


def test_the_laplace_posterior_gives_influence():
  t = line()
  h, g, m = dense(t)
  spread = np.linalg.inv(h + DAMPING * np.eye(len(h)))
  method = tda.laplace_influence(EKFAC, draws=2000, temperature=TEMPERATURE)
  near_in_expectation(method, t, spread)
  exact, want = scores(tda.influence(tda.exact(DAMPING)), t), -g @ spread @ m.T
  np.testing.assert_allclose(
    exact, want / len(g), atol=1e-4 * np.abs(exact).max()
  )


@pytest.mark.parametrize(
  'kind', [None, pytest.param('ekfac', marks=pytest.mark.slow)]
)
def test_chains_give_influence_but_for_their_step(kind):
  """The discretised chain's own covariance, B⁻¹(1 − ηB/2)⁻¹ in its coordinates."""
  t, rate = line(), 0.15
  h, g, m = dense(t)
  b, root = h + DAMPING * np.eye(len(h)), np.eye(len(h))
  inverse = None
  if kind:
    inverse = tda.ekfac(1.0, labels='exact')
    values, basis = np.linalg.eigh(h + np.eye(len(h)))
    root = basis @ np.diag(values**-0.5) @ basis.T
  inside = root @ b @ root
  spread = root @ np.linalg.inv(inside - rate / 2 * inside @ inside) @ root
  plain, stepped = (g @ s @ m.T for s in (np.linalg.inv(b), spread))
  assert (stepped * plain).sum() > 1.05 * (plain**2).sum()
  method = tda.bayesian_influence(
    DAMPING, precondition=inverse, chains=30, draws=100, steps=8, burn_in=60,
    step_size=rate, temperature=TEMPERATURE,
  )  # fmt: skip
  near_in_expectation(method, t, spread)


def test_a_chain_by_hand():
  t, rate, size = line(), 0.05, 4
  method = tda.bayesian_influence(
    DAMPING, chains=2, draws=3, steps=2, burn_in=1, step_size=rate,
    batch_size=size, temperature=TEMPERATURE,
  )  # fmt: skip
  x, y = (np.asarray(t.train[name], np.float64) for name in 'xy')
  start, n = np.asarray(t.params['w'], np.float64), len(x)
  _, key, _ = jax.random.split(jax.random.key(5), 3)
  models = []
  for chain in range(2):
    w = start
    for step in range(7):
      here = jax.random.fold_in(jax.random.fold_in(key, chain), step)
      rows_key, noise_key = jax.random.split(here)
      index = np.asarray(jax.random.randint(rows_key, (size,), 0, n))
      (noise_key,) = jax.random.split(noise_key, 1)  # there is one leaf
      noise = np.asarray(jax.random.normal(noise_key, w.shape))
      slope = 2 * x[index].T @ (x[index] @ w - y[index]) / size
      slope += t.problem.l2 * w + DAMPING * (w - start)
      w = w - rate * slope + np.sqrt(2 * rate * TEMPERATURE / n) * noise
      models += [w] if step in (2, 4, 6) else []
  models = np.array(models)
  losses = (models @ x.T - y) ** 2
  asked = np.asarray(t.queries['x']) * (1 + np.asarray(t.queries['y']))[:, None]
  measures = models @ asked.T
  want = -(losses - losses.mean(0)).T @ measures / 5 / TEMPERATURE
  got = scores(method, t, key=5)
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_keys_change_draws_alone_and_more_draws_keep_the_first():
  t = line()
  few, more = (tda.laplace_influence(EKFAC, draws=n) for n in (5, 9))
  state = lambda method, key: programs.prepare(
    method, t.problem, tda.Run(t.params, None, None, None), t.train, t.queries,
    jax.random.key(key),
  ).state.params['w']  # fmt: skip
  np.testing.assert_allclose(state(few, 0), state(more, 0)[:5], rtol=1e-5)
  assert np.abs(state(few, 0) - state(few, 1)).min() > 0
  np.testing.assert_array_equal(scores(few, t, 1), scores(few, t, 1))


def test_they_have_the_sign_and_scale_of_leave_one_out():
  t, effects = ridge()
  method = tda.laplace_influence(
    tda.ekfac(0.0, labels='exact'), draws=4000, temperature=0.1
  )
  found = scores(method, t)
  assert np.corrcoef(found.ravel(), effects.ravel())[0, 1] > 0.97
  assert (
    abs((found * effects).sum() / (effects**2).sum() - 1) < 0.25
  )  # leverage


def test_what_is_refused():
  refused = functools.partial(pytest.raises, ValueError)
  with refused(match='laplace_influence draws.*give kfac, ekfac or diagonal'):
    tda.laplace_influence(tda.exact(0.1))
  with refused(match='precondition is an inverse without.*give kfac'):
    tda.bayesian_influence(0.1, precondition=tda.exact(0.1))
  with refused(match="damping='heuristic': give a number from 0"):
    tda.bayesian_influence('heuristic')
  with refused(match='burn_in=-1: give a whole number from 0'):
    tda.bayesian_influence(0.1, burn_in=-1)
  with refused(match='draws=1: give at least 2'):
    scores(tda.laplace_influence(EKFAC, draws=1), line())
  with refused(match='3 models of 4 parameters needs.*give fewer draws'):
    scores(tda.laplace_influence(EKFAC, draws=3, memory_limit=40), line())
  wild = tda.bayesian_influence(0.1, step_size=1e9, burn_in=20)
  with refused(match='lower step_size or temperature, or raise damping'):
    scores(wild, line())
