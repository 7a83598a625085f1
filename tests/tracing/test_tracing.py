"""Indexing and tracing, with encoders and judges that are known."""

import sys

import numpy as np
import pytest

from tda_jax.tracing import (
  candidates,
  clusters,
  index,
  matching,
  trace,
  words,
)
from tda_jax.tracing.judges import judge as judge_lib
from tda_jax.tracing.judges import kept

PLACES = ['Paris', 'Rome', 'Oslo', 'Cairo', 'Lima']
SENTENCES = [
  f'{verb} {place} number {i}.'
  for place in PLACES
  for i, verb in enumerate(['We saw', 'They left', 'Trains reach', 'I like'])
]


def encode(texts):
  """The share of each letter of a text: near where texts are alike."""
  letters = [
    [t.lower().count(c) + 0.01 for c in 'abcdefghijklmnoprstuvwyz']
    for t in texts
  ]
  return np.array(letters) / np.linalg.norm(letters, axis=1, keepdims=True)


def made(folder, **options):
  settings = {'encoder': 'letters', 'most': 4, 'progress': False, **options}
  return index.index(folder, SENTENCES, encode, **settings)


@pytest.fixture(scope='module')
def search(tmp_path_factory):
  return candidates.search(made(tmp_path_factory.mktemp('index')), encode)


def names_place(batches):
  """Certain of sentences that have the claim's last word."""
  return [
    np.array([0.9 if claim.split()[-1].rstrip('.') in s else 0.1 for s in of])
    for claim, of in batches
  ]


JUDGE = judge_lib.of_function(names_place, 'names', batch=3)


def test_leaves_are_small_and_near_rows_share_them():
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(7, 5)) * 10
  of = rng.integers(0, 7, 300)
  rows = centres[of] + 0.01 * rng.normal(size=(300, 5))
  leaf = clusters.leaves(rows, most=60, branches=4)
  assert leaf.dtype == np.int32 and np.bincount(leaf).max() <= 60
  assert set(leaf) == set(range(leaf.max() + 1)) and leaf[0] == 0
  for number in range(leaf.max() + 1):
    assert len(set(of[leaf == number])) <= 4
  np.testing.assert_array_equal(leaf, clusters.leaves(rows, 60, 4))
  same = clusters.leaves(np.ones((10, 3)), most=4)
  assert np.bincount(same).max() <= 4 and (np.diff(same) >= 0).all()
  assert (clusters.leaves(rows, most=300) == 0).all()
  for bad, more in ((rows * np.nan, {}), (rows, {'most': 0}), (rows[:0], {})):
    with pytest.raises(ValueError, match='give'):
      clusters.leaves(bad, **more)


def test_words_and_labels():
  assert words.content('The capital of Chad is N’Djamena, not 1,200 Chad.') == [
    *('capital', 'chad', 'n’djamena', '1,200'),
  ]
  assert words.capitalised('The capital of Chad is 5 m') == {'chad', '5'}
  leaves = [['Chad has sand.', 'Mali has sand.'], ['Peru has rain.']]
  assert words.by_content(leaves) == [
    ['chad', 'mali', 'sand'],
    ['peru', 'rain'],
  ]
  both = [['a sun in Chad'], ['a sun in Peru']]
  assert words.by_content(both, cut=0.5) == [['chad'], ['peru']]
  assert words.by_content(both) == [['chad', 'sun'], ['peru', 'sun']]
  assert words.most_telling(1)([*both, ['rain rain sun']])[2] == ['rain']
  with pytest.raises(ValueError, match='cut=0'):
    words.by_content(both, cut=0)


def test_matches_are_fuzzy_and_names_come_first():
  pytest.importorskip('rapidfuzz')
  known = matching.labels(
    [['chad', 'sand'], ['sand', 'peru'], ['sand', 'n’djamena']]
  )
  match = matching.match('Sands are in Ndjamena', known)
  assert match.words == ('ndjamena', 'sands')  # the rarer of two names
  np.testing.assert_array_equal(match.hits, [[0, 0, 1], [1, 1, 1]])
  np.testing.assert_allclose(match.scores, [0, 0, 2 * np.log(3)])
  exact = matching.match('Sands are in Peru', known, fuzz=100)
  assert exact.words == ('peru',)
  np.testing.assert_allclose(exact.scores, [0, 2 * np.log(3), 0])
  assert matching.match('of the', known).hits.shape == (0, 3)
  with pytest.raises(ValueError, match='fuzz=0: give 1 to 100'):
    matching.match('a', known, fuzz=0)


def test_without_rapidfuzz_the_sentence_says_what_to_do(monkeypatch):
  monkeypatch.setitem(sys.modules, 'rapidfuzz', None)
  known = matching.labels([['chad']])
  with pytest.raises(
    ValueError, match=r'"tda_jax\[tracing\]", or give fuzz=100'
  ):
    matching.match('Chad', known)
  assert matching.match('Chad', known, fuzz=100).words == ('chad',)


def test_a_killed_index_goes_on_where_it_was(tmp_path):
  calls = []

  def dies(texts):
    if len(calls) == 3:
      raise KeyboardInterrupt
    calls.append(len(texts))
    return encode(texts)

  settings = {'encoder': 'letters', 'most': 4, 'progress': False, 'block': 5}
  with pytest.raises(KeyboardInterrupt):
    index.index(tmp_path / 'a', SENTENCES, dies, **settings)
  calls.clear()
  counted = lambda texts: calls.append(len(texts)) or encode(texts)
  got = index.index(tmp_path / 'a', SENTENCES, counted, **settings)
  assert calls == [5, 5]  # of four blocks two were there
  whole = made(tmp_path / 'b', block=5)
  np.testing.assert_array_equal(got.embeddings, whole.embeddings)
  np.testing.assert_array_equal(got.leaf, whole.leaf)
  assert got.labels == whole.labels and got.known_by == whole.known_by
  again = index.index(tmp_path / 'a', SENTENCES, dies, **settings)
  assert again.leaf.tolist() == got.leaf.tolist()
  file = tmp_path / 'a' / 'leaves.json'
  file.write_text(file.read_text().replace('0', '1', 1))
  mended = index.index(tmp_path / 'a', SENTENCES, dies, **settings)
  assert mended.leaf.tolist() == got.leaf.tolist()


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'most': 5}, 'most is 4 there and 5 now'),
    ({'encoder': 'other'}, 'encoder is "letters" there'),
    ({'sentences': SENTENCES[::-1]}, 'the documents are others now'),
    ({'sentences': [*SENTENCES, ' ']}, "sentence 20 is ' ': give texts"),
    ({'sentences': []}, 'there are no sentences'),
  ],
)
def test_another_corpus_is_refused(tmp_path, changes, said):
  made(tmp_path)
  settings = {'encoder': 'letters', 'most': 4, 'progress': False}
  given = {'sentences': SENTENCES, 'encode': encode, **settings, **changes}
  with pytest.raises(ValueError, match=said):
    index.index(tmp_path, **given)


@pytest.mark.parametrize(
  'rows, said',
  [
    (lambda texts: np.ones((1, 3)), r'an array \(1, 3\) of 20 texts'),
    (lambda texts: np.zeros((len(texts), 3)), 'zero or not finite, of text 0'),
  ],
)
def test_a_wrong_encoder_is_refused(tmp_path, rows, said):
  with pytest.raises(ValueError, match=said):
    index.index(tmp_path, SENTENCES, rows, encoder='x', progress=False)


@pytest.mark.parametrize('way', candidates.WAYS)
def test_candidates_are_each_once_and_within_the_budget(search, way):
  options = {'way': way, 'fuzz': 100}
  whole = candidates.candidates(search, 'We saw Oslo.', **options)
  assert len(set(whole.rows)) == len(whole.rows) <= 20
  if way not in ('keywords', 'inside'):
    assert len(whole.rows) == 20
  some = candidates.candidates(search, 'We saw Oslo.', budget=3, **options)
  np.testing.assert_array_equal(some.rows, whole.rows[:3])
  assert set(some.leaves) == set(search.index.leaf[some.rows])
  if way in ('embedding', 'bm25', 'fused', 'inside'):
    assert SENTENCES[some.rows[0]] == 'We saw Oslo number 0.'


def test_keywords_are_the_leaves_that_have_them(search):
  got = candidates.candidates(
    search, 'Where is Oslo?', way='keywords', fuzz=100
  )
  assert got.words == ('oslo',)
  oslo = {i for i, s in enumerate(SENTENCES) if 'Oslo' in s}
  leaves = {search.index.leaf[i] for i in oslo}
  want = {i for i in range(20) if search.index.leaf[i] in leaves}
  assert set(got.rows) == want and set(got.leaves) == leaves
  inside = candidates.candidates(
    search, 'Where is Oslo?', way='inside', fuzz=100
  )
  assert set(inside.rows) == want


def test_lists_are_taken_in_turn():
  lists = [3, 0, 1, 2], [0, 1, 2, 3], [3, 2, 0, 1]
  np.testing.assert_array_equal(candidates._in_turn(lists), [3, 0, 1, 2])


def test_a_fused_budget_has_a_third_of_each_list(search):
  claim = 'Where is Oslo?'
  of = lambda way, budget: (
    candidates.candidates(search, claim, way=way, budget=budget, fuzz=100).rows
  )
  fused = {*of('fused', 9)}
  assert {*of('embedding', 3)} <= fused and {*of('bm25', 3)} <= fused
  leaf = search.index.leaf[of('keywords', 1)[0]]
  assert any(search.index.leaf[i] == leaf for i in fused)


def test_random_leaves_are_of_the_claim_and_the_seed(search):
  some = lambda claim, seed: candidates.candidates(
    search, claim, way='random', seed=seed
  ).rows.tolist()
  assert some('a', 0) == some('a', 0) != some('b', 0) != some('b', 1)


def test_a_trace_has_its_evidence_and_its_reasons(search):
  claims = ['We saw Oslo.', 'Nothing is in Bern.']
  got = trace.trace(search, claims, JUDGE, budget=8, fuzz=100)
  oslo = {i for i, s in enumerate(SENTENCES) if 'Oslo' in s}
  assert set(got[0].supports) <= oslo and len(got[0].supports)
  assert set(got[0].supports) == oslo & set(got[0].judged)
  assert got[0].usage.calls == 3 and len(got[0].judged) == 8
  assert got[0].probabilities.max() == 0.9
  assert 'oslo' in got[0].reasons[0] and '0.900' in got[0].reasons[0]
  assert len(got[1].supports) == 0 == len(got[1].reasons)
  assert got[0].seconds[0] >= got[0].seconds[1]
  all_ = trace.trace(search, claims[:1], JUDGE, way='everything', budget=None)
  assert set(all_[0].supports) == oslo
  assert not len(trace.trace(search, claims, JUDGE, threshold=0.95)[0].supports)


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'way': 'luck'}, "way='luck': use one of keywords"),
    ({'budget': 0}, 'budget=0 sentences'),
    ({'threshold': 2}, 'threshold=2: give'),
    ({'claims': ['']}, 'the claim is empty'),
    ({'claims': 'We saw Oslo.'}, 'claims: give a list of texts'),
    ({'claims': [None]}, 'claims: give a list of texts'),
    ({'judge': judge_lib.of_function(lambda b: [[0.5]] * len(b), 'j')}, 'one probab'),
    ({'judge': judge_lib.of_function(lambda b: [[2.0] * len(s) for _, s in b], 'j')}, 'from 0 to 1'),
    ({'judge': judge_lib.of_function(lambda b: [[np.nan] * len(s) for _, s in b], 'j')}, 'from 0 to 1'),
  ],
)  # fmt: skip
def test_bad_arguments_are_one_sentence(search, changes, said):
  given = {'claims': ['We saw Oslo.'], 'judge': JUDGE, 'fuzz': 100, **changes}
  with pytest.raises(ValueError, match=said):
    trace.trace(search, **given)


def test_kept_answers_are_not_asked_for_again(search, tmp_path):
  asked = []

  def judging(batches):
    asked.extend(batches)
    if len(asked) > 4:
      raise KeyboardInterrupt
    return names_place(batches)

  claims = ['We saw Oslo.', 'We saw Rome.']
  dies = kept.kept(judge_lib.of_function(judging, 'names', 3), tmp_path)
  with pytest.raises(KeyboardInterrupt):
    trace.trace(search, claims, dies, budget=8, fuzz=100)
  done = kept.kept(JUDGE, tmp_path)
  before = JUDGE.usage().calls
  got = trace.trace(search, claims, done, budget=8, fuzz=100)
  assert JUDGE.usage().calls - before == 3  # of six batches
  want = trace.trace(search, claims, JUDGE, budget=8, fuzz=100)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_array_equal(a.supports, b.supports)
    np.testing.assert_array_equal(a.probabilities, b.probabilities)
  other = kept.kept(judge_lib.of_function(names_place, 'another', 3), tmp_path)
  trace.trace(search, claims, other, budget=8, fuzz=100)
  assert other.usage().calls == 6
