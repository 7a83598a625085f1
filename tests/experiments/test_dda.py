"""The DDA experiment as people call it, and its claims by hand."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_cli import run

from experiments.dda import claims as claims_lib
from experiments.dda import (
  estimates,
  experiment,
  forms,
  measured,
  models,
  reports,
)
from experiments.dda import scores as scores_lib
from experiments.dda import worlds as worlds_lib
from experiments.dda.scores import Scores
from experiments.shared import settings, tasks
from experiments.shared.arguments import changed
from tda_jax import problem as problem_lib
from tda_jax.data import rows as rows_lib
from tda_jax.models import decoder, read_decoder

SMOKE = 'configs/dda/swaps.py:smoke'
DATA = pathlib.Path(__file__).parents[1] / 'models' / 'data'


def config(**changes):
  from configs.dda import swaps

  return changed(swaps.get_config('smoke'), changes)


@pytest.mark.slow
def test_it_writes_everything(tmp_path):
  run('dda', SMOKE, tmp_path)
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results['experiment'] == 'dda'
  found = {(row['method'], row['metric']) for row in results['rows']}
  names = {'bm25', 'base_loss', 'grad_dot_contrast', 'printed_loss_dda_1'}
  names |= {'grad_dot_contrast_dda_0.5', 'contrast_pair_contrast_denoise'}
  metrics = {'auc', 'average_precision', 'recall@50', 'auc, right_overfitted'}
  assert {(a, b) for a in names for b in metrics} <= found
  claims = {claim['claim'] for claim in results['claims']}
  assert 'as printed, without debias: right_overfitted' in claims
  assert 'denoise helps where overfitted, loss: right_overfitted' in claims
  assert (tmp_path / 'plots' / 'swaps_map.png').exists()
  page = (tmp_path / 'report.html').read_text()
  assert 'It writes' in page and 'color-mix(in srgb, var(--for)' in page
  again = run('dda', SMOKE, tmp_path)  # continues, to the same
  assert 'grad_dot_contrast' in again.stdout
  other = json.loads((tmp_path / 'results.json').read_text())
  timed = lambda of: [r for r in of['rows'] if 'seconds /' not in r['metric']]
  assert timed(other) == timed(results)


def scores(seed=0):
  rng = np.random.default_rng(seed)
  points = {
    (name, measure): rng.normal(size=(4, 12, 3))
    for name, measure in (('grad_dot', 'loss'), ('grad_dot', 'contrast'))
  }
  last = {('random', 'loss'): rng.normal(size=(12, 3))}
  return Scores(points, last, {'bm25': rng.normal(size=(12, 3))})


def test_forms_are_sums_of_points():
  made = scores()
  found = forms.of_scores(made, (0.5, 1.0))
  points = made.points['grad_dot', 'contrast']
  same = np.testing.assert_allclose
  same(found['grad_dot_contrast'], points[3])
  same(found['grad_dot_contrast_base'], points[0])
  same(found['grad_dot_contrast_denoise'], points[1:].mean(0))
  same(found['grad_dot_contrast_debias_0.5'], points[3] - 0.5 * points[0])
  both = points[1:].mean(0) - points[0]
  same(found['grad_dot_contrast_dda_1'], both)
  same(found['printed_contrast_dda_1'], -both)
  same(found['printed_contrast'], -points[3])
  standard = (points - points.mean(1, keepdims=True)) / points.std(
    1, keepdims=True
  )
  same(found['standardised_contrast_dda_1'], standard[1:].mean(0) - standard[0])
  assert {'random', 'bm25'} <= {*found}
  assert {*forms.candidates((0.5, 1.0))} <= {*found}


def test_means_are_of_bases_of_runs_of_queries():
  values = [[np.array([1.0, 3.0]), np.array([5.0])], [np.array([0.0])]]
  found = estimates.nested(values)
  assert found.value == pytest.approx(((2 + 5) / 2 + 0) / 2)
  assert found.low < found.value < found.high
  empty = [[np.array([])], *values]
  assert estimates.nested(empty).value == pytest.approx(found.value)
  alike = [[np.ones(4)] * 3] * 3
  flat = estimates.nested(alike)
  assert (flat.low, flat.high) == pytest.approx((1, 1))
  mean = estimates.average([values, alike])
  assert mean.value == pytest.approx((found.value + 1) / 2)


def filled(better):
  """What is measured of worlds in which `better` alone is right."""
  own = measured.Measured.empty()
  rng = np.random.default_rng(0)
  names = {*claims_lib.MAIN, *forms.candidates((0.25, 1.0)), 'printed_loss'}
  for name in sorted(names):
    for part in ('right', 'right_overfitted'):
      values = [[rng.uniform(0.4, 0.5, 6) for _ in range(2)] for _ in range(2)]
      if name in better:
        values = [[0.5 + x for x in of] for of in values]
      for table in (own.auc, own.planted):
        table.setdefault(name, {})[part] = values
  return own


def test_claims_are_of_what_was_measured():
  c = config(betas=(0.25, 1.0), parts={'right': {}})
  own = filled({'grad_dot_contrast_denoise', 'printed_loss_dda_1'})
  auc, default = own.chosen(c)
  assert default == 'grad_dot_contrast_denoise' and 0.9 < auc < 1
  found = claims_lib.computed(own, c, default, (3.5, 3))
  holds = {one['claim']: one['holds'] for one in found}
  assert holds['denoise above the last checkpoint, contrast']
  assert not holds['denoise above the last checkpoint, loss']
  assert holds['denoised contrast above BM25']
  assert not holds['DDA with beta 1 above BM25']
  assert not holds['debias at its best beta helps: right']
  assert holds['as printed, with debias and denoise: right']
  assert holds['denoise helps where overfitted, contrast: right_overfitted']
  assert not holds['denoise helps where overfitted, loss: right_overfitted']
  assert not holds['cost of C checkpoints and the base']
  assert not holds['the base alone at least as good as printed: right']
  helped = filled({'grad_dot_contrast_dda_0.25', 'grad_dot_loss_base'})
  assert helped.chosen(c)[1] == 'grad_dot_contrast_dda_0.25'
  found = claims_lib.computed(helped, c, 'grad_dot_contrast_dda_0.25', (1, 3))
  holds = {one['claim']: one['holds'] for one in found}
  assert holds['debias at its best beta helps: right']
  assert holds['cost of C checkpoints and the base']


def test_claims_compare_the_worlds_that_both_have():
  a, b = [[np.ones(3)] * 3] * 2, [[np.zeros(3)]] * 2
  one, other = claims_lib._common(a, b)
  assert [len(of) for of in one] == [len(of) for of in other] == [1, 1]


def test_documents_with_wrong_summaries_are_asked_first():
  pairs = np.array([0, 1, 0, 1, 0, 1])
  hits = np.array([False, True, True, True, False, True])
  index, wrong = worlds_lib._chosen(hits, pairs, 2)
  assert index.tolist() == [2, 0, 1, 3]
  assert wrong.tolist() == [True, False, True, True]


def test_nothing_is_scored_where_no_model_is_wrong():
  c, empty = config(), worlds_lib.World(*[None] * 11)

  def worlds(
    *wrong,
  ):  # of each query of a base, pairs 0 (asked) and 1 (planted)
    pairs = np.array([0, 0, 1, 1])
    each = [empty._replace(pairs=pairs, wrong=np.array(w, bool)) for w in wrong]
    return c, [[one] for one in each]

  asked, planted = worlds_lib.parted(c, worlds([0, 1, 1, 1])[1][0][0])
  assert asked.tolist() == [1] and planted.tolist() == [2, 3]
  worlds_lib.check([worlds([1, 0, 0, 0]), worlds([0, 0, 0, 1])])
  with pytest.raises(ValueError, match='of the first base .* a planted pair'):
    worlds_lib.check([worlds([1, 0, 0, 0], [1, 0, 1, 1])])
  with pytest.raises(ValueError, match='an asked pair, so .* train longer'):
    worlds_lib.check([worlds([0, 0, 1, 0], [1, 1, 1, 1])])


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'data': {'queries': 1}}, 'data.queries=1 of data.pairs=2: give at least'),
    ({'data': {'held_out': 1}}, '2 of each, above data.held_out=1: give a la'),
    ({'data': {'planted': 2}}, 'data.planted=2 of data.pairs=2: leave some'),
    ({'betas': (0.5,)}, r'betas=\(0.5,\): give 1 too'),
  ],
)
def test_settings_that_would_fail_late_are_refused_first(changes, said):
  with pytest.raises(ValueError, match=said):
    settings.check(config(**changes), 'dda')


def test_the_method_that_forms_are_of_is_asked_for(tmp_path):
  with pytest.raises(ValueError, match='method=grad_dot,grad_cos'):
    experiment.main(config(method='grad_cos'), tmp_path)
  assert not [*tmp_path.iterdir()]


def test_each_member_starts_from_its_base():
  import jax

  keys = jax.random.split(jax.random.key(3), 4)
  params = {'w': np.arange(8.0).reshape(4, 2)}
  init = worlds_lib._starting(params, keys)
  for e, key in enumerate(keys):
    drawn = init(jax.random.fold_in(key, 0))  # as training does
    np.testing.assert_array_equal(drawn['w'], params['w'][e])


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'betas': (0.0,)}, 'betas=.*each a number above 0'),
    ({'data': {'style': 'odd'}}, "data.style='odd': give one of"),
    ({'data': {'knowledge': 'all'}}, "data.knowledge='all': give one of"),
    ({'data': {'sentences': 3}}, 'data.sentences=3: give a whole number from 1'),
    ({'data': {'probability': 1.0}}, 'data.probability=1.0: give a number'),
    ({'model': {'kind': 'transformer'}}, 'a transformer reads texts'),
  ],
)  # fmt: skip
def test_bad_settings_are_one_sentence(changes, said):
  with pytest.raises(ValueError, match=said):
    settings.check(config(**changes), 'dda')


def test_other_commands_say_where_it_runs():
  with pytest.raises(ValueError, match='run experiments.dda'):
    tasks.load(config())


@pytest.fixture
def checkpoint(tmp_path):
  """A tiny Llama of random weights, with room for a report and its summary."""
  folder = tmp_path / 'llama'
  shutil.copytree(DATA / 'llama_bytes', folder)
  file = folder / 'config.json'
  sizes = json.loads(file.read_text()) | {'max_position_embeddings': 256}
  file.write_text(json.dumps(sizes))
  return folder


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 2])
def test_a_checkpoint_is_the_base(checkpoint, tmp_path, monkeypatch, rank):
  """With adapters off, or as it was; any summary counts as wrong."""
  from configs.dda import smol

  own = changed(
    smol.get_config('smoke'),
    {
      'model': {'path': str(checkpoint), 'lora': {'rank': rank}},
      'data': {'length': 150},
      'training': {'learning_rate': 0.01},
    },
  )
  settings.check(own, 'dda')
  monkeypatch.setattr(worlds_lib.swaps, 'is_wrong', lambda *_: True)
  assert worlds_lib.bases(own, tmp_path) is None
  ((world,),) = worlds_lib.finetuned(own, None, tmp_path / 'made')
  params, sizes = read_decoder.read(checkpoint)
  ids = world.train['ids'][:2]
  want = decoder.decoder(sizes)[1](params, ids)
  ours = problem_lib.bound(models.of(own).problem, world.run.frozen)
  rows = rows_lib.take(world.train, slice(2))
  of = lambda p: jax.vmap(ours.outputs, (None, 0))(p, rows)
  np.testing.assert_allclose(of(world.run.base), want, atol=2e-5)
  assert np.abs(of(world.run.params) - want).max() > 0.01
  found = scores_lib.of_world(own, world, 0, tmp_path / 'scores')
  points = found.points['grad_dot', 'loss']
  assert points.shape == (2, 16, 2)
  wrong = {n: x[:, 0] for n, x in world.queries.items()}
  for point, params in zip(
    points, (world.run.base, world.run.params), strict=True
  ):
    flat = lambda of, rows, p=params: np.stack([
      ravel_pytree(jax.grad(of, 1)(ours, p, rows_lib.take(rows, i)))[0]
      for i in range(rows_lib.count(rows))
    ])  # fmt: skip
    g = flat(problem_lib.loss_of, world.train)
    m = flat(problem_lib.measure_of, wrong)
    np.testing.assert_allclose(point, -g @ m.T / 16, rtol=2e-3, atol=1e-6)


def test_reports_are_of_the_users_file(tmp_path):
  from configs.dda import xsum

  rows = [
    {'document': f'{i}: {name} met it.', 'summary': f'{name} won {i}.'}
    for i, name in enumerate(9 * ['England', 'China', 'Wales', 'Peru'])
  ]
  file = tmp_path / 'texts.jsonl'
  file.write_text('\n'.join(map(json.dumps, rows)))
  own = xsum.get_config('smoke')
  changes = {'path': str(file), 'pairs': 1, 'train': 8, 'of_pair': 5}
  own = changed(own, {'data': {**changes, 'names': ('England, China, Wales',)}})
  made, held = (of(own, 0) for of in (reports.finetuning, reports.held_out))
  assert len(made.documents) == 8 and len(held.documents) == 2
  assert 'swapped' in made.kinds and not {*made.documents} & {*held.documents}
  assert reports.names(own) == (('England', 'China', 'Wales'),)
  triple, right = reports.names(own)[0], ' England won it, they say.'
  wrong = ' China won, and China sang.'
  of = lambda c, said: reports.corrected(c, said, right, triple)
  assert of(own, wrong) == ' England won, and England sang.'
  assert of(own, ' Nobody won.') == of(config(), wrong) == right
  with pytest.raises(ValueError, match='1 triples and data.pairs=2'):
    reports.names(changed(own, {'data': {'pairs': 2}}))
  made_here = changed(config(), {'data': {'name': 'xsum'}})
  with pytest.raises(ValueError, match='is a checkpoint: give'):
    worlds_lib.bases(made_here, tmp_path)
