"""Language modelling: formulas, contrasts, what is refused, and every method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import tda_jax as tda
from tda_jax import problem as problem_lib
from tda_jax.data import sequences
from tda_jax.models import decoder
from tda_jax.models.decoder import Sizes

LENGTH, VOCABULARY = 6, 11
SIZES = Sizes(VOCABULARY, 8, 1, 2, 1, 12, 16)
TWO = SIZES._replace(blocks=2)
PACKED = ('ids', 'positions', 'segments')
RNG = np.random.default_rng(0)
near = functools.partial(np.testing.assert_allclose, rtol=1e-4)


def rows_of(count, length=LENGTH, seed=0):
  """Rows of random tokens, of 3 to `length` positions."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, VOCABULARY, (count, length + 1)).astype(np.int32)
  sizes = rng.integers(3, length + 1, (count, 1))
  mask = (np.arange(length) < sizes).astype(np.float32)
  used = mask.astype(np.int32)
  return {'ids': ids[:, :-1] * used, 'targets': ids[:, 1:] * used, 'mask': mask}


TRAIN, QUERIES = rows_of(8), rows_of(2, seed=1)


@functools.cache
def model(sizes=SIZES, **options):
  """(problem, params); the same function for all forms of the blocks."""
  plain = sizes._replace(scanned=False)
  flat, back = ravel_pytree(decoder.decoder(plain)[0](jax.random.key(0)))
  made = back(flat + 0.5 * jax.random.normal(jax.random.key(1), flat.shape))
  params = decoder.stacked(made) if sizes.scanned else made
  return tda.language_modeling(decoder.decoder(sizes)[1], **options), params


def log_likelihoods(params, rows):
  """log p of all targets [N, T], in float64, whatever the mask."""
  logits = decoder.decoder(SIZES)[1](params, rows['ids'])
  logits = np.asarray(logits, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return np.take_along_axis(log_p, rows['targets'][..., None], -1)[..., 0]


# --- formulas ---------------------------------------------------------------


def test_losses_measures_and_terms_are_sums_over_targets():
  problem, params = model()
  each = log_likelihoods(params, TRAIN) * TRAIN['mask']
  near(problem_lib.losses(problem, params, TRAIN), -each.sum(1))
  near(problem_lib.measures(problem, params, TRAIN), each.sum(1))
  near(problem_lib.terms(problem, params, TRAIN), -each, atol=1e-7)
  one = np.eye(LENGTH)[[1, 0, 2, 1, 0, 1, 2, 0]]  # one token of each row
  asked = {**TRAIN, 'mask': one.astype(np.float32)}
  want = (log_likelihoods(params, TRAIN) * one).sum(1)
  near(problem_lib.measures(problem, params, asked), want)


def test_a_contrast_is_the_difference_of_two_continuations():
  problem, params = model()
  other = rows_of(2, seed=2)
  pairs = {n: np.stack([QUERIES[n], other[n]], 1) for n in QUERIES}
  of = lambda rows: problem_lib.measures(problem, params, rows)
  near(of(pairs), of(QUERIES) - of(other))
  method = tda.influence(tda.identity())
  scores = lambda rows: tda.attribute(method, problem, params, TRAIN, rows)
  both = {n: np.concatenate([QUERIES[n], other[n]]) for n in QUERIES}
  one, two = np.split(scores(both), 2, axis=1)
  near(scores(pairs), one - two, atol=1e-6)
  with pytest.raises(
    ValueError, match='contrasts, which have a measure and no'
  ):
    tda.attribute(method, problem, params, pairs, QUERIES)


def test_texts_become_contrasts():
  letters = lambda text: [ord(c) - 96 for c in text]
  given = ['ab', 'c'], ['d', 'ef'], ['gh', 'i']
  pairs = sequences.contrasts(*given, letters, 4, places=True)
  np.testing.assert_array_equal(
    pairs['ids'], [[[1, 2, 0, 0], [1, 2, 7, 0]], [[3, 5, 0, 0], [3, 0, 0, 0]]]
  )
  np.testing.assert_array_equal(
    pairs['targets'],
    [[[2, 4, 0, 0], [2, 7, 8, 0]], [[5, 6, 0, 0], [9, 0, 0, 0]]],
  )
  np.testing.assert_array_equal(
    pairs['mask'],
    [[[0, 1, 0, 0], [0, 1, 1, 0]], [[1, 1, 0, 0], [1, 0, 0, 0]]],
  )
  used = pairs['segments']
  np.testing.assert_array_equal(used.sum(-1), [[2, 3], [2, 1]])
  np.testing.assert_array_equal(pairs['positions'], used * np.arange(4))


def test_drawn_labels_are_the_models_and_only_where_targets_count():
  problem, params = model()
  row = jax.tree.map(lambda x: jnp.asarray(x[0]), TRAIN)
  outputs = problem.outputs(params, row)
  keys = jax.random.split(jax.random.key(0), 4000)
  drawn = jax.vmap(lambda key: problem.sample(key, outputs, row))(keys)
  kept = np.asarray(row['mask']) == 0
  assert 0 < kept.sum() < LENGTH
  assert (drawn['targets'][:, kept] == row['targets'][kept]).all()
  assert (drawn['ids'] == row['ids']).all()
  found = jax.nn.one_hot(drawn['targets'], VOCABULARY).mean(0)[~kept]
  near(found, jax.nn.softmax(outputs)[~kept], rtol=0, atol=0.04)


# --- what is refused --------------------------------------------------------


def changed(name, value, row=3, rows=TRAIN):
  column = rows[name].copy()
  column[row] = value
  return {**rows, name: column}


@pytest.mark.parametrize(
  'rows, said',
  [
    (changed('targets', 11), 'row 3 has token 11 in column .targets.*has 11 .0'),
    (changed('ids', -100), 'row 3 has token -100 in column .ids.'),
    (changed('mask', 0), 'row 3 has no target: its mask is 0 everywhere'),
    (changed('mask', 0.5), 'the mask of row 3 has 0.5: give 1 where'),
    ({**TRAIN, 'targets': TRAIN['targets'] + 0.5}, 'give whole numbers, the ids'),
    ({**TRAIN, 'mask': TRAIN['mask'][:, :4]}, "'mask' has shape .8, 4.*gives 6"),
    ({'ids': TRAIN['ids'], 'mask': TRAIN['mask']}, "no column 'targets'"),
    (rows_of(8, 17), '17 tokens, and the model has 16 positions: cut the rows'),
    (
      {**TRAIN, 'segments': np.arange(LENGTH) // 2 + 0 * TRAIN['ids']},
      'row 0 has several documents .column segments.*give inputs=',
    ),
  ],
)  # fmt: skip
def test_wrong_rows_are_refused(rows, said):
  problem, params = model()
  with pytest.raises(ValueError, match=said):
    tda.attribute(tda.grad_dot(), problem, params, rows, QUERIES)


def test_a_model_without_logits_of_tokens_is_refused():
  problem = tda.language_modeling(lambda p, ids: ids @ p)
  with pytest.raises(ValueError, match='a logit for each position and token'):
    tda.attribute(
      tda.grad_dot(), problem, jnp.ones((LENGTH, 3)), TRAIN, QUERIES
    )


def test_a_problem_without_terms_says_how_to_give_them():
  problem, params = model()
  with pytest.raises(ValueError, match='problem._replace.terms='):
    problem_lib.terms(problem._replace(terms=None), params, TRAIN)


# --- methods ----------------------------------------------------------------


def dense_scores(problem, params, rows, queries):
  """−(1/N) ∇measure · ∇loss, by whole gradients."""

  def whole(of, rows):
    each = jax.vmap(jax.grad(of), (None, 0))(params, rows)
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(each))

  loss = whole(lambda p, row: problem_lib.loss_of(problem, p, row), rows)
  measure = whole(
    lambda p, row: problem_lib.measure_of(problem, p, row), queries
  )
  return -loss @ measure.T / len(loss)


@pytest.mark.parametrize(
  'scanned', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_tied_first_order_scores_are_those_of_whole_gradients(scanned):
  problem, params = model(
    TWO._replace(tied=True, scanned=scanned), as_leaf=('embedding',)
  )
  want = dense_scores(problem, params, TRAIN, QUERIES)
  found = tda.attribute(tda.grad_dot(), problem, params, TRAIN, QUERIES)
  near(found, want, atol=1e-5)


@pytest.mark.parametrize(
  'name', ['grad_dot', 'ekfac', 'datainf', 'logra', 'trak']
)
def test_a_tied_embedding_is_refused_with_both_cures(name):
  problem, params = model(SIZES._replace(tied=True))
  said = r"leave_out=.'embedding',., so that .* or as_leaf=.'embedding',."
  with pytest.raises(ValueError, match=said):
    tda.attribute(METHODS[name], problem, params, TRAIN, QUERIES)


def packed(rows):
  """The same documents, two in a row of twice the length."""
  count = len(rows['ids'])
  places = {
    'segments': np.arange(1, count + 1)[:, None] % 2 + 1,
    'positions': np.arange(LENGTH)[None] + 0 * rows['ids'],
  }
  columns = rows | {n: x + 0 * rows['ids'] for n, x in places.items()}
  return {n: x.reshape(count // 2, -1) for n, x in columns.items()}


def wider(rows, length):
  """The rows with padding of any tokens behind them."""
  more = length - rows['ids'].shape[1]
  pad = lambda x, value: np.pad(x, ((0, 0), (0, more)), constant_values=value)
  return {n: pad(x, 0 if n == 'mask' else 5) for n, x in rows.items()}


METHODS = {
  'grad_dot': tda.grad_dot(),
  'grad_cos': tda.grad_cos(),
  'ekfac': tda.influence(tda.ekfac(0.1, labels='data')),
  'heuristic': tda.influence(tda.ekfac(labels='data')),
  'kfac': tda.influence(tda.kfac(0.1, labels='data')),
  'cg': tda.influence(tda.cg(1.0, tolerance=1e-4)),
  'cg_ekfac': tda.influence(
    tda.cg(1.0, precondition=tda.ekfac(1.0, labels='data'))
  ),
  'logra': tda.logra(0.1, rank=(16, 16)),
  'trak': tda.trak(4),
  'datainf': tda.influence(tda.datainf(0.1)),
  # In bfloat16 a damping of 1 diverges, which is refused.
  'exact': tda.influence(tda.exact(10.0)),
  'trackstar': tda.trackstar(0.1, rank=(16, 16)),
  'similarity': tda.similarity(pool='mean'),
}
# Where solutions are as near as CG's tolerance, of the largest score; else 1e-4.
LOOSE = {'cg': 1e-3, 'cg_ekfac': 3e-3}
# Each form of the blocks has its own matrices, and so other random projections: where
# the embedding is a layer too, whose rank is above 16, of trackstar as well; and there
# the last dense layer, which similarity reads, is one block's or the stack's.
DIFFERENT = {False: ('trak',), True: ('trak', 'trackstar', 'similarity')}


@pytest.mark.parametrize(
  'name',
  [
    'grad_dot',
    *(pytest.param(n, marks=pytest.mark.slow) for n in METHODS if n != 'grad_dot'),
  ],
)  # fmt: skip
def test_padding_changes_no_score(name):
  problem, params = model()
  one = tda.attribute(METHODS[name], problem, params, TRAIN, QUERIES)
  rows = wider(TRAIN, 2 * LENGTH), wider(QUERIES, 2 * LENGTH)
  found = tda.attribute(METHODS[name], problem, params, *rows)
  near(found, one, rtol=0, atol=LOOSE.get(name, 1e-4) * np.abs(one).max())


def alone(rows):
  """The rows with the places of one document each."""
  order = np.arange(rows['ids'].shape[1]) + 0 * rows['ids']
  return rows | {'segments': np.ones_like(rows['ids']), 'positions': order}


def run_of(params):
  """A run with two checkpoints, as if by Adam."""
  checkpoints = jax.tree.map(lambda x: jnp.stack([0.9 * x, x]), params)
  moments = jax.tree.map(lambda x: 1 + x**2, checkpoints)
  rates, steps = jnp.array([0.1, 0.05]), jnp.array([2, 4])
  return tda.Run(params, checkpoints, rates, steps, second_moments=moments)


# Their scores are sums over the targets of a row, with a curvature that is a sum
# over targets as well. EKFAC's eigenvalues are that by the expectation over
# labels; those of the data's labels have products of two documents. A mean over
# half as many rows is twice the curvature. Norms are left out: their blocks are
# squares of a row's gradients.
SUMS = {
  'grad_dot': lambda _: tda.grad_dot(),
  'tracin': lambda _: tda.tracin(),
  'ekfac': lambda d: tda.influence(tda.ekfac(d, labels='exact')),
  'kfac': lambda d: tda.influence(tda.kfac(d, labels='data')),
  'cg': lambda d: tda.influence(tda.cg(10 * d, tolerance=1e-6, max_steps=60)),
  'exact': lambda d: tda.influence(tda.exact(10 * d)),
}


@pytest.mark.parametrize(
  'name',
  ['grad_dot', *(pytest.param(n, marks=pytest.mark.slow) for n in [*SUMS][1:])],
)
def test_a_packed_row_scores_as_its_documents_together(name):
  left = ('*scale',)
  problem, params = model(leave_out=left)
  of_packed, _ = model(inputs=PACKED, leave_out=left)
  run = run_of(params)
  one = tda.attribute(SUMS[name](0.1), problem, run, TRAIN, QUERIES)
  rows = packed(TRAIN), alone(QUERIES)
  found = tda.attribute(SUMS[name](0.2), of_packed, run, *rows)
  # ∇loss/N is twice as large, the inverse half, but for first-order scores.
  share = 2 if name in ('grad_dot', 'tracin') else 1
  want = one.reshape(4, 2, 2).sum(1)
  near(found / share, want, rtol=0, atol=1e-5 * np.abs(want).max())


def beside_unread(rows):
  """Each document behind another, whose targets do not count, in one row."""
  count, length = rows['ids'].shape
  other = rows_of(count, seed=7)
  first = {**other, 'mask': np.zeros_like(other['mask'])}
  both = [alone(first), alone(rows)]
  both[0]['segments'] = 2 * both[0]['segments']
  return {n: np.concatenate([of[n] for of in both], 1) for n in both[0]}


MORE = {
  **METHODS,
  'tracin': tda.tracin(),
  # What is drawn depends on a position's number.
  'logra': tda.logra(0.1, rank=(16, 16), labels='data'),
  'source': tda.source(2, labels='data'),
  'source_adam': tda.source(2, labels='data', optimizer='adam'),
}


@pytest.mark.parametrize(
  'name',
  [
    'grad_dot',
    *(pytest.param(n, marks=pytest.mark.slow) for n in MORE if n != 'grad_dot'),
  ],
)  # fmt: skip
def test_a_document_scores_the_same_wherever_it_is_packed(name):
  problem, params = model(inputs=PACKED)
  run = run_of(params)
  one = tda.attribute(MORE[name], problem, run, alone(TRAIN), alone(QUERIES))
  rows = beside_unread(TRAIN), beside_unread(QUERIES)
  found = tda.attribute(MORE[name], problem, run, *rows)
  most = LOOSE.get(name, 5e-5 if name in ('logra', 'trackstar') else 1e-5)
  near(found, one, rtol=0, atol=most * np.abs(one).max())


def test_contrasts_need_two_rows_of_every_input():
  problem, params = model(inputs=PACKED)
  pairs = {n: np.stack([QUERIES[n], QUERIES[n]], 1) for n in QUERIES}
  places = {n: alone(QUERIES)[n] for n in ('segments', 'positions')}
  said = (
    "queries: column 'ids' has two rows .* column 'positions' has .6.: give"
  )
  with pytest.raises(ValueError, match=said):
    rows = alone(TRAIN), pairs | places
    tda.attribute(tda.grad_dot(), problem, params, *rows)


def test_similarity_to_a_contrast_is_refused():
  problem, params = model()
  pairs = {n: np.stack([QUERIES[n], QUERIES[n]], 1) for n in QUERIES}
  with pytest.raises(ValueError, match='the queries are contrasts, two rows'):
    tda.attribute(METHODS['similarity'], problem, params, TRAIN, pairs)
  with pytest.raises(ValueError, match='^train: rows .N, 2, T. are contrasts'):
    tda.attribute(tda.grad_dot(), problem, params, pairs, QUERIES)


# Products in bfloat16 leave CG a residual.
@pytest.mark.filterwarnings('ignore::tda_jax.door.NotConverged')
@pytest.mark.slow
@pytest.mark.parametrize('name', MORE)
@pytest.mark.parametrize('tied', [False, True])
def test_every_form_of_a_model_has_the_same_scores(name, tied):
  scores = {}
  for scanned, remat, dtype in (
    (False, False, 'float32'),
    (True, True, 'float32'),
    (False, False, 'bfloat16'),
    (True, False, 'bfloat16'),
  ):
    form = {'scanned': scanned, 'remat': remat, 'dtype': dtype, 'tied': tied}
    leaf = {'as_leaf': ('embedding',)} if tied else {}
    problem, params = model(TWO._replace(**form), **leaf)
    if dtype == 'bfloat16':
      params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    scores[dtype, scanned] = tda.attribute(
      MORE[name], problem, run_of(params), TRAIN, QUERIES
    )
  one = scores['float32', False]
  if name in DIFFERENT[tied]:
    return
  most = LOOSE.get(name, 1e-4) * np.abs(one).max()
  near(scores['float32', True], one, rtol=0, atol=most)
  for scanned in (False, True):
    rounded = scores['bfloat16', scanned]
    assert np.corrcoef(rounded.ravel(), one.ravel())[0, 1] >= 0.99


def test_a_stack_has_the_heuristic_damping_of_each_of_its_blocks():
  found = {}
  for scanned in (False, True):
    problem, params = model(TWO._replace(scanned=scanned))
    method = tda.influence(tda.diagonal(labels='data'))
    found[scanned] = tda.attribute(method, problem, params, TRAIN, QUERIES)
  near(found[True], found[False], atol=1e-5 * np.abs(found[False]).max())


def test_a_wide_head_has_a_diagonal_factor(monkeypatch):
  from tda_jax.curvature import ekfac as blocks_lib
  from tda_jax.data import rows as rows_lib

  monkeypatch.setattr(blocks_lib, 'WIDE', VOCABULARY - 1)
  problem, params = model()
  stack, key = rows_lib.stacked(TRAIN, 8), jax.random.key(0)
  blocks = blocks_lib.fit(problem, params, stack, key, labels='data')
  head = blocks['head']
  assert head.outputs is None and head.inputs.shape == (8, 8)

  def gradient(row):
    loss = lambda p: problem_lib.loss_of(problem, p, row)
    return jax.grad(loss)(params)['head']

  each = jax.vmap(gradient)(TRAIN)
  near(head.eigenvalues, ((head.inputs.T @ each) ** 2).mean(0), atol=1e-6)
