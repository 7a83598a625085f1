"""Claims of ASTRA: judged on the right quantity, and only where it can be."""

import types

import numpy as np
import pytest

from experiments.astra import claims
from experiments.shared import findings
from experiments.shared.scored import Scored
from tda_jax.evaluation import bootstrap, reliability

STEPS = [0, 25, 50, 75, 100, 125, 150, 175, 200]


def descended(*objectives, steps=STEPS):
  """A finding with the objectives of some models."""
  facts = [{'steps': steps, 'objective': of} for of in objectives]
  return findings.Finding((), None, None, [], [], len(facts), facts, None)


def fewer(astra, neumann):
  return claims.fewer_steps_than_neumann(
    None, {'astra_paper': astra, 'neumann': neumann}, None, []
  )


def test_steps_are_those_to_the_objective_of_the_slower():
  slow = [-i / 10 for i in range(9)]
  fast = [-i / 5 for i in range(9)]
  (found,) = fewer(descended(*[fast] * 3), descended(*[slow] * 3))
  assert found['holds']
  assert found['observed'] == '200 − 100 = +100 [+100, +100]'
  three = descended(slow, fast, fast), descended(fast, slow, slow)
  (found,) = fewer(*three)
  assert not found['holds']  # two models of three
  assert found['observed'] == '167 − 133 = +33 [-100, +100]'
  assert found['verdict'] == 'undecided'


def test_no_claim_about_steps_by_few_reports_or_different_ones():
  few = descended([0.0, -1.0], steps=[0, 200])
  assert fewer(few, few) == []
  falling = [-float(i) for i in range(9)]
  fast = descended(*[falling] * 3)
  other = descended(*[falling] * 3, steps=[2 * i for i in STEPS])
  assert fewer(fast, other) == []
  two = descended(falling, falling)  # of two models the range says little
  assert fewer(two, two) == []
  assert fewer(fast, descended(*[[np.nan] * 9] * 3)) == []
  older = [{'steps': STEPS}] * 3  # kept by code that did not measure it
  assert fewer(fast, fast._replace(facts=older)) == []


def test_sets_are_held_against_the_best_sum_of_any_number_of_models(truth):
  sets = ranked(1.0, 1, truth)._replace(
    scored=Scored('sets', {'kind': 'newton'})
  )
  one = lambda f: findings.of_scores((f.factors[0][:1],), truth.true)._replace(
    scored=f.scored
  )
  better, worse = ranked(0.1, 2, truth), one(ranked(4.0, 3, truth))
  found = {'sets_exact': sets, 'ekfac': better, 'trak': worse}
  single, ensemble = claims.sets_beat_scores(None, found, truth.true, [])
  assert 'ekfac' in single['claim'] and not single['holds']
  assert 'ekfac' in ensemble['claim'] and not ensemble['holds']
  found = {'sets_exact': one(sets), 'ekfac': better, 'trak': worse}
  (only,) = claims.sets_beat_scores(None, found, truth.true, [])
  assert 'ekfac' in only['claim'] and 'single' in only['claim']


def ranked(noise, seed, truth, **settings):
  """A finding whose scores are the truth and noise."""
  rng = np.random.default_rng(seed)
  scores = truth.expected + noise * rng.normal(size=(3, *truth.expected.shape))
  of = findings.of_scores((scores,), truth.true)
  return of._replace(scored=Scored('one', {'kind': 'exact', **settings}))


@pytest.fixture(scope='module')
def truth():
  rng = np.random.default_rng(0)
  expected = rng.normal(size=(40, 6))
  subsets = np.argsort(rng.random((40, 40)), axis=1)[:, :20]
  sums = np.stack([expected[kept].sum(0) for kept in subsets])[:, None]
  outcomes = sums + 3 * rng.normal(size=(40, 4, 6))
  top = reliability.ceiling(outcomes, resamples=findings.RESAMPLES)
  true = findings.Truth(subsets, outcomes, top.estimate)
  return types.SimpleNamespace(expected=expected, true=true)


def test_low_curvature_is_dropped_above_the_damping_only(truth):
  found = {'exact': ranked(0.1, 1, truth, damping=1e-2)}
  for i, least in enumerate((1e-1, 1e-2, 1e-3)):
    found[f'above_{least:g}'] = ranked(
      4.0, i, truth, damping=1e-2, project_above=least
    )
  (one,) = claims.low_curvature_matters(None, found, truth.true, [])
  assert one['claim'] == 'dropping eigendirections below 0.1 hurts'
  assert one['holds']


def test_each_solver_is_compared_at_its_own_chosen_damping(truth):
  found = {'astra_chosen': ranked(0.1, 1, truth)}
  found['ekfac_chosen'] = ranked(4.0, 2, truth)
  of = claims.astra_beats_ekfac_chosen(None, found, truth.true, [])
  assert [c['claim'][-8:] for c in of] == [', single', 'ensemble']
  assert all(c['holds'] for c in of)
  config = types.SimpleNamespace(claims=('astra_beats_ekfac_chosen',))
  assert claims.computed(config, {'ekfac_chosen': None}, truth.true, []) == []


def test_a_level_holds_where_the_whole_interval_reaches_it():
  wide = bootstrap.Estimate(0.6, 0.5, 0.7, np.zeros(2), ())
  assert not claims._at_least('exact', 'ours', wide, 0.55)['holds']
  assert claims._at_least('exact', 'ours', wide, 0.5)['holds']
  of = claims._at_least('exact', 'ours', wide, 0.4, 'another')
  assert of['claim'] == 'exact: above another' and of['holds']


def test_levels_of_source_are_those_of_the_papers_repeats(truth):
  found = {'source': ranked(0.1, 1, truth)}
  config = types.SimpleNamespace(
    paper_repeats=400, truth=types.SimpleNamespace(repeats=4)
  )
  few = config.truth.__class__(repeats=4)
  (now, _) = claims.source_levels(
    types.SimpleNamespace(paper_repeats=0, truth=few), found, truth.true, []
  )
  (then, _) = claims.source_levels(config, found, truth.true, [])
  value = lambda claim: float(claim['observed'].split()[0])
  assert value(now) == pytest.approx(found['source'].single.value, abs=1e-3)
  assert value(then) > value(now) + 0.05
  rows = findings.of_repeats_rows(found, truth.true, 400)
  assert [r['metric'] for r in rows] == ['lds_single@400', 'lds_ensemble@400']
  assert rows[0]['value'] == pytest.approx(value(then), abs=1e-3)
  assert findings.of_repeats_rows(found, truth.true, 0) == []
