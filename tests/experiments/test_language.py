"""The language experiment as people call it."""

import json

import numpy as np
import pytest
from test_cli import run

from experiments.language import claims as claims_lib
from experiments.shared import settings, tasks, texts
from experiments.shared.arguments import changed
from tda_jax.data import sequences, tokenizer

SMOKE = 'configs/language/tiny.py:smoke'


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('smoke')
  return workdir, run('language', SMOKE, workdir)


def config(**changes):
  from configs.language import tiny

  return changed(tiny.get_config('smoke'), changes)


def test_it_writes_everything(smoke):
  workdir, done = smoke
  results = json.loads((workdir / 'results.json').read_text())
  assert results['experiment'] == 'language'
  found = {(row['method'], row['metric']) for row in results['rows']}
  methods = {'grad_dot', 'ekfac', 'bm25'}
  metrics = {'lds_single', 'lds_same_run'}
  assert {(a, b) for a in methods for b in metrics} <= found
  assert ('perfect predictor', 'ceiling') in found
  of_removal = {r['method']: r for r in results['rows'] if r['metric'] == 'qld'}
  assert {*of_removal} == {'ekfac', 'bm25'}
  assert all(r['low'] <= r['value'] <= r['high'] for r in of_removal.values())
  claims = {claim['claim'] for claim in results['claims']}
  assert claims == {
    'ekfac above bm25, same run',
    'ekfac above grad_dot, halves and new seeds',
  }
  for name in ('same_run', 'halves'):
    assert (workdir / 'plots' / f'tiny_{name}.png').exists()
  assert 'lds_same_run' in done.stdout
  assert 'bm25</th>' in (workdir / 'report.html').read_text()


def test_rows_are_the_beginnings_of_documents():
  task = tasks.load(config())
  assert task.train['ids'].shape == (32, 12)
  assert task.queries['mask'].shape == (4, 12)
  found = texts.read(config().data)
  for part in ('train', 'queries'):
    rows = getattr(found, part)
    np.testing.assert_array_equal(rows['ids'], getattr(task, part)['ids'])
    after = rows['mask'][:, 1:] != 0
    read, told = rows['ids'][:, 1:], rows['targets'][:, :-1]
    np.testing.assert_array_equal(read[after], told[after])
    assert len(found.shown[part]) == len(rows['ids'])
  whole = texts.text.reviews()['x'].tolist()
  whole += texts.text.reviews('test')['x'].tolist()
  for words in found.shown['train'][:, 0]:
    assert any(text.startswith(words) for text in whole)


def test_a_short_document_ends_with_the_end():
  made = tokenizer.trained(['abab'], 260)
  rows = texts.encoded(['ab', 'abababab' * 9], made, 5)
  one = sequences.encoder(made, 5, end=texts.END)(None, 'ab', 'it').ids
  np.testing.assert_array_equal(
    rows['targets'][0], [*one[1:], *[0] * (6 - len(one))]
  )
  assert one[-1] == texts.END and rows['mask'][1].all()
  assert texts.decoded(rows, made)[0, 0] == 'ab'


def test_documents_of_a_file(tmp_path):
  path = tmp_path / 'mine.jsonl'
  lines = [json.dumps({'text': f'this is text {i % 40}'}) for i in range(60)]
  path.write_text('\n'.join(lines))
  data = changed(config(), {'data': {'name': str(path), 'train': 30}}).data
  found = texts.read(data)
  said = {*found.shown['train'][:, 0], *found.shown['queries'][:, 0]}
  assert len(said) == 34  # each once
  with pytest.raises(
    ValueError, match='40 different documents, and data.train'
  ):
    texts.read(
      changed(config(), {'data': {'name': str(path), 'train': 40}}).data
    )


def test_claims_are_of_what_was_measured():
  from tda_jax.evaluation import lds

  rng = np.random.default_rng(0)
  kept = np.array([np.sort(rng.permutation(30)[:15]) for _ in range(40)])
  good = rng.normal(size=(30, 8))
  outcomes = np.stack([good[rows].sum(0) for rows in kept])
  bad = good + 3 * rng.normal(size=good.shape)
  own = {
    name: lds.interval(scores[None], outcomes, kept, resamples=50)
    for name, scores in {'unrolled': good, 'cg': bad, 'astra': good}.items()
  }
  found = {c['claim']: c for c in claims_lib.computed({}, None, own)}
  verdicts = {name: of['holds'] for name, of in found.items()}
  assert verdicts == {
    'exact unrolling predicts the same run without some rows': True,
    'unrolled above cg, same run': True,
    'cg above astra, same run': False,
  }
  assert found['cg above astra, same run']['observed'].startswith('-')


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'data': {'name': 'none.txt'}}, "'none.txt' is no file: give 'reviews'"),
    ({'data': {'train': 5000}}, 'different documents, and data.train and'),
    ({'data': {'vocabulary': 10}}, 'vocabulary=10: give at least 258'),
    ({'model': {'heads': 3}}, 'no multiple of heads=3'),
    ({'model': {'kind': 'transformer'}}, 'a transformer reads texts'),
    ({'training': {'optimizer': 'lion'}}, "'lion': give one of 'sgd', 'adam', 'adamw'"),
  ],
)  # fmt: skip
def test_bad_settings_are_one_sentence(changes, said):
  with pytest.raises(ValueError, match=said):
    settings.check(config(**changes), 'language')
    tasks.load(config(**changes))
