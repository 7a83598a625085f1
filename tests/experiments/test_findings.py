"""What is measured of scores."""

import numpy as np

from experiments.shared import findings
from tda_jax.evaluation import agreement, bootstrap, factors, lds
from tda_jax.report import table


def test_a_models_own_run_is_predicted_by_its_own_scores():
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(3, 40, 5))
  kept = np.argsort(rng.random((30, 40)), axis=1)[:, :36]
  sums = np.stack([scores[e][kept].sum(1) for e in range(2)], 1)  # [M, R, Q]
  outcomes = np.concatenate([sums[:, :1], -sums[:, 1:]], 1)
  estimate = lds.interval(scores, outcomes.mean(1), kept, resamples=2)
  found = {
    'all': findings.Finding((scores,), estimate, estimate, [], [], 3, [], None),
    'first': findings.Finding(
      (scores[:1],), estimate, estimate, [], [], 1, [], None
    ),
  }
  both, first = findings.same_run_rows(found, kept, outcomes)
  np.testing.assert_allclose(both['value'], 0, atol=1e-9)  # of LDS 1 and −1
  np.testing.assert_allclose(first['value'], 1)
  assert (both['n'], first['n']) == (2, 1)
  assert both['metric'] == 'lds_same_run'


def test_an_ensemble_of_factors_is_the_product_of_their_means():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(3, 40, 5))
  parts = (rng.uniform(size=(3, 40, 1)), kernel)
  subsets = np.argsort(rng.random((30, 40)), axis=1)[:, :20]
  true = findings.Truth(subsets, rng.normal(size=(30, 1, 5)), None)
  of = lambda scores: lds.lds(scores, true.outcomes[:, 0], subsets).mean()
  products, whole = factors.per_model(parts), factors.together(parts)
  found = findings.of_scores(parts, true, sizes=(1,))
  np.testing.assert_allclose(found.single.value, np.mean([*map(of, products)]))
  np.testing.assert_allclose(found.ensemble.value, of(whole))
  np.testing.assert_allclose(found.by_size[-1].value, of(whole))
  assert abs(of(whole) - of(products.mean(0))) > 1e-3
  other = findings.of_scores((kernel[:2],), true, sizes=())
  pair = factors.together([part[:2] for part in parts])
  gap = findings.gap(found, other, 'ensemble', true)
  np.testing.assert_allclose(gap.value, of(pair) - of(kernel[:2].mean(0)))
  gap = findings.gap(found, other, 'single', true)
  alone = np.mean([of(products[e]) - of(kernel[e]) for e in range(2)])
  np.testing.assert_allclose(gap.value, alone)
  effects = rng.normal(size=(6, 1, 5))
  left = findings.left_out_rows({'trak': found}, np.arange(6), effects)
  value = agreement.pearson(whole[:6], effects[:, 0])
  np.testing.assert_allclose(left[1]['value'], value.mean())
  mean = bootstrap.of_queries(value, resamples=findings.RESAMPLES)
  assert (left[1]['low'], left[1]['high']) == (mean.low, mean.high)
  same = findings.same_run_rows({'trak': found}, subsets, true.outcomes)
  np.testing.assert_allclose(same[0]['value'], of(products[0]))


def test_one_model_has_the_interval_of_its_lds_and_one_query_none():
  rng = np.random.default_rng(0)
  scores, outcomes = rng.normal(size=(1, 40, 5)), rng.normal(size=(30, 2, 5))
  subsets = np.argsort(rng.random((30, 40)), axis=1)[:, :20]
  ceiling = lds.interval(scores[0], outcomes[:, 0], subsets, resamples=300)
  true = findings.Truth(subsets, outcomes, ceiling._replace(value=0.5))
  found = {'random': findings.of_scores((scores,), true)}
  row = findings.rows(found, true)[0]
  want = lds.interval(scores, outcomes.mean(1), subsets, resamples=300)
  assert (row['metric'], row['n']) == ('lds_single', 1)
  assert (row['low'], row['high']) == (want.low, want.high)
  assert row['low'] < row['value'] < row['high']
  (left, _) = findings.left_out_rows(found, np.arange(6), outcomes[:6])
  assert left['low'] < left['value'] < left['high']
  one = findings.of_scores(
    (scores[..., :1],), true._replace(outcomes=outcomes[..., :1])
  )
  (left, _) = findings.left_out_rows(
    {'random': one}, np.arange(6), outcomes[:6, :, :1]
  )
  assert np.isnan([left['low'], left['high']]).all()
  assert '–' in table.number(left['low']) and table.interval(left) == ''


def test_outcomes_without_signal_leave_out_the_share_of_the_ceiling_only():
  rng = np.random.default_rng(0)
  scores, outcomes = rng.normal(size=(2, 40, 5)), rng.normal(size=(30, 2, 5))
  subsets = np.argsort(rng.random((30, 40)), axis=1)[:, :20]
  ceiling = lds.interval(scores[0], outcomes[:, 0], subsets, resamples=300)
  for value, more in ((0.5, {'lds_ensemble/ceiling'}), (0.0, set())):
    true = findings.Truth(subsets, outcomes, ceiling._replace(value=value))
    found = {'random': findings.of_scores((scores,), true)}
    metrics = {row['metric'] for row in findings.rows(found, true)}
    assert metrics == {'lds_single', 'lds_ensemble', 'ceiling', *more}
