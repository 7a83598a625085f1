"""Judges that are computed here: a cross-encoder that is trained, and a decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tda_jax.models import cross_encoder, decoder, encoder
from tda_jax.tracing.judges import decoder as decoder_judge
from tda_jax.tracing.judges import entailment

SIZES = encoder.Sizes(20, 8, 2, 2, 12, 32)
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *'a b c d e f yes no'.split()]


def word_tokenizer(pairs=True):
  tokenizers = pytest.importorskip('tokenizers')
  vocabulary = {word: i for i, word in enumerate(WORDS)}
  model = tokenizers.models.WordLevel(vocabulary, unk_token='[UNK]')
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  if pairs:
    made.post_processor = tokenizers.processors.TemplateProcessing(
      '[CLS] $A [SEP]',
      '[CLS] $A [SEP] $B:1 [SEP]:1',
      [('[CLS]', 2), ('[SEP]', 3)],
    )
  return made


@pytest.fixture(scope='module')
def reader():
  params = encoder.encoder(SIZES)[0](jax.random.key(0))
  params = jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, params)
  params = jax.tree.map(np.asarray, params)
  return entailment.Reader(SIZES, params, word_tokenizer(), 1, 12)


def pairs(count=160, seed=0):
  """A sentence supports if it has 'yes'; claims are random letters."""
  rng = np.random.default_rng(seed)
  supports = rng.random(count) < 0.5
  letters = lambda: ' '.join(rng.choice(list('abcdef'), 3))
  made = [
    (letters(), f'{letters()} {"yes" if s else "no"} {letters()}')
    for s in supports
  ]
  return made, supports


@pytest.fixture(scope='module')
def trained(reader, tmp_path_factory):
  folder = tmp_path_factory.mktemp('judge')
  settings = {'steps': 60, 'batch_size': 16, 'learning_rate': 0.03}
  made = lambda: entailment.train(
    reader, *pairs(), directory=folder, progress=False, **settings
  )
  return made(), made


def test_at_first_a_pair_has_the_encoders_own_values(reader):
  init, apply = cross_encoder.cross_encoder(SIZES, 1)
  params = init(jax.random.key(0))
  assert set(params) == {'head', 'block_1'}
  assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(params))
  rows = cross_encoder.rows(pairs(4)[0], reader.tokenizer, 16)
  real = rows['ids'] != 0
  assert rows['segments'].max() == 1 and not rows['segments'][~real].any()
  params['head']['kernel'] = jnp.eye(8, 1)
  got = apply(params, rows['ids'], rows['segments'], reader.params)
  x = encoder.Encoder(SIZES).apply(
    {'params': reader.params}, rows['ids'], real, rows['segments']
  )
  want = [
    row[keep].mean(0)[0] for row, keep in zip(np.asarray(x), real, strict=True)
  ]
  np.testing.assert_allclose(got[:, 0], want, atol=1e-6)
  params['block_1']['up']['bias'] += 1.0
  moved = apply(params, rows['ids'], rows['segments'], reader.params)
  assert np.abs(moved - got).max() > 1e-3
  for trained in (0, 3):
    with pytest.raises(ValueError, match=f'trained={trained} of 2 blocks'):
      cross_encoder.cross_encoder(SIZES, trained)
  with pytest.raises(ValueError, match='type_vocab_size=2'):
    cross_encoder.cross_encoder(SIZES._replace(kinds=1), 1)


def test_a_judge_learns_what_supports(trained):
  held, supports = pairs(80, seed=1)
  likely = entailment.probabilities(trained[0], held)
  assert likely[supports].min() > 0.5 > likely[~supports].max()
  base = trained[0].reader.params
  assert set(trained[0].params) == {'head', 'block_1'} and 'block_0' in base


def test_padding_and_the_batch_change_nothing(trained):
  held, _ = pairs(30, seed=2)
  want = entailment.logits(trained[0], held)
  np.testing.assert_allclose(
    entailment.logits(trained[0], held, batch_size=7), want, atol=1e-5
  )
  longer = [*held, ('a ' * 12, 'b ' * 9)]
  np.testing.assert_allclose(
    entailment.logits(trained[0], longer)[:-1], want, atol=1e-5
  )


def test_a_judge_that_is_trained_again_is_read(trained):
  again = trained[1]()
  for a, b in zip(
    jax.tree.leaves(again.params),
    jax.tree.leaves(trained[0].params),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_calibration_is_that_of_the_held_out_pairs(trained):
  held, supports = pairs(60, seed=3)
  wrong = supports.copy()
  wrong[:12] = ~wrong[:12]  # a fifth of the labels
  made = entailment.calibrated(trained[0], held, wrong)
  likely = entailment.probabilities(made, held)
  np.testing.assert_allclose(likely.mean(), wrong.mean(), atol=1e-3)
  assert 0.7 < likely[supports].mean() < 0.9
  heavy = entailment.calibrated(trained[0], held, wrong, 1.0 + 9 * wrong)
  assert entailment.probabilities(heavy, held).mean() > likely.mean() + 0.1


def test_the_judge_answers_batch_by_batch(trained):
  held, _ = pairs(7, seed=4)
  judge = entailment.judge(trained[0])
  claim = held[0][0]
  sentences = [sentence for _, sentence in held]
  got = judge.probabilities([(claim, sentences[:5]), (claim, sentences[5:])])
  want = entailment.probabilities(trained[0], [(claim, s) for s in sentences])
  np.testing.assert_allclose(np.concatenate(got), want, atol=1e-6)
  assert judge.usage().calls == 7
  other = entailment.judge(trained[0]._replace(offset=1.0))
  assert other.known_by != judge.known_by


def test_a_threshold_is_the_one_of_the_best_f1():
  likely = np.array([0.9, 0.8, 0.7, 0.3, 0.3])
  supports = np.array([True, False, True, True, False])
  # F1 by how many are taken: 1/2, 2/5, 2/3 at three; ties only together: 3/4
  assert entailment.threshold(likely, supports) == pytest.approx(0.15)
  assert entailment.threshold(
    likely, supports & (likely > 0.8)
  ) == pytest.approx(0.85)
  two = np.array([True, False, True, False, False])
  assert entailment.threshold(likely, two) == pytest.approx(0.5)


def test_pairs_of_one_kind_are_refused(reader):
  made, supports = pairs(8)
  with pytest.raises(ValueError, match='8 pairs of which 0 of 8 support'):
    entailment.train(reader, made, supports & False)


@pytest.fixture(scope='module')
def language():
  sizes = decoder.Sizes(20, 8, 1, 2, 2, 12, 64)
  params = decoder.decoder(sizes)[0](jax.random.key(1))
  params = jax.tree.map(lambda x: 20 * x if x.ndim > 1 else x, params)
  return decoder_judge.Reader(sizes, params, word_tokenizer(pairs=False))


def next_token(language, text):
  ids = np.array([language.tokenizer.encode(text).ids])
  return np.asarray(
    jax.nn.log_softmax(decoder.decoder(language.sizes)[1](language.params, ids))
  )[0]


def test_yes_or_no_is_the_next_token(language):
  judge = decoder_judge.yes_or_no(
    language,
    question='{sentence} c {claim}',
    answers=('yes', 'no'),
    batch_size=2,
  )
  got = judge.probabilities([('a', ['b', 'b d', 'e'])])[0]
  for p, sentence in zip(got, ['b', 'b d', 'e'], strict=True):
    last = np.exp(next_token(language, f'{sentence} c a')[-1])
    assert p == pytest.approx(last[10] / (last[10] + last[11]), rel=1e-4)
  assert judge.usage().calls == 3 and judge.usage().tokens > 0


def test_a_gain_is_what_the_sentence_adds_to_the_claim(language):
  judge = decoder_judge.gain(
    language,
    stated='c {sentence} d {claim}',
    prior='d {claim}',
    scale=2.0,
    offset=0.3,
  )
  got = judge.probabilities([('a b', ['e f', 'a'])])[0]
  for p, sentence in zip(got, ['e f', 'a'], strict=True):
    after, before = (
      next_token(language, f'c {sentence} d a b'),
      next_token(language, 'd a b'),
    )
    ids = [WORDS.index('a'), WORDS.index('b')]
    gained = sum(
      after[-3 + i, t] - before[-3 + i, t] for i, t in enumerate(ids)
    )
    assert p == pytest.approx(1 / (1 + np.exp(-2 * gained - 0.3)), rel=1e-4)


@pytest.mark.parametrize(
  'make, said',
  [
    (lambda r: decoder_judge.yes_or_no(r, question='{claim}'), r'has no \{sentence\}'),
    (lambda r: decoder_judge.yes_or_no(r, answers=('a b', 'a c')), 'the same token'),
    (lambda r: decoder_judge.gain(r, prior='{claim} a'), 'does not end with'),
    (lambda r: decoder_judge.yes_or_no(r, answers=('yes', 'no')).probabilities([('a ' * 70, ['b'])]), 'tokens, and the model'),
  ],
)  # fmt: skip
def test_bad_questions_are_one_sentence(language, make, said):
  with pytest.raises(ValueError, match=said):
    make(language)
