"""The limited-access experiment as people call it."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_cli import run, sentence

from experiments.limited_access import claims as claims_lib
from experiments.limited_access import experiment, proxies
from experiments.limited_access.proxies import Proxy
from experiments.shared import networks, scored, sources, tasks
from experiments.shared.findings import Truth, of_scores
from tda_jax.data.subsets import half_subsets
from tda_jax.evaluation import reliability
from tda_jax.methods import registry as methods
from tda_jax.training import distill

SMOKE = 'configs/limited_access/mnist5k.py:smoke'
PROXIES = (
    's0_target', 's0_width', 's1_width', 's2_width', 's5_held_out', 's5_init',
)  # fmt: skip


def config(setting='mnist5k', arg='smoke'):
  module = importlib.import_module(f'configs.limited_access.{setting}')
  return module.get_config(arg)


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('smoke')
  return workdir, run('limited_access', SMOKE, workdir)


def read(workdir):
  return json.loads((workdir / 'results.json').read_text())


@pytest.mark.slow
def test_it_writes_everything(smoke):
  workdir, done = smoke
  results = read(workdir)
  found = {(row['method'], row['metric']) for row in results['rows']}
  for proxy in PROXIES:
    assert (f'{proxy}/grad_dot', 'lds_ensemble') in found
    followed = (f'{proxy}/tracin', 'lds_ensemble') in found
    assert followed == (proxy != 's5_init')  # which has no checkpoints
    labels = (f'{proxy}/grad_dot', 'mislabel_auc') in found
    assert labels == (proxy != 's0_width')  # a control, of no claim on labels
  for metric in ('lds_ensemble', 'mislabel_auc', 'flip_rate'):
    assert ('random', metric) in found
  assert ('s0_target/grad_dot', 'flip_rate') in found
  assert ('perfect predictor', 'ceiling') in found
  for row in results['rows']:
    assert row.get('low') is None or row['low'] <= row['value'] <= row['high']
  claims = {claim['claim'] for claim in results['claims']}
  assert {
    's0_width > s1_width, mean of methods',
    's0_width > s2_width, tracin',
    'hyperparameters alone: s0_width > s0_target',
    'distillation helps: s1_width > s2_width',
    's5_init stays above random',
    's1_width/grad_dot finds wrong labels',
    'removing the top of s0_target/grad_dot flips more than random rows',
  } <= claims
  assert 's5_held_out/grad_dot finds wrong labels' not in claims
  assert (workdir / 'plots' / 'mnist5k_lds.png').exists()
  assert 's0_target/grad_dot</th>' in (workdir / 'report.html').read_text()
  assert 'mislabel_auc' in done.stdout


@pytest.mark.slow
def test_a_resumed_run_says_the_same(smoke):
  """As if killed while models were retrained and pairs scored."""
  workdir, _ = smoke
  before = read(workdir)
  for folder in ('brittleness/s0_target/grad_dot', 's1_width/scores'):
    markers = sorted((workdir / folder).rglob('done/*'))
    assert markers
    markers[-1].unlink()
  (workdir / 'results.json').unlink()
  run('limited_access', SMOKE, workdir)
  for old, new in zip(before['rows'], read(workdir)['rows'], strict=True):
    assert (old['method'], old['metric']) == (new['method'], new['metric'])
    assert old['value'] == pytest.approx(new['value'], abs=1e-6)


@pytest.mark.slow
def test_another_distillation_is_refused(smoke):
  workdir, _ = smoke
  flag = '--config.proxies.s1_width.training.distillation.alpha=0.9'
  done = run('limited_access', SMOKE, workdir, flag, ok=False)
  assert 'alpha is 0.5 there and 0.9 now' in sentence(done)


@pytest.mark.parametrize('setting', ['mnist5k', 'fashion_mnist'])
def test_settings_are_whole(setting):
  for arg in (None, 'smoke'):
    c = config(setting, arg)
    assert c.setting == c.data.name == setting
    experiment.check(c)
    for name in c.proxies:
      alpha = proxies.config_of(c, name).training.distillation.alpha
      assert bool(alpha) == (name[:2] in ('s1', 's3'))
  # Two that differ by distillation only.
  c = config(setting, None)
  for a, b in c.distilled:
    a, b = (proxies.config_of(c, name) for name in (a, b))
    a.training.distillation.alpha = 0.0
    assert a == b
  # Every proxy that is not the target's network has a control.
  assert {p for _, p in c.controlled} >= {
    p for p in c.proxies if p[:2] in ('s1', 's2', 's3', 's4')
  } - {'s2_same'}


@pytest.mark.parametrize(
  'field, names, message',
  [
    ('controlled', (('s0_width', 's9'),), 'controlled names s9: this config'),
    ('unseen', ('s5',), 'unseen names s5'),
    ('mislabelled.methods', ('cg',), 'mislabelled.methods names cg'),
    ('brittleness.scores', ('s1_same/ekfak',), 'names s1_same/ekfak'),
    ('method', 'ekfak', "unknown method 'ekfak'"),
  ],
)
def test_a_name_that_is_none_is_refused_before_anything_runs(
  field, names, message, tmp_path
):
  c = config()
  c.update_from_flattened_dict({field: names})
  with pytest.raises(ValueError, match=message):
    experiment.main(c, tmp_path)
  assert not [*tmp_path.iterdir()]


def test_a_proxy_is_the_config_with_its_changes():
  c = config(arg=None)
  own = proxies.config_of(c, 's3_logistic')
  assert own.model.widths == () and own.model.kind == 'mlp'
  assert own.training.momentum == c.training.momentum
  assert c.model.widths == (128, 64)  # which stays as it is
  assert own.seed != c.seed == proxies.config_of(c, 's0_target').seed
  assert own.seed == proxies.config_of(c, 's4_logistic').seed
  init, _ = networks.network(own.model, 10, (28, 28, 1))
  shapes = jax.tree.map(jnp.shape, init(jax.random.key(0)))
  assert shapes == {'Dense_0': {'kernel': (784, 10), 'bias': (10,)}}


def test_held_out_rows_are_neither_training_rows_nor_queries(monkeypatch):
  c = config()
  n = c.data.train + c.data.queries + 50
  x = np.random.default_rng(0).normal(size=(n, 4, 4, 1)).astype(np.float32)
  rows = {'x': x, 'y': np.arange(n, dtype=np.int32) % 10}
  monkeypatch.setattr(tasks.images_lib, 'mnist5k', lambda: rows)
  own = tasks.images(c).shown['split']
  c.data.held_out = 50
  other = tasks.images(c)
  held = other.shown['split']['train']
  assert len(held) == 50 == len(other.train['y'])
  assert not {*held} & {*own['train'], *own['queries']}
  np.testing.assert_array_equal(own['queries'], other.shown['split']['queries'])
  np.testing.assert_array_equal(other.train['y'], rows['y'][held])
  # Of files, which have their queries in another part.
  monkeypatch.setitem(sources.IMAGE_FILES, 'mnist', lambda path, part='': rows)
  c.data.update(name='mnist', held_out=0)
  own = tasks.images(c).shown['split']
  c.data.held_out = 50
  other = tasks.images(c).shown['split']
  assert len(other['train']) == 50 and len(other['queries']) == 12
  assert not {*own['train']} & {*other['train']}


def test_rows_are_scored_by_the_loss_that_is_asked_for():
  t = tiny.classification()
  c = config()
  rows = distill.with_teacher(t.problem, t.params, t.train)
  problem = distill.distilled(t.problem, 0.5)
  task = tasks.Task(problem, None, rows, t.queries)
  proxy = Proxy(c, task, t.problem, None, None)
  method = scored.parse('m', methods.defaults('grad_dot', c))
  own, found = proxies.by_its_loss(proxy, method)
  assert found.problem is problem and own.score_loss == 'own'
  given = scored.parse('m', {'kind': 'grad_dot', 'score_loss': 'cross_entropy'})
  assert given.settings == method.settings
  own, found = proxies.by_its_loss(proxy, given)
  assert found.problem is t.problem and own.score_loss == 'cross_entropy'
  assert c.score_loss == 'own'
  with pytest.raises(ValueError, match="score_loss='kl' is unknown"):
    proxies.by_its_loss(proxy, method._replace(score_loss='kl'))


@pytest.fixture(scope='module')
def found():
  """Scores that are the truth plus ever more noise, of two methods."""
  rng = np.random.default_rng(0)
  subsets = half_subsets(0, 40, 30)
  effect = rng.normal(size=(40, 20))
  outcomes = np.stack([effect[s].sum(0) for s in subsets])
  outcomes = outcomes[:, None] + rng.normal(size=(30, 3, 20))
  truth = Truth(subsets, outcomes, reliability.ceiling(outcomes).estimate)
  noise = {
    's0_target': 2, 's0_width': 0, 's1_width': 3, 's2_width': 1, 's5_init': 2.5
  }  # fmt: skip
  scores = {
    (name, method): effect + sigma * rng.normal(size=(2, 40, 20))
    for name, sigma in noise.items()
    for method in ('grad_dot', 'tracin')
  }
  scores[proxies.RANDOM] = rng.normal(size=(2, 40, 20))
  return truth, {k: of_scores((v,), truth, sizes=()) for k, v in scores.items()}


def test_claims_are_computed(found):
  c = config()
  _, methods_ = found
  flips = {
    'random': np.zeros(30, bool),
    's0_target/grad_dot': np.arange(30) < 15,
  }
  aucs = {
    (p, 'grad_dot'): {
      'method': f'{p}/grad_dot', 'value': 0.6, 'low': low, 'high': 0.7
    }
    for p, low in (('s1_width', 0.55), ('s2_width', 0.45), ('s5_init', 0.55))
  }  # fmt: skip
  claims = claims_lib.computed(c, methods_, flips, aucs)
  held = {claim['claim']: claim['holds'] for claim in claims}
  assert held['s0_width > s1_width, mean of methods']
  assert held['s0_width > s2_width, grad_dot']
  assert held['hyperparameters alone: s0_width > s0_target']
  assert not held['distillation helps: s1_width > s2_width']
  assert held['s5_init stays above random']
  assert held['s1_width/grad_dot finds wrong labels']
  assert not held['s2_width/grad_dot finds wrong labels']
  assert 's5_init/grad_dot finds wrong labels' not in held
  assert held[
    'removing the top of s0_target/grad_dot flips more than random rows'
  ]
  assert not any('s5_held_out' in claim for claim in held)  # not measured
  c.distilled = (('s2_width', 's1_width'),)
  claims = claims_lib.computed(c, methods_, {}, {})
  held = {claim['claim']: claim['holds'] for claim in claims}
  assert held['distillation helps: s2_width > s1_width']


CHANGES = {
  'of the target itself': lambda c: c.update(
    controlled=(('s0_target', 's1_width'),)
  ),
  'of other hyperparameters': lambda c: c.proxies.s1_width.training.update(
    learning_rate=0.1
  ),
  'of another network': lambda c: c.proxies.s0_width.update(
    model={'widths': (4,)}
  ),
  'of a control that is distilled': lambda c: (
    c.proxies.s0_width.training.update(distillation={'alpha': 0.5})
  ),
  'of a proxy that differs by its seed': lambda c: setattr(
    c.proxies, 's1_width', c.proxies.s0_width
  ),
}


@pytest.mark.parametrize('what', CHANGES)
def test_no_access_is_claimed_of_pairs(what, found):
  """That differ in more than access, or in nothing but the seed."""
  c = config()
  c.controlled = (('s0_width', 's1_width'),)
  of = lambda c: {
    claim['claim'] for claim in claims_lib.computed(c, found[1], {}, {})
  }
  claim = 's0_width > s1_width, mean of methods'
  assert claim in of(c)
  with c.unlocked():
    CHANGES[what](c)
  assert not [name for name in of(c) if name.startswith('s0_') and '>' in name]


def test_distillation_is_claimed_of_pairs_that_differ_by_nothing_else(found):
  c = config()
  of = lambda c: {
    claim['claim'] for claim in claims_lib.computed(c, found[1], {}, {})
  }
  claim = 'distillation helps: s1_width > s2_width'
  assert claim in of(c)
  c.proxies.s2_width.training.epochs = 5
  assert claim not in of(c)


def test_a_control_has_the_targets_seed_and_the_hyperparameters_of_its_proxies():
  c = config(arg=None)
  target = proxies.config_of(c, 's0_target')
  for control, proxy in c.controlled:
    assert proxies.controlled(c, control, proxy)
    own = proxies.config_of(c, control)
    assert (own.seed, own.model) == (target.seed, target.model)
    assert own.training != target.training


def test_the_mean_over_methods_is_of_those_that_both_have(found):
  _, methods_ = found
  both = claims_lib.gap(methods_, 's0_width', 's1_width')
  single = [
    claims_lib.gap(methods_, 's0_width', 's1_width', name)
    for name in ('grad_dot', 'tracin')
  ]
  assert both.value == pytest.approx(np.mean([s.value for s in single]))
  some = {k: v for k, v in methods_.items() if k != ('s1_width', 'tracin')}
  left = claims_lib.gap(some, 's0_width', 's1_width')
  assert left.value == single[0].value
  assert claims_lib.gap(methods_, 's0_width', 's9_none') is None


def test_plot(found, tmp_path):
  truth, methods_ = found
  path = experiment.draw(config(), methods_, truth, tmp_path / 'plots')
  assert (tmp_path / 'plots' / 'mnist5k_lds.png').stat().st_size > 10_000
  assert path.endswith('mnist5k_lds.png')
