"""The efficient-ensembles experiment as people call it, and its arithmetic."""

import json
import types

import numpy as np
import pytest
from test_cli import run

from configs.efficient_ensembles import digits
from experiments.efficient_ensembles import claims as claims_lib
from experiments.efficient_ensembles import experiment, frontier
from experiments.shared import ensembles
from experiments.shared.findings import Truth
from scripts import results, verdicts
from tda_jax.data.subsets import half_subsets
from tda_jax.evaluation import bootstrap, lds
from tda_jax.run import Run
from tda_jax.storage import scores as scores_lib

SMOKE = 'configs/efficient_ensembles/digits.py:smoke'
ASTRA = 'configs/astra/digits.py:smoke'


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('smoke')
  return workdir, run('efficient_ensembles', SMOKE, workdir)


def read(workdir):
  return json.loads((workdir / 'results.json').read_text())


def test_it_writes_everything(smoke):
  workdir, done = smoke
  rows = {(r['method'], r['metric']): r for r in read(workdir)['rows']}
  found = {method for method, metric in rows if metric == 'lds'}
  sizes = [f'{i} x {d}' for i in (1, 3) for d in (1, 2)]
  of_dot = {'naive 1', 'naive 3'}
  of_dot |= {f'dropout {size}' for size in sizes}
  of_trak = of_dot | {
    f'{kind} {size}' for kind in ('forward', 'projections') for size in sizes
  }
  of_halves = {f'datamodel, {m} retrained' for m in (6, 12)} | {
    f'datamodel_towards_{name} {i}, {m} retrained'
    for name in ('trak', 'grad_dot')
    for i in (1, 3)
    for m in (6, 12)
  }
  assert found == of_halves | {f'trak, {x}' for x in of_trak} | {
    f'grad_dot, {x}' for x in of_dot
  }
  seconds = lambda method: rows[method, 'all seconds, s']['value']
  towards = seconds('datamodel_towards_trak 3, 12 retrained')
  plain = seconds('datamodel, 12 retrained')
  naive = seconds('trak, naive 3')
  assert towards == pytest.approx(plain + naive, rel=0.2)
  for size in ('trak, naive 3', 'trak, dropout 3 x 2'):
    for cost in ('training, s', 'serving, s', 'storage, MB'):
      assert rows[size, cost]['value'] > 0
  one, three = (
    rows[f'trak, naive {i}', 'training, s']['value'] for i in (1, 3)
  )
  assert three == pytest.approx(3 * one)
  # Masks cost no training, and next to no storage.
  masked = rows['trak, dropout 1 x 2', 'training, s']['value']
  assert masked == pytest.approx(one)
  for name in ('trak_training', 'frontier'):
    assert (workdir / 'plots' / f'digits_{name}.png').exists()
  assert 'naive 3</th>' in (workdir / 'report.html').read_text()
  assert 'lds' in done.stdout


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_says_the_same(smoke):
  workdir, _ = smoke
  before = read(workdir)
  run('efficient_ensembles', SMOKE, workdir)
  assert read(workdir)['rows'] == before['rows']


def true(rng, rows, queries):
  subsets = np.argsort(rng.random((20, rows)), axis=1)[:, : rows // 2]
  outcomes = rng.normal(size=(20, 1, queries))
  return Truth(subsets, outcomes, None)


def test_factors_are_averaged_apart_and_counted():
  rng = np.random.default_rng(0)
  of = true(rng, 12, 3)
  kernel = experiment.Part(rng.normal(size=(3, 1, 12, 3)), 2.0)
  slopes = experiment.Part(rng.random((3, 4, 12, 3)), 0.5)
  own = ensembles.Members(None, None, 4, (10.0, 1.0), (3.0, 0.25))
  config = types.SimpleNamespace(models=(1, 2, 9), variants=(1, 3))
  every = experiment.measured(config, own, [kernel, slopes], of)
  assert [e[:2] for e in every] == [(1, 1), (1, 3), (2, 1), (2, 3)]
  last = every[-1]
  scores = kernel.scores[:2, 0].mean(0) * slopes.scores[:2, :3].mean((0, 1))
  want = lds.lds(scores, of.outcomes[:, 0], of.subsets).mean()
  assert last.lds.value == pytest.approx(want)
  assert last.training == 2 * 10 + 6 * 1
  assert last.storage == 2 * 3 + 6 * 0.25
  assert last.serving == 2 * 2.0 + 6 * 0.5


def test_models_of_halves_count_for_their_own_rows():
  rng = np.random.default_rng(0)
  of = true(rng, 12, 3)
  config = types.SimpleNamespace(seed=0, members=6)
  part = experiment.Part(rng.normal(size=(6, 1, 12, 3)), 2.0)
  measured = [ensemble(i, 1, 0.5, 4.0 * i, serving=1.0) for i in (1, 6)]
  (point,) = frontier.of_own_rows(config, 'dot', [part], measured, of)
  own = [np.isin(np.arange(12), s) for s in half_subsets(2, 12, 6)]
  mean = np.ma.masked_where(
    ~np.repeat(np.stack(own)[..., None], 3, 2), part.scores[:, 0]
  ).mean(0)
  want = lds.lds(np.asarray(mean), of.outcomes[:, 0], of.subsets).mean()
  assert point.lds.value == pytest.approx(want)
  assert point.name == 'dot, own_rows 6' and point.seconds == 25
  names = {row['metric'] for row in frontier.rows([point])}
  assert names == {'lds', 'all seconds, s'}


def ensemble(models, variants, value, training, serving=None):
  resampled = value + np.array([-0.1, 0.1])
  estimate = bootstrap.Estimate(
    value, value - 0.1, value + 0.1, resampled, (9, 9, 'both')
  )
  serving = models * variants if serving is None else serving
  return experiment.Ensemble(
    models, variants, estimate, training, serving, models
  )


def claimed(found, anchors=False):
  config = types.SimpleNamespace(anchors=anchors)
  claims = claims_lib.computed(config, found, claims_lib.savings(found))
  return {c['claim']: c for c in claims}


def test_savings_are_of_the_cheapest_that_is_as_good():
  found = {
    ('trak', 'naive'): [ensemble(1, 1, 0.1, 1.0), ensemble(10, 1, 0.4, 10.0)],
    ('trak', 'dropout'): [
      ensemble(1, 3, 0.3, 1.0),
      ensemble(3, 4, 0.4, 3.0),
      ensemble(10, 3, 0.5, 10.0),
    ],
  }
  saved = {s.cost: s for s in claims_lib.savings(found)}
  assert saved['training'].saved.value == pytest.approx(0.7)
  assert saved['training'].by == (3, 4)
  # Resampled alike, so that the same ensemble is the one in every resample.
  np.testing.assert_allclose(saved['training'].saved.resampled, 0.7)
  assert saved['serving'].saved.value == 0 and saved['serving'].by is None
  holds = {name: c['holds'] for name, c in claimed(found).items()}
  assert holds == {
    'trak: dropout saves training and storage at the LDS of naive 10': True,
    'trak: dropout saves serving at the LDS of naive 10': False,
    'trak: 10 models predict better than one': True,
  }


def spread(e, width):
  """The same ensemble, apart from others in some resamples."""
  resampled = e.lds.resampled + np.array([-width, width])
  return e._replace(lds=e.lds._replace(resampled=resampled))


@pytest.mark.parametrize(
  'naive',
  [
    [ensemble(1, 1, 0.4, 1.0), ensemble(10, 1, 0.4, 10.0)],
    [ensemble(1, 1, 0.4, 1.0), ensemble(10, 1, 0.3, 10.0)],
    # Above one model, but not in all resamples.
    [ensemble(1, 1, 0.4, 1.0), spread(ensemble(10, 1, 0.45, 10.0), 0.2)],
    # One model was not measured, so that it is not known.
    [ensemble(5, 1, 0.3, 5.0), ensemble(10, 1, 0.4, 10.0)],
  ],
)
@pytest.mark.parametrize('kind', claims_lib.CHEAP)
def test_where_many_models_do_not_beat_one_there_is_nothing_to_save(
  naive, kind
):
  cheap = [ensemble(1, 3, 0.9, 1.0), ensemble(10, 3, 0.9, 10.0)]
  found = {('trak', 'naive'): naive, ('trak', kind): cheap}
  assert claims_lib.savings(found) == []
  claims = claimed(found)
  assert not any('saves' in name for name in claims)
  # What is not met is a claim itself, where one model was measured.
  assert [c['holds'] for c in claims.values()] == [False] * (
    naive[0].models == 1
  )


def test_none_as_good_saves_nothing():
  found = {
    ('trak', 'naive'): [ensemble(1, 1, 0.2, 1.0), ensemble(5, 1, 0.6, 5.0)],
    ('trak', 'dropout'): [ensemble(1, 9, 0.3, 1.0), ensemble(5, 9, 0.4, 5.0)],
  }
  saved = claims_lib.savings(found)
  assert len(saved) == 3 and all(s.saved.value == 0 for s in saved)
  # Masks of one model alone are no grid to choose from.
  del found['trak', 'dropout'][1]
  assert claims_lib.savings(found) == []


def test_the_goal_is_of_no_more_models_than_the_cheap_ensembles_have():
  """Else a half is saved or nothing, whatever was measured."""
  naive = [ensemble(n, 1, 0.1 * n, n) for n in (1, 3, 5)]
  dropout = [ensemble(n, 3, 0.3, n) for n in (1, 3)]
  saved = claims_lib.savings(
    {('trak', 'naive'): naive, ('trak', 'dropout'): dropout}
  )
  assert {s.models for s in saved} == {3}


def test_a_masked_model_is_scored_in_the_seconds_of_any_other():
  naive = [ensemble(1, 1, 0.1, 1.0), ensemble(10, 1, 0.4, 10.0)]
  fast = [ensemble(n, 1, 0.04 * n, n, serving=0.1 * n) for n in (1, 10)]
  for kind, want in (('dropout', 0.0), ('lora', 0.9)):
    found = {('trak', 'naive'): naive, ('trak', kind): fast}
    saved = {s.cost: s.saved.value for s in claims_lib.savings(found)}
    assert saved['serving'] == pytest.approx(want)


def test_a_saving_within_the_noise_of_seconds_is_none():
  found = {
    ('trak', 'naive'): [ensemble(1, 1, 0.1, 1.0), ensemble(3, 1, 0.4, 3.0)],
    ('trak', 'lora'): [ensemble(1, 3, 0.5, 2.85), ensemble(3, 3, 0.5, 6.0)],
  }
  claim = claimed(found)['trak: lora saves training at the LDS of naive 3']
  assert claim['observed'].startswith('5% [5%, 5%] by 1 x 3')
  assert not claim['holds']


def test_adapters_cost_training_and_storage_apart():
  found = {
    ('trak', 'naive'): [ensemble(1, 1, 0.1, 1.0), ensemble(3, 1, 0.4, 3.0)],
    ('trak', 'lora'): [ensemble(1, 3, 0.5, 9.0), ensemble(3, 3, 0.5, 9.0)],
  }
  claims = claimed(found)
  assert not claims['trak: lora saves training at the LDS of naive 3']['holds']
  assert claims['trak: lora saves storage at the LDS of naive 3']['holds']


def test_an_anchor_is_reached_by_the_whole_interval():
  """Within .05 of the bar; below in a part of the resamples is undecided."""
  for value, verdict in ((0.4, 'holds'), (0.3, 'undecided'), (0.1, 'does not')):
    found = {('trak', 'naive'): [ensemble(10, 1, value, 10.0)]}
    (claim,) = claimed(found, anchors=True).values()
    assert verdicts.verdict(claim) == verdict


def test_every_claim_is_of_a_finding():
  found = {
    (method, kind): [
      ensemble(1, d, 0.2, 1.0),
      *(ensemble(n, d, 0.5, n) for n in (10, 50)),
    ]
    for method in ('trak', 'ekfac')
    for kind, d in (('naive', 1), ('dropout', 3), ('lora', 3))
  }
  found['trak', 'forward'] = found['trak', 'projections'] = found[
    'trak', 'dropout'
  ]
  claims = [*claimed(found, anchors=True).values()]
  run = {'setting': 'digits', 'claims': claims}
  placed = results.grouped('efficient_ensembles', [run])
  assert sum(len(of['digits']) for _, of in placed) == len(claims)
  assert len(placed) == len(results.FINDINGS['efficient_ensembles']['findings'])


def test_the_control_takes_its_share_of_the_gain():
  found = {
    ('trak', 'naive'): [ensemble(1, 1, 0.1, 1.0)],
    ('trak', 'dropout'): [ensemble(1, 1, 0.1, 1.0), ensemble(1, 9, 0.5, 1.0)],
    ('trak', 'projections'): [ensemble(1, 9, 0.3, 1.0)],
  }
  (row,) = claims_lib.control_rows(found)
  assert row['value'] == pytest.approx(0.5)
  assert row['method'] == 'trak, projections 1 x 9'


def test_of_checkpoints_the_last_come_first():
  steps = np.arange(12.0).reshape(2, 6, 1)  # of two models
  run = Run({'w': steps[:, -1]}, {'w': steps}, None, np.arange(6), None)
  task = types.SimpleNamespace(problem=None)
  models = ensembles.without_variants(task, run, 1.0)
  config = types.SimpleNamespace(seed=0)
  made = ensembles.make('checkpoints', 3, config, task, models, None)
  assert made.variants == 3
  np.testing.assert_array_equal(
    made.runs.params['w'].ravel(), [5, 4, 3, 11, 10, 9]
  )


def test_names_of_ensembles():
  assert ensembles.named('dropout:10') == ('dropout', 10)
  assert ensembles.named('naive') == ('naive', 1)
  for text in ('dropout', 'dropout:0', 'dropout:ten', 'naive:3', 'halves:2'):
    with pytest.raises(ValueError, match='is no ensemble: write naive'):
      ensembles.named(text)
  with pytest.raises(ValueError, match="unknown ensemble 'swa': use one of"):
    ensembles.named('swa:3')


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('ensembles', ('dropout:2',), 'give naive'),
    ('ensembles', ('naive', 'dropout:2', 'dropout:3'), 'once at most'),
    ('models', (1, 9), 'more than 3 members'),
    ('variants', (1, 3), 'and 2 variants'),
    ('variants', (2,), 'begin with 1'),
    ('method', 'trac', "unknown method 'trac'"),
    ('ensemble', 'swa:2', "unknown ensemble 'swa'"),
  ],
)
def test_a_grid_that_cannot_be_measured_is_refused_before_it_trains(
  field, value, message, tmp_path
):
  config = digits.get_config('smoke')
  config[field] = value
  with pytest.raises(ValueError, match=message):
    experiment.main(config, tmp_path)
  assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, members',
  [('halves', 2), ('checkpoints:2', 4), ('dropout:2', 4), ('lora:2', 4)],
)
def test_attribute_takes_any_ensemble(smoke_of_astra, name, members):
  workdir = smoke_of_astra
  flags = ('--config.method=grad_dot,trak', f'--config.ensemble={name}')
  if name.startswith('dropout'):  # of another model
    workdir, flags = workdir / 'dropout', (*flags, '--config.model.dropout=0.1')
  done = run('attribute', ASTRA, workdir, *flags)
  dot, trak = (f'{m}_{name.replace(":", "_")}' for m in ('grad_dot', 'trak'))
  folder = workdir / 'scores' / 'digits'
  assert done.stdout.count(f'holds {members} models') == 2
  stores = [folder / dot, folder / trak / 'slopes', folder / trak / 'kernel']
  for store in stores:
    assert len([*store.glob('*/facts.json')]) == members
  read_store = lambda path: scores_lib.read(scores_lib.open(path))
  slopes, kernel = (
    np.mean([read_store(part / str(e)) for e in range(members)], 0)
    for part in stores[1:]
  )
  mean = read_store(folder / trak / 'uncertainty')[:, 0]
  np.testing.assert_allclose(mean, slopes * kernel, rtol=1e-4, atol=1e-7)
  done = run('evaluate', ASTRA, workdir, *flags)
  found = read(workdir / 'evaluate')['rows']
  assert {r['method'] for r in found} == {dot, trak, 'perfect predictor'}


@pytest.fixture(scope='module')
def smoke_of_astra(tmp_path_factory):
  return tmp_path_factory.mktemp('attribute')
