"""Datamodels against the primal ridge, leave-one-out by hand, and truth."""

import functools

import numpy as np
import pytest

from tda_jax.data.subsets import half_subsets
from tda_jax.evaluation import datamodel, lds

N, M, Q = 30, 40, 6


@functools.cache
def world(noise=0.5, models=M):
  """(subsets, outcomes, the scores that made them, scores that are near)."""
  rng = np.random.default_rng(3)
  true = rng.normal(size=(N, 3)) @ rng.normal(size=(3, Q))
  near = 0.5 * (true + 0.8 * rng.normal(size=true.shape))
  subsets = half_subsets(1, N, models)
  outcomes = lds.predictions(true, subsets)
  outcomes = outcomes + 7 + noise * rng.normal(size=outcomes.shape)
  return subsets, outcomes, true, near


def primal(subsets, outcomes, scores, mix, scale, ratio):
  """The formula of the module, with matrices N x N and the constant c beside w."""
  x = np.stack([np.bincount(s, minlength=N) for s in subsets]).astype(float)
  centred = scores - scores.mean(0)
  moment = centred @ centred.T * N / (centred**2).sum()
  prior = mix * moment + (1 - mix) * np.eye(N)
  inside = x - x.mean(0)
  size = np.trace(inside @ prior @ inside.T) / len(x)
  design = np.hstack([x, np.ones((len(x), 1))])
  penalty = np.zeros((N + 1, N + 1))
  penalty[:N, :N] = ratio * size * np.linalg.inv(prior)
  start = np.vstack([scale * scores, np.zeros((1, Q))])
  left = design.T @ design + penalty
  return np.linalg.solve(left, design.T @ outcomes + penalty @ start)


@pytest.mark.parametrize('mix', [0.0, 0.5])
def test_the_dual_is_the_primal_ridge(mix):
  subsets, outcomes, _, near = world()
  found = datamodel.datamodel(subsets, outcomes, N, near, mix=mix)
  assert found.scale > 0.01
  want = primal(subsets, outcomes, near, mix, found.scale, found.ratio)[:N]
  centred = lambda w: w - w.mean(0)
  np.testing.assert_allclose(centred(found.scores), centred(want), atol=1e-8)


def test_hyperparameters_are_of_the_least_leave_one_out_error():
  """By refitting without each subset, at both s and ρ."""
  subsets, outcomes, _, near = world()
  found = datamodel.datamodel(subsets, outcomes, N, near)
  size = ((outcomes - outcomes.mean(0)) ** 2).mean(0)

  def error(scale, ratio):
    """Of ρ in absolute numbers, which does not change as a subset is left out."""
    x = np.stack([np.bincount(s, minlength=N) for s in subsets]).astype(float)
    centred = near - near.mean(0)
    moment = centred @ centred.T * N / (centred**2).sum()
    prior = 0.5 * moment + 0.5 * np.eye(N)
    inside = x - x.mean(0)
    rho = ratio * np.trace(inside @ prior @ inside.T) / M
    out = np.zeros(Q)
    for m in range(M):
      keep = np.arange(M) != m
      some = x[keep] - x[keep].mean(0)
      rest = outcomes[keep] - scale * (x[keep] @ near)
      mean = rest.mean(0)
      kernel = some @ prior @ some.T + rho * np.eye(M - 1)
      dual = np.linalg.solve(kernel, rest - mean)
      w = scale * near + prior @ some.T @ dual
      shift = (outcomes[keep] - x[keep] @ w).mean(0)
      out += (outcomes[m] - shift - x[m] @ w) ** 2 / M
    return out / size

  least = error(found.scale, found.ratio)
  np.testing.assert_allclose(1 - least, found.explained, atol=1e-8)
  for factor in (0.9, 1.1):
    assert error(factor * found.scale, found.ratio).mean() > least.mean()
  for factor in (10**-0.25, 10**0.25):
    assert (
      error(found.scale, factor * found.ratio).mean() >= least.mean() - 1e-3
    )


def test_towards_scores_it_predicts_better_than_them_and_than_nothing():
  subsets, outcomes, true, near = world(noise=2.0)
  fresh = half_subsets(9, N, 60)
  of = lambda w: lds.lds(w, lds.predictions(true, fresh), fresh).mean()
  fit = functools.partial(datamodel.datamodel, subsets, outcomes, N)
  towards, plain = fit(near), fit()
  assert plain.scale == 0 and of(plain.scores) > 0.3  # the sign is theirs
  assert of(towards.scores) > max(of(near), of(plain.scores)) + 0.02
  assert (towards.explained.mean() > plain.explained.mean()) and (
    towards.explained.max() < 1
  )


def test_repeats_are_averaged_and_noise_leaves_the_scores():
  subsets, outcomes, _, near = world()
  rng = np.random.default_rng(0)
  wide = outcomes[:, None] + rng.normal(size=(M, 3, Q))
  one, two = (
    datamodel.datamodel(subsets, o, N, near) for o in (wide, wide.mean(1))
  )
  np.testing.assert_array_equal(one.scores, two.scores)
  noise = datamodel.datamodel(subsets, rng.normal(size=(M, Q)), N, near)
  assert noise.explained.mean() < 0.1
  against = datamodel.datamodel(subsets, -outcomes, N, near, ratios=(1e4,))
  assert against.scale == 0  # scores that predict the contrary are no prior
  same = datamodel.datamodel(subsets, outcomes, N, np.ones((N, Q)))
  plain = datamodel.datamodel(subsets, outcomes, N)
  np.testing.assert_allclose(same.scores, plain.scores, atol=1e-8)


def test_sets_may_be_masks_and_what_does_not_vary_is_not_explained():
  subsets, outcomes, *_ = world()
  masks = np.zeros((len(subsets), N), bool)
  np.put_along_axis(masks, subsets, True, 1)
  one, other = (datamodel.datamodel(s, outcomes, N) for s in (subsets, masks))
  np.testing.assert_array_equal(one.scores, other.scores)
  same = outcomes.copy()
  same[..., 0] = 1.0
  found = datamodel.datamodel(subsets, same, N)
  assert np.isnan(found.explained[0]) and (found.scores[:, 0] == 0).all()
  assert np.isfinite(found.explained[1:]).all()


def test_what_does_not_fit_is_refused():
  subsets, outcomes, _, near = world()
  refused = functools.partial(pytest.raises, ValueError)
  with refused(match='outcomes of 39 subsets do not fit'):
    datamodel.datamodel(subsets, outcomes[1:], N)
  with refused(match=r'scores of shape \[29, 6\] do not fit 30 rows'):
    datamodel.datamodel(subsets, outcomes, N, near[1:])
  with refused(match='all subsets are the same'):
    datamodel.datamodel(subsets[:1].repeat(len(subsets), 0), outcomes, N)
  with refused(match=r'ratios=\(0.0,\): give numbers above 0'):
    datamodel.datamodel(subsets, outcomes, N, ratios=(0.0,))
  with refused(match='different whole numbers'):
    datamodel.datamodel(subsets * 0, outcomes, N)
  with refused(match='subsets name rows 0 to 29 of 20'):
    datamodel.datamodel(subsets, outcomes, 20)
  with refused(match='a datamodel of 2 retrained models'):
    datamodel.datamodel(subsets[:2], outcomes[:2], N)
  with refused(match='mix=2: give a share'):
    datamodel.datamodel(subsets, outcomes, N, near, mix=2)
  with refused(match='not finite'):
    datamodel.datamodel(subsets, np.full_like(outcomes, np.nan), N)
