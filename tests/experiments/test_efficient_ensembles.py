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
  measured = [ensemble(i, 1, 0.5, 4.0 * i) for i in (1, 6)]
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


def ensemble(models, variants, value, training):
  resampled = value + np.array([-0.1, 0.1])
  estimate = bootstrap.Estimate(
    value, value - 0.1, value + 0.1, resampled, (9, 9, 'both')
  )
  return experiment.Ensemble(models, variants, estimate, training, 1.0, 1.0)


def test_savings_are_of_the_cheapest_that_is_as_good():
  found = {
    ('trak', 'naive'): [ensemble(1, 1, 0.1, 1.0), ensemble(10, 1, 0.4, 10.0)],
    ('trak', 'dropout'): [
      ensemble(1, 3, 0.3, 1.0),
      ensemble(3, 3, 0.4, 3.0),
      ensemble(5, 3, 0.5, 5.0),
    ],
  }
  saved = {s.cost: s for s in claims_lib.savings(found)}
  assert saved['training'].saved.value == pytest.approx(0.7)
  assert saved['training'].by == (3, 3)
  # Resampled alike, so that the same ensemble is the one in every resample.
  np.testing.assert_allclose(saved['training'].saved.resampled, 0.7)
  assert saved['serving'].saved.value == 0 and saved['serving'].by is None
  config = types.SimpleNamespace(anchors=False)
  claims = claims_lib.computed(config, found, claims_lib.savings(found))
  holds = {c['claim']: c['holds'] for c in claims}
  assert holds['trak: dropout saves training at the LDS of naive 10']
  assert not holds['trak: dropout saves serving at the LDS of naive 10']
  assert holds['trak: 10 models predict better than one']


def test_none_as_good_saves_nothing():
  found = {
    ('trak', 'naive'): [ensemble(5, 1, 0.6, 5.0)],
    ('trak', 'dropout'): [ensemble(1, 9, 0.3, 1.0), ensemble(2, 9, 0.4, 2.0)],
  }
  saved = claims_lib.savings(found)
  assert len(saved) == 3 and all(s.saved.value == 0 for s in saved)
  # Masks of one model alone are no grid to choose from.
  del found['trak', 'dropout'][1]
  assert claims_lib.savings(found) == []


def test_one_model_is_to_be_undercut_where_more_are_no_better():
  found = {
    ('trak', 'naive'): [ensemble(1, 1, 0.4, 1.0), ensemble(10, 1, 0.4, 10.0)],
    ('trak', 'lora'): [ensemble(1, 3, 0.5, 2.0), ensemble(3, 3, 0.5, 6.0)],
  }
  saved = {s.cost: s for s in claims_lib.savings(found)}
  assert saved['training'].saved.value == saved['training'].saved.high == 0
  found['trak', 'lora'][0] = ensemble(1, 3, 0.5, 0.95)
  by_noise = claims_lib.savings(found)
  config = types.SimpleNamespace(anchors=False)
  claims = claims_lib.computed(config, found, by_noise)
  (claim,) = (c for c in claims if 'lora saves training' in c['claim'])
  assert claim['observed'].startswith('5% [5%, 5%] by 1 x 3')
  assert not claim['holds']  # a tenth is noise of timing


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
