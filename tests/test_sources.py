"""Rows beyond memory: the same numbers as of arrays, whatever gives the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

import tda_jax as tda
from tda_jax import door, scoring, sources
from tda_jax.data import rows as rows_lib
from tda_jax.storage import fingerprint
from tda_jax.training import members
from tda_jax.training.fit import Recipe

T = tiny.classification()
TRAIN = jax.tree.map(np.asarray, T.train)
N = rows_lib.count(T.train)
RECIPE = Recipe(
  lambda key: tiny.mlp_init((5, 4, 3), key),
  lambda steps: optax.sgd(0.1),
  lambda steps: lambda step: 0.1,
  batch_size=4,
  epochs=2,
)


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
  monkeypatch.setattr(sources, 'IN_MEMORY', 0)
  monkeypatch.setattr(sources, 'AT_A_TIME', 100)  # a few rows


def by_array():
  take = lambda index: rows_lib.take(TRAIN, index)
  return sources.of_batches(take, N)


def by_number():
  class Rows:
    def __len__(self):
      return N

    def __getitem__(self, i):
      if not isinstance(i, int):
        raise TypeError('one row at a time')
      return {name: leaf[i] for name, leaf in TRAIN.items()}

  return Rows()


def of_pairs():
  class Pairs:
    def __len__(self):
      return N

    def __getitem__(self, i):
      return TRAIN['x'][i], TRAIN['y'][i]

  return Pairs()


def on_disk(folder):
  rows = {}
  for name, leaf in TRAIN.items():
    np.save(folder / f'{name}.npy', leaf)
    rows[name] = np.load(folder / f'{name}.npy', mmap_mode='r')
  return rows


METHODS = {
  'ekfac': tda.influence(tda.ekfac(0.1)),
  'exact': tda.influence(tda.exact(0.1)),
  'cg': tda.influence(tda.cg(0.1, precondition=tda.ekfac(0.1))),
  'astra': tda.influence(tda.astra(1.0, steps=20, batch_size=8)),
  'datainf': tda.influence(tda.datainf(0.1)),
  'grad_cos': tda.grad_cos(),
  'trak': tda.trak(4),
  'logra': tda.logra(0.1, rank=(2, 2)),
}


@pytest.mark.filterwarnings('ignore::tda_jax.door.NotConverged')
@pytest.mark.parametrize('name', METHODS)
def test_scores_are_those_of_arrays(name):
  key = jax.random.key(3)
  of = lambda train: tda.attribute(
    METHODS[name], T.problem, T.params, train, T.queries, key=key, batch_size=4
  )
  # The same batches; XLA fuses the two programs differently.
  np.testing.assert_allclose(of(by_array()), of(T.train), 1e-4, 1e-5)


@pytest.mark.parametrize('kind', ['array', 'number', 'pairs', 'disk'])
def test_rows_are_read_of_what_has_a_length_and_items(kind, tmp_path):
  given = {
    'array': by_array,
    'number': by_number,
    'pairs': of_pairs,
    'disk': lambda: on_disk(tmp_path),
  }[kind]()
  found = door.rows(given, 'train', T.problem)
  assert isinstance(found, sources.Source) and rows_lib.count(found) == N
  assert fingerprint.digest(found) == fingerprint.digest(
    door.rows(T.train, 'train', T.problem)
  )
  for index in (0, slice(1, 3), np.array([4, 0, 4])):
    jax.tree.map(
      np.testing.assert_array_equal,
      rows_lib.take(found, index),
      rows_lib.take(T.train, index),
    )


def test_every_verb_takes_a_source(tmp_path):
  method = tda.influence(tda.ekfac(0.1, labels='exact'))  # has no key
  args = lambda train: (method, T.problem, T.params, train)
  want = tda.attribute(*args(T.train), T.queries)
  stored = scoring.score(
    *args(by_array()), T.queries, tmp_path / 's', batch_size=4, progress=False
  )
  np.testing.assert_allclose(stored[0], want, 1e-4, 1e-5)
  again = scoring.score(  # of the same rows as arrays: the store goes on
    *args(T.train), T.queries, tmp_path / 's', batch_size=4, progress=False
  )
  np.testing.assert_array_equal(stored, again)
  values, rows = scoring.top_k(*args(by_array()), T.queries, 3, progress=False)
  np.testing.assert_array_equal(rows, np.argsort(-want, 0)[:3].T)
  np.testing.assert_allclose(
    scoring.self_influence(*args(by_array())),
    scoring.self_influence(*args(T.train)),
    1e-4,
    1e-5,
  )


@pytest.mark.parametrize('subsets', [None, np.array([[0, 5, 2], [1, 3, 9]])])
def test_models_are_trained_on_a_source(subsets):
  keys = jax.random.split(jax.random.key(0), 2)
  of = lambda train: (
    members.train(T.problem, RECIPE, train, keys, subsets=subsets).params
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6),
    of(by_array()),
    of(T.train),
  )


def test_the_door_names_the_row_of_a_source():
  def damaged(**changes):
    rows = {n: np.array(leaf) for n, leaf in TRAIN.items()}
    for name, (i, value) in changes.items():
      rows[name][i] = value
    return sources.of_batches(lambda index: rows_lib.take(rows, index), N)

  method = tda.grad_dot()
  for changes, words in (
    ({'x': (9, np.nan)}, "NaN or infinity in column 'x', the first is row 9"),
    ({'y': (9, 7)}, 'train, counted from row 8 on: row 1 has label 7'),
  ):
    with pytest.raises(ValueError, match=words):
      tda.attribute(method, T.problem, T.params, damaged(**changes), T.queries)


def test_rows_of_other_shapes_are_refused():
  def read(index):
    return {'x': np.zeros((len(index), 3 if index.min() > 3 else 2))}

  source = sources.of_batches(read, 9)
  with pytest.raises(ValueError, match='the rows from 4 on have columns'):
    rows_lib.take(source, np.arange(4, 8))
  with pytest.raises(ValueError, match='a source has no rows'):
    sources.of_batches(read, 0)


def test_few_rows_are_loaded(monkeypatch, tmp_path):
  monkeypatch.setattr(sources, 'IN_MEMORY', 2**26)
  for given in (by_number(), on_disk(tmp_path)):
    found = door.rows(given, 'train', T.problem)
    jax.tree.map(np.testing.assert_array_equal, found, TRAIN)
  assert door.rows(by_array(), 'train', T.problem).count == N  # as it is


def test_an_object_whose_items_are_no_rows_is_a_sentence():
  class Broken:
    def __len__(self):
      return 3

    def __getitem__(self, i):
      raise KeyError('nope')

  with pytest.raises(ValueError, match='rows 0 to 2 of the Broken cannot'):
    door.rows(Broken(), 'train', T.problem)


def test_a_dataset_of_hugging_face_is_read_by_lists_of_numbers():
  class Dataset:  # what `datasets.Dataset` has of it
    def __len__(self):
      return N

    def with_format(self, kind):
      assert kind == 'numpy'
      return self

    def __getitem__(self, index):
      assert isinstance(index, list)
      names = [f'row {i}' for i in index]
      return {**rows_lib.take(TRAIN, np.array(index)), 'text': names}

  found = door.rows(Dataset(), 'train', T.problem)
  assert fingerprint.digest(found) == fingerprint.digest(TRAIN)


def test_batches_in_order_are_read_ahead():
  asked = []

  def read(index):
    asked.append(index.tolist())
    return rows_lib.take(TRAIN, index)

  ahead = sources._Ahead(sources.of_batches(read, N))
  asked.clear()
  ahead(np.array([0, 1, 2, 3]))
  [*ahead.ahead.values()][0].result()
  assert asked == [[0, 1, 2, 3], [4, 5, 6, 7]]
  found = ahead(np.array([4, 5, 6, 7]))
  np.testing.assert_array_equal(found['x'], TRAIN['x'][4:8])
  [*ahead.ahead.values()][0].result()
  assert asked[2:] == [[8, 9, 10, 10]]
  ahead(np.array([9, 3]))  # drawn at random: what was read ahead is left
  assert asked[3:] == [[9, 3]]


def test_a_program_is_compiled_once_for_one_source():
  source, rows = by_array(), []

  @jax.jit
  def total(source):
    rows.append(source)
    stack = rows_lib.stacked(source, 4)
    return rows_lib.total(lambda b: (b.examples['x'].T * b.mask).sum(), stack)

  for _ in range(3):
    np.testing.assert_allclose(total(source), TRAIN['x'].sum(), 1e-5)
  assert len(rows) == 1


def test_the_memory_of_a_map_is_given_back(monkeypatch, tmp_path):
  monkeypatch.setattr(sources, 'LET_GO', 100)
  let_go, rows = [], on_disk(tmp_path)
  monkeypatch.setattr(sources, 'let_go', lambda one: let_go.append(one))
  source = door.rows(rows, 'train', T.problem)
  let_go.clear()
  rows_lib.take(source, np.arange(N))  # 11 rows of 24 bytes
  assert [id(one) for one in let_go] == [id(rows[name]) for name in 'xy']


def test_a_map_that_gave_its_memory_back_has_the_same_rows(tmp_path):
  np.save(tmp_path / 'a.npy', np.arange(10.0))
  for mode in ('r', 'r+', 'c'):
    mapped = np.load(tmp_path / 'a.npy', mmap_mode=mode)
    if mode != 'r':
      mapped[3] = 7
    sources.let_go(mapped[2:])
    assert mapped[3] == (3 if mode == 'r' else 7)


def test_a_read_may_use_one_buffer_and_jax():
  buffer = {n: np.zeros((N, *x.shape[1:]), x.dtype) for n, x in TRAIN.items()}

  def reused(index):
    for name, leaf in TRAIN.items():
      buffer[name][: len(index)] = leaf[index]
    return {name: leaf[: len(index)] for name, leaf in buffer.items()}

  by_jax = lambda index: jax.tree.map(lambda x: jnp.asarray(x)[index], TRAIN)
  method = tda.influence(tda.ekfac(0.1, labels='exact', batch_size=3))
  of = lambda train: tda.attribute(
    method, T.problem, T.params, train, T.queries, batch_size=3
  )
  for read in (reused, by_jax):
    found = of(sources.of_batches(read, N))
    np.testing.assert_allclose(found, of(T.train), 1e-4, 1e-5)


def test_what_a_read_raises_within_a_program_is_a_sentence():
  asked = []

  def read(index):
    asked.append(index)
    if broken and len(asked) > 6:
      raise OSError('the disk is gone')
    return rows_lib.take(TRAIN, index)

  broken = False
  source = door.rows(sources.of_batches(read, N), 'train', T.problem)
  broken = True
  with pytest.raises(ValueError, match='rows .* cannot be read .OSError'):
    tda.attribute(METHODS['datainf'], T.problem, T.params, source, T.queries)
  broken = False
  tda.attribute(METHODS['datainf'], T.problem, T.params, source, T.queries)


def test_rows_of_a_users_source_are_made_plain():
  def pairs(index):
    return TRAIN['x'][index].astype('>f8'), TRAIN['y'][index].astype('int64')

  found = door.rows(sources.of_batches(pairs, N), 'train', T.problem)
  assert fingerprint.digest(found) == fingerprint.digest(TRAIN)
  with pytest.raises(ValueError, match="train has no column 'x'"):
    wrong = lambda index: {'z': TRAIN['x'][index], 'y': TRAIN['y'][index]}
    door.rows(sources.of_batches(wrong, N), 'train', T.problem)
  for wrong in (lambda index: TRAIN, lambda index: None, lambda index: 3.0):
    with pytest.raises(ValueError, match='a source gives columns of shapes'):
      sources.of_batches(wrong, N)
  with pytest.raises(TypeError):
    sources.of_batches(pairs, 3.7)


def test_items_of_two_numbers_are_no_blocks_of_two_rows():
  class Rows:
    def __len__(self):
      return 5

    def __getitem__(self, i):
      return {'x': np.random.default_rng(i).normal(size=2), 'y': 0}

  found = door.rows(Rows(), 'train', T.problem)
  assert rows_lib.take(found, np.arange(5))['x'].shape == (5, 2)


def test_queries_of_ground_truth_may_be_a_source(tmp_path):
  queries = jax.tree.map(np.asarray, T.queries)
  count = rows_lib.count(queries)
  source = sources.of_batches(lambda i: rows_lib.take(queries, i), count)
  of = lambda train, queries, name: tda.outcomes(
    *(T.problem, RECIPE, train, queries, np.array([[0, 3, 5], [1, 2, 9]])),
    repeats=1, key=0, path=tmp_path / name, progress=False,
  )  # fmt: skip
  np.testing.assert_allclose(
    of(by_array(), source, 'a'), of(T.train, T.queries, 'b'), 1e-5, 1e-6
  )
