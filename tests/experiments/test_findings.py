"""What is measured of scores."""

import numpy as np

from experiments import findings
from tda_jax.evaluation import lds


def test_a_models_own_run_is_predicted_by_its_own_scores():
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(3, 40, 5))
  kept = np.argsort(rng.random((30, 40)), axis=1)[:, :36]
  sums = np.stack([scores[e][kept].sum(1) for e in range(2)], 1)  # [M, R, Q]
  outcomes = np.concatenate([sums[:, :1], -sums[:, 1:]], 1)
  estimate = lds.interval(scores, outcomes.mean(1), kept, resamples=2)
  found = {
    'all': findings.Finding(
      (scores,), estimate, 0.0, estimate, [], [], 3, [], None
    ),
    'first': findings.Finding(
      (scores[:1],), estimate, 0.0, estimate, [], [], 1, [], None
    ),
  }
  both, first = findings.same_run_rows(found, kept, outcomes)
  np.testing.assert_allclose(both['value'], 0, atol=1e-9)  # of LDS 1 and −1
  np.testing.assert_allclose(first['value'], 1)
  assert (both['n'], first['n']) == (2, 1)
  assert both['metric'] == 'lds_same_run'
