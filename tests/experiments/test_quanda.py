"""Quanda's experiment and the evaluation of foreign scores, as people call them."""

import importlib
import json

import jax
import numpy as np
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver
from test_cli import run, sentence

from experiments import evaluate
from experiments.quanda import claims as claims_lib
from experiments.quanda import metrics as metrics_lib
from experiments.shared import tasks
from experiments.shared.arguments import changed
from tda_jax.run import Run
from tda_jax.storage import scores as store_lib
from tda_jax.training import ensembles

SMOKE = 'configs/quanda/digits.py:smoke'
RETRAINED = {'brittleness', 'cleaning'}
MODELS = {'clean', 'grouped', 'shortcut', 'mixed', 'mislabelled'}


def config(setting='digits', arg='smoke'):
  return importlib.import_module(f'configs.quanda.{setting}').get_config(arg)


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('smoke')
  return workdir, run('quanda', SMOKE, workdir)


def results(folder):
  return json.loads((folder / 'results.json').read_text())


def values(folder, method):
  rows = results(folder)['rows']
  return {r['metric']: r for r in rows if r['method'] == method}


def test_every_metric_of_every_method(smoke):
  workdir, done = smoke
  every = set(metrics_lib.METRICS)
  own = {'mislabel_auc', 'mislabel_area', 'cleaning'}
  assert set(values(workdir, 'ekfac')) == every
  assert set(values(workdir, 'similarity')) == every - own  # a constant
  for metric, row in values(workdir, 'random').items():
    assert row['n'] == (1 if metric in RETRAINED else 4)
  for row in results(workdir)['rows']:
    assert row.get('low') is None or row['low'] <= row['value'] <= row['high']
  for name in MODELS:
    found = values(workdir, f'models, {name}')
    misled = name in ('shortcut', 'mixed')
    assert ('accuracy, misled' in found) == misled
    assert ('accuracy, queries' in found) != misled
  claims = {c['claim'] for c in results(workdir)['claims']}
  assert not any('at chance' in claim for claim in claims)  # of 4 seeds
  assert 'similarity: class detection > .9' in claims
  assert 'class_detection' in done.stdout
  page = (workdir / 'leaderboard.html').read_text()
  assert 'grad_dot' in page and 'Shortcut detection' in page


def exported(workdir, world='clean'):
  path = workdir / world / 'scores' / 'digits' / 'grad_dot' / '0'
  return store_lib.read(store_lib.open(path))


@pytest.mark.slow
def test_scores_from_elsewhere_are_measured_alike(smoke, tmp_path):
  """Ours, turned round and of the other sign."""
  workdir, _ = smoke
  np.save(tmp_path / 'theirs.npy', -exported(workdir).T)
  flags = f'--scores={tmp_path / "theirs.npy"}', '--orientation=queries_by_rows'
  done = run(
    'evaluate', SMOKE, workdir, *flags, '--sign=harms', '--name=theirs'
  )
  theirs = values(workdir / 'evaluate' / 'theirs', 'theirs')
  ours = values(workdir, 'grad_dot')
  assert set(theirs) == {
    'class_detection', 'cardinality', 'lds', 'lds_kendall', 'loo', 'brittleness',
  }  # fmt: skip
  for metric, row in theirs.items():
    for field in ('value', 'low', 'high'):
      assert row[field] == pytest.approx(ours[metric][field], abs=1e-6)
  assert 'grad_dot' in done.stdout  # beside ours
  assert 'sign is the other one' not in done.stderr
  wrong = sentence(
    run('evaluate', SMOKE, workdir, flags[0], '--sign=harms',
        '--orientation=rows_by_queries', ok=False)
  )  # fmt: skip
  assert 'say queries_by_rows' in wrong


@pytest.mark.parametrize(
  'flags, setting, message',
  [
    ({'scores': 'F'}, 'quanda.digits', 'need --sign=supports or harms'),
    ({}, 'quanda.digits', 'give --scores=FILE, or --own=FILE'),
    ({'own': 'F'}, 'astra.digits', 'the experiment astra has no world'),
    ({'sign': 'harms'}, 'astra.digits', '--sign=harms would not be read'),
    ({'zeros': True}, 'astra.digits', 'would not be read without --scores'),
    ({'name': 'mine'}, 'astra.digits', 'without --scores or --own'),
    ({'world': 'mixed'}, 'astra.digits', 'without a config of quanda'),
    ({'scores': 'F', 'name': '../x'}, 'quanda.digits', '--name=.*give a name'),
    (
      {
        'scores': 'F',
        'sign': 'supports',
        'orientation': 'rows_by_queries',
        'world': 'mislabelled',
      },
      'quanda.digits',
      'give --own=FILE instead',
    ),
  ],
)
def test_flags_that_do_not_go_together(tmp_path, flags, setting, message):
  absl_flags.FLAGS.mark_as_parsed()
  c = importlib.import_module(f'configs.{setting}').get_config('smoke')
  with flagsaver.flagsaver(**flags):
    with pytest.raises(ValueError, match=message):
      evaluate.main(c, tmp_path)


def test_worlds_tell_what_was_changed():
  c = config()
  found = {
    name: tasks.load(changed(c, changes)) for name, changes in c.worlds.items()
  }
  clean = found['clean']
  assert clean.known is None and set(found) == MODELS
  known = found['grouped'].known
  np.testing.assert_array_equal(known['labels'], clean.train['y'])
  np.testing.assert_array_equal(known['query_labels'], clean.queries['y'])
  assert set(found['grouped'].train['y']) == {0, 1}
  groups = {
    (int(a), int(b))
    for labels, part in (('labels', 'train'), ('query_labels', 'queries'))
    for a, b in zip(
      known[labels], getattr(found['grouped'], part)['y'], strict=True
    )
  }
  assert len(groups) == len({a for a, _ in groups})  # a class is in one group
  shown, known = found['shortcut'].shown, found['shortcut'].known
  patched = (shown['train'][:, :3, :3] == 1).all((1, 2))
  np.testing.assert_array_equal(patched, known['flagged'])
  assert (clean.train['y'][known['flagged']] == 0).all()
  assert (shown['queries'][:, :3, :3] == 1).all()
  np.testing.assert_array_equal(known['true'], clean.queries['y'])
  assert (found['shortcut'].queries['y'] == 0).all()
  mixed = found['mixed']
  assert mixed.known['flagged'].sum() == round(0.16 * 128)
  assert (mixed.train['y'][mixed.known['flagged']] == 0).all()
  assert (mixed.queries['y'] == 0).all() and len(mixed.queries['y']) == 24
  wrong = found['mislabelled']
  np.testing.assert_array_equal(
    wrong.known['flagged'], wrong.train['y'] != clean.train['y']
  )
  assert wrong.known['flagged'].sum() == 13


def test_an_unknown_world_is_refused():
  c = config()
  with pytest.raises(ValueError, match="unknown world 'upside'.*'shortcut'"):
    tasks.load(changed(c, {'data': {'world': 'upside'}}))
  strange = {'world': 'mixed', 'worlds': {'mixed': {'foreign': 'cats'}}}
  with pytest.raises(ValueError, match="unknown foreign images 'cats'"):
    tasks.load(changed(c, {'data': strange}))


def test_randomised_models_have_learnt_nothing():
  c = config()
  task = tasks.load(c)
  keys = jax.random.split(jax.random.key(0), 2)
  params = jax.vmap(task.recipe.init)(keys)
  runs = Run(params, jax.tree.map(
    lambda x: np.stack([x] * c.checkpoints, 1), params), None, None, keys
  )  # fmt: skip
  found = ensembles.randomised(runs, task.recipe.init)
  assert jax.tree.structure(found.checkpoints) == jax.tree.structure(
    runs.checkpoints
  )
  for before, after in zip(
    jax.tree.leaves(runs.params), jax.tree.leaves(found.params), strict=True
  ):
    assert before.shape == after.shape
    if before.std():  # biases are 0 in both
      assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.5


def test_chance_is_told_from_a_lead():
  values = np.array([0.09, 0.11, 0.10, 0.12, 0.08])
  assert claims_lib.at_chance('shortcut', values, 0.1)['holds']
  assert not claims_lib.at_chance('shortcut', values, 0.15)['holds']
  # Differences to one control share its error.
  assert claims_lib.at_chance('cleaning', values, 0.15, against=1)['holds']
