"""Dampings are chosen by what they predict, inside what was tried."""

import numpy as np
import pytest

from tda_jax.evaluation import lds, tuning


@pytest.mark.parametrize(
  ('summit', 'best', 'tried'),
  [
    (1e-3, 1e-3, [1e-3, 1e-2, 1e-4]),
    (1e-1, 1e-1, [1e-3, 1e-2, 1e-4, 1e-1, 1.0]),
    (1e-6, 1e-6, [1e-3, 1e-2, 1e-4, 1e-5, 1e-6, 1e-7]),
  ],
)
def test_the_grid_is_widened_until_the_best_lies_inside(summit, best, tried):
  value = lambda damping: -abs(np.log10(damping / summit))
  found, curve = tuning.best(value, [1e-2, 1e-3, 1e-4], beyond=5)
  assert found == pytest.approx(best)
  assert sorted(curve) == pytest.approx(sorted(tried))
  assert not tuning.at_edge(found, curve)


def test_a_best_that_is_not_reached_is_at_the_edge():
  found, curve = tuning.best(lambda damping: damping, [1.0, 2.0], beyond=2)
  assert (found, len(curve)) == (8.0, 4)
  assert tuning.at_edge(found, curve)
  found, curve = tuning.best(lambda damping: damping, [1.0, 2.0])
  assert (found, len(curve)) == (2.0, 2)
  found, curve = tuning.best(lambda damping: damping, [3.0], beyond=2)
  assert curve == {3.0: 3.0} and not tuning.at_edge(found, curve)


def test_values_that_are_not_known_are_never_the_best(caplog):
  found, _ = tuning.best({1.0: np.nan, 2.0: 5.0, 3.0: 1.0}.get, [1.0, 2.0, 3.0])
  assert found == 2.0
  with pytest.raises(ValueError, match='no damping of .* has a value'):
    tuning.best(lambda damping: np.nan, [1.0, 2.0])
  found, curve = tuning.best(lambda damping: damping, [0.0, 1.0], beyond=2)
  assert (found, len(curve)) == (1.0, 2)  # 0 is at no distance

  def value(damping):
    if damping < 1:
      raise ValueError('cg diverged')
    return -damping

  found, curve = tuning.best(value, [1.0, 2.0], beyond=3)
  assert (found, len(curve)) == (1.0, 2) and 'cg diverged' in caplog.text
  with pytest.raises(ValueError, match='cg diverged'):
    tuning.best(value, [0.5, 1.0])


def test_the_damping_of_the_best_lds_is_chosen():
  rng = np.random.default_rng(0)
  truth, noise = rng.normal(size=(2, 30, 4))
  subsets = np.argsort(rng.random((20, 30)), axis=1)[:, :15]
  outcomes = np.stack([truth[kept].sum(0) for kept in subsets])[:, None]
  scores = lambda damping: (truth + abs(damping - 2) * noise)[None]
  found, curve = tuning.best_damping(scores, [1.0, 2.0, 4.0], subsets, outcomes)
  assert found == 2.0
  want = lds.lds(scores(4.0)[0], outcomes[:, 0], subsets).mean()
  assert curve[4.0] == pytest.approx(want) and want < curve[2.0]
