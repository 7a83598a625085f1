"""The experiment on noise as people call it, and what its claims compute."""

import importlib
import json

import numpy as np
import pytest
from data.test_images import idx
from test_cli import run

from experiments.bayesian_tda import claims as claims_lib
from experiments.bayesian_tda import experiment
from experiments.bayesian_tda import plots as plots_lib
from experiments.shared import arguments, tasks
from scripts import verdicts as verdicts_lib
from tda_jax.evaluation import significance

SMOKE = 'configs/bayesian_tda/digits3.py:smoke'
METHODS = (
    'loo', 'loo_continued', 'additional_step', 'influence', 'grad_dot',
    'grad_cos',
)  # fmt: skip


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('smoke')
  return workdir, run('bayesian_tda', SMOKE, workdir)


@pytest.mark.slow
def test_it_writes_everything(smoke):
  workdir, done = smoke
  results = json.loads((workdir / 'results.json').read_text())
  values = {(r['method'], r['metric']): r['value'] for r in results['rows']}
  parts = ('cnn2_4', 'cnn2_4_batches')
  for part in parts:
    for method in METHODS:
      for metric in (
        'mean_p', 'mean_p_t', 'noise share', 'low noise', 'significant'
      ):  # fmt: skip
        assert 0 <= values[f'{part}: {method}', metric] <= 1
      stored = list((workdir / part / 'scores').glob(f'*/{method}/uncertainty'))
      assert len(stored) == 1
    assert values[f'{part}: models', 'accuracy, train'] > 0.4
    # Of one model's own gradients: near, and no method is another.
    same = values[f'{part}: grad_dot ~ influence', 'pearson of mean']
    assert 0.5 < same < 1
    assert (workdir / 'plots' / f'{part}_correlations.png').exists()
    assert (workdir / 'plots' / f'{part}_loo_pairs.png').exists()
  assert (workdir / 'plots' / 'mean_p.png').exists()
  report = (workdir / 'report.html').read_text()
  assert 'cnn2_4: influence</th>' in report and '±' in report
  assert (workdir / 'plots' / 'deviation.png').exists()
  listed = json.loads((workdir / 'pairs.json').read_text())
  ps = [pair['p'] for pair in listed['cnn2_4']['loo']]
  assert ps == sorted(ps) and len(ps) == 12
  claims = {claim['claim'] for claim in results['claims']}
  assert {
    'grad_dot, cnn2: initialisation adds noise to that of batches',
    'grad_cos has the lowest mean p, cnn2',
    'influence and grad_dot agree more with each other than with loo, cnn2,'
    ' pearson',
    'most pairs are noise by loo, cnn2',
  } <= claims
  assert all('verdict' in claim for claim in results['claims'])
  assert 'mean_p_t' in done.stdout


def part(noise, seed, models=10):
  """Scores of one signal and noise of one size, [S, L, Q]."""
  rng = np.random.default_rng(seed)
  signal = rng.normal(size=(20, 15))
  local = rng.normal(size=(20, 15))
  of = {
    'loo': signal,
    'loo_continued': signal,
    'influence': local + 0.1 * signal,
    'grad_dot': local,
    'grad_cos': 10 * local,
  }
  scores = {
    name: mean + noise * rng.normal(size=(models, 20, 15))
    for name, mean in of.items()
  }
  tests = {'by_code': 'deviations', 'by_text': 'student'}
  found = {
    field: {n: significance.uncertainty(s, test=t) for n, s in scores.items()}
    for field, t in tests.items()
  }
  return experiment.Part(
    None, None, np.arange(20), scores, found['by_code'], found['by_text'],
    experiment.correlated(found['by_code']), {}, dict.fromkeys(scores),
  )  # fmt: skip


def changes(kind, shared=False, lora=None):
  return {
    'model': {'kind': kind, 'lora': lora},
    'data': {'per_class': 10},
    'training': {'shared_init': shared},
  }


PARTS = {
  'cnn2_10': changes('cnn2'),
  'cnn2_10_batches': changes('cnn2', True),
  'cnn3_10': changes('cnn3'),
}
NOISIER = ', cnn2: initialisation adds noise to that of batches'


def claimed(noises, parts=PARTS, models=10):
  found = {
    name: part(noise, i, models)
    for i, (name, noise) in enumerate(zip(parts, noises, strict=True))
  }
  return {c['claim']: c for c in claims_lib.computed(found, parts)}


def verdicts(*args, **kwargs):
  found = claimed(*args, **kwargs)
  assert {c['verdict'] for c in found.values()} <= {*verdicts_lib.VERDICTS}
  return {name: c['holds'] for name, c in found.items()}


def test_claims_tell_what_holds_from_what_does_not():
  expected = verdicts((1.0, 0.3, 6.0))
  other = verdicts((1.0, 3.0, 0.2))
  noisier = f'grad_dot{NOISIER}'
  assert expected[noisier] and not other[noisier]
  more = 'grad_dot: more pairs are noise in cnn3 than in cnn2'
  assert expected[more] and not other[more]
  most = 'most pairs are noise by loo, cnn3'
  assert expected[most] and not other[most]
  assert expected['grad_cos has the lowest mean p, cnn2']
  agree = 'influence and grad_dot agree more with each other than with loo'
  assert expected[f'{agree}, cnn2, spearman'] and len(expected) == 23


def test_no_claim_is_settled_by_the_number_of_seeds():
  """Four times the noise: nearly all pairs are, and a test still finds them."""
  noises = (4.0, 4.0, 4.0)
  few, many = (verdicts(noises, models=n) for n in (10, 100))
  assert not [name for name in many if 'significant' in name]
  most = [name for name in many if name.startswith('most pairs are noise')]
  assert most and all(few[name] and many[name] for name in most)
  assert not [name for name in most if 'grad_cos' in name]
  parts = [[part(1.5, seed, n) for seed in range(4)] for n in (10, 100)]
  share = lambda of: claims_lib.noise_share(of.scores['loo'])[0]
  few, many = (np.mean([share(of) for of in some]) for some in parts)
  assert few == pytest.approx(many, abs=0.05)
  found = lambda of: of.by_text['loo'].significant.mean()
  few, many = (np.mean([found(of) for of in some]) for some in parts)
  assert many > few + 0.3


def test_what_starts_from_trained_models_has_no_noise_of_initialisation():
  found = verdicts((1.0, 0.3, 6.0))
  assert f'loo{NOISIER}' in found and f'loo_continued{NOISIER}' not in found
  adapters = {
    'vit_10': changes('vit', lora={'rank': 2}),
    'vit_10_batches': changes('vit', True, lora={'rank': 2}),
  }
  found = verdicts((1.0, 0.3), adapters)
  assert 'most pairs are noise by loo, vit' in found
  assert not [name for name in found if 'initialisation' in name]


def test_what_is_undecided_says_how_many_seeds_would_tell():
  found = claimed((1.0, 1.02, 1.0))
  told = {n: c for n, c in found.items() if 'would tell' in c['observed']}
  assert told and {verdicts_lib.verdict(c) for c in told.values()} == {
    verdicts_lib.UNDECIDED
  }
  for c in told.values():
    seen = verdicts_lib.observed(c)
    half = (seen.high - seen.low) / 2
    seeds = int(c['observed'].rpartition('; ')[2].split()[0])
    assert seeds >= 10
    if abs(seen.value) > 0.02:  # of numbers that are rounded
      assert seeds == pytest.approx(10 * (half / seen.value) ** 2, rel=0.1)


def test_pairs_of_zeros_are_noise_and_those_without_spread_are_not():
  scores = np.zeros((4, 1, 2))
  scores[..., 1] = 3.0
  assert claims_lib.noise_share(scores)[0] == 0.5


def test_the_error_of_a_mean_p_is_its_spread_over_draws():
  draws = [part(2.0, seed).scores['loo'] for seed in range(12)]
  # The pairs are independent here, and so are seeds: both spreads are small.
  means, low, high = np.transpose([claims_lib.mean_p(draw) for draw in draws])
  assert 0.5 < np.std(means, ddof=1) / np.mean(high - low) * 4 < 2
  assert np.isnan(claims_lib.mean_p(draws[0][:2])[1:]).all()


def test_a_relative_deviation_knows_no_scale():
  signal = part(0.0, 0).scores['loo'][0]
  size = (signal**2).mean() ** 0.5
  noise = np.random.default_rng(1).normal(size=(12, 10, 20, 15))
  draws = [signal + 0.5 * size * one for one in noise]
  values, low, high = np.transpose(
    [claims_lib.relative_deviation(draw) for draw in draws]
  )
  # E s = .973 σ of ten; the square of μ has σ²/10 of noise.
  expected = 0.973 * 0.5 / (1 + 0.25 / 10) ** 0.5
  np.testing.assert_allclose(values, expected, rtol=0.05)
  errors = np.log(high / low) / 4
  assert 0.5 < np.std(np.log(values), ddof=1) / errors.mean() < 2
  scaled = claims_lib.relative_deviation(1e-5 * draws[0])
  np.testing.assert_allclose(scaled, (values[0], low[0], high[0]))


def test_plots_by_size_have_a_panel_of_each_kind(tmp_path, monkeypatch):
  drawn = {}
  monkeypatch.setattr(
    plots_lib.panels, 'lines', lambda curves, *_, **__: drawn.update(curves)
  )
  made = importlib.import_module('configs.bayesian_tda.mnist3').get_config
  config = made('all')
  found = {name: part(1.0, i) for i, name in enumerate(config.parts)}
  value = claims_lib.relative_deviation
  plots_lib.by_size(config, found, tmp_path / 'd.png', value, 'σ')
  assert list(drawn) == ['cnn2', 'cnn2, batches only', 'cnn3']
  assert [curve.name for curve in drawn['cnn3']] == list(
    found['cnn3_10'].scores
  )
  curve = drawn['cnn3'][0]
  assert curve.x == [10, 20, 50] and (curve.low < curve.y).all()
  assert curve.y[1] == value(found['cnn3_20'].scores['loo'])[0]


@pytest.mark.parametrize(
  'name, parts', [('mnist3', 5), ('fashion3', 5), ('digits3', 6), ('vit', 6)]
)
def test_settings(name, parts):
  made = importlib.import_module(f'configs.bayesian_tda.{name}').get_config
  for config, count in ((made(), parts), (made('smoke'), 2)):
    for changes in config.parts.values():
      own = arguments.changed(config, changes)
      assert own.checkpoints <= own.training.epochs * -(
        -3 * own.data.per_class // own.training.batch_size
      )
      assert own.averaged <= own.checkpoints
    assert config.setting == name and len(config.parts) == count


def test_digits_are_images_to_a_cnn_and_one_start_is_shared():
  import jax

  made = importlib.import_module('configs.bayesian_tda.digits3').get_config
  config = made('smoke')
  task = tasks.load(config)
  assert task.train['x'].shape == (30, 8, 8, 1)
  assert {*task.queries['y']} == {0, 1, 2}
  keys = jax.random.split(jax.random.key(0), 2)
  for shared in (False, True):
    config.training.shared_init = shared
    start = jax.vmap(tasks.load(config).recipe.init)(keys)
    kernel = start['Dense_0']['kernel']
    assert bool((kernel[0] == kernel[1]).all()) == shared


def test_mnist_of_idx_files(tmp_path):
  rng = np.random.default_rng(0)
  for stem in ('train', 't10k'):
    labels = np.arange(60, dtype=np.uint8) % 4
    pixels = rng.integers(256, size=(60, 28, 28), dtype=np.uint8)
    for kind, array in (('images', pixels), ('labels', labels)):
      name = f'{stem}-{kind}-idx{array.ndim}-ubyte'
      (tmp_path / name).write_bytes(idx(array))
  made = importlib.import_module('configs.bayesian_tda.mnist3').get_config
  config = made('smoke')
  config.data.update(name='mnist', path=str(tmp_path), per_class=4)
  task = tasks.load(config)
  assert task.train['x'].shape == (12, 9, 9, 1)
  np.testing.assert_array_equal(np.bincount(task.train['y']), [4, 4, 4])
  assert task.queries['x'].shape == (12, 9, 9, 1)
