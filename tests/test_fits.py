"""What is fitted once serves for other queries and dampings, or is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import tda_jax
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.scoring import streaming
from tda_jax.storage import scores as store_lib

KEY = jax.random.key(3)
EKFAC = tda_jax.influence(tda_jax.ekfac(0.1, labels='data'))
FITTING = {
  'ekfac': EKFAC,
  'pcg': tda_jax.influence(
    tda_jax.cg(0.1, precondition=tda_jax.ekfac(0.1), tolerance=1e-4)
  ),
  'exact': tda_jax.influence(tda_jax.exact(0.1)),
  'relatif': tda_jax.relatif(tda_jax.ekfac(0.1)),
  'displaced': tda_jax.displaced_influence(tda_jax.exact(0.1)),
  'laplace': tda_jax.laplace_influence(tda_jax.ekfac(0.1), draws=4),
  'logra': tda_jax.logra(0.1, rank=(3, 2)),
  'trackstar': tda_jax.trackstar(0.1, rank=(3, 2)),
  'trak': tda_jax.trak(8, ridge=0.1),
}
# The same fit, with what only the solve reads changed.
OTHERS = {
  'ekfac': tda_jax.influence(tda_jax.ekfac(0.7, labels='data')),
  'pcg': tda_jax.influence(
    tda_jax.cg(
      0.5, precondition=tda_jax.ekfac(0.3), tolerance=1e-3, max_steps=50
    )
  ),
  'relatif': tda_jax.relatif(tda_jax.ekfac(0.7), norm='parameters'),
  'laplace': tda_jax.laplace_influence(
    tda_jax.ekfac(0.4), draws=4, temperature=0.3
  ),
  'logra': tda_jax.logra(0.4, rank=(3, 2)),
  'trackstar': tda_jax.trackstar(0.4, rank=(3, 2), mix=0.5),
  'trak': tda_jax.trak(8, ridge=0.2),
}
FIRST = ('ekfac',)


def some(names):
  slow = pytest.mark.slow
  return [n if n in FIRST else pytest.param(n, marks=slow) for n in names]


def fit(method, t, **kwargs):
  return tda_jax.fit(method, t.problem, t.params, t.train, key=KEY, **kwargs)


def attribute(method, t, **kwargs):
  return method_lib.attribute(
    method, t.problem, t.params, t.train, t.queries, key=KEY, **kwargs
  )


def near(found, want):
  np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize('name', some(FITTING))
def test_a_fit_gives_the_scores_of_the_method(name):
  t = tiny.classification()
  fitted = fit(FITTING[name], t)
  near(attribute(FITTING[name], t, fitted=fitted), attribute(FITTING[name], t))


@pytest.mark.parametrize('name', some(OTHERS))
def test_a_fit_serves_for_other_dampings(name, monkeypatch):
  t = tiny.classification()
  fitted = fit(FITTING[name], t)
  want = attribute(OTHERS[name], t)
  near(attribute(OTHERS[name], t, fitted=fitted), want)


def test_a_fit_of_an_ensemble():
  t = tiny.classification()
  members = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), t.params)
  t, method = t._replace(params=members), method_lib.ensemble(EKFAC)
  near(attribute(method, t, fitted=fit(method, t)), attribute(method, t))


def test_a_kept_fit_is_read_not_computed(tmp_path, monkeypatch):
  t = tiny.classification()
  want = fit(EKFAC, t, path=tmp_path)
  computed = []
  program = streaming.fits_lib.programs.fit
  monkeypatch.setattr(
    streaming.fits_lib.programs,
    'fit',
    lambda *args: (
      computed.append(
        isinstance(args[2].params['layer0']['w'], jax.core.Tracer)
      )
      or program(*args)
    ),
  )
  found = fit(EKFAC, t, path=tmp_path)
  monkeypatch.undo()
  assert found.about == want.about and len(computed) == 1  # for its shapes
  jax.tree.map(np.testing.assert_array_equal, found.state, want.state)


def test_a_damaged_fit_is_computed_again(tmp_path):
  t = tiny.classification()
  want = fit(EKFAC, t, path=tmp_path)
  largest = max(
    (p for p in (tmp_path / 'fit_0').rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  largest.write_bytes(largest.read_bytes()[:-9])
  found = fit(EKFAC, t, path=tmp_path)
  jax.tree.map(np.testing.assert_array_equal, found.state, want.state)


OTHER = {
  'rows': (
    'training rows',
    lambda t: {'train': {**t.train, 'x': 2 * t.train['x']}},
  ),
  'models': (
    'models',
    lambda t: {'params': jax.tree.map(lambda x: 2 * x, t.params)},
  ),
  'l2': (
    'l2 is 0.0 there and 0.5 now',
    lambda t: {'problem': t.problem._replace(l2=0.5)},
  ),
}


@pytest.mark.parametrize('what', OTHER)
def test_a_fit_of_something_else_is_refused(what, tmp_path):
  t = tiny.classification()
  fitted = fit(EKFAC, t, path=tmp_path)
  said, change = OTHER[what]
  other = t._replace(**change(t))
  with pytest.raises(
    ValueError, match=f'(?s)is of something else .*{said}.*: fit'
  ):
    attribute(EKFAC, other, fitted=fitted)
  with pytest.raises(ValueError, match=f'(?s){said}.*: give another folder'):
    fit(EKFAC, other, path=tmp_path)


def test_other_labels_are_another_fit():
  t = tiny.classification()
  sampled = tda_jax.influence(tda_jax.ekfac(0.1))
  with pytest.raises(
    ValueError, match='fit.labels is "data" there and "sampled"'
  ):
    attribute(sampled, t, fitted=fit(EKFAC, t))
  with pytest.raises(ValueError, match='key'):
    method_lib.attribute(
      EKFAC,
      t.problem,
      t.params,
      t.train,
      t.queries,
      key=1,
      fitted=fit(EKFAC, t),
    )


def test_what_fits_nothing_and_what_is_no_fit():
  t = tiny.classification()
  with pytest.raises(ValueError, match='grad_dot fits nothing that serves'):
    fit(tda_jax.grad_dot(), t)
  own = EKFAC._replace(settings=None, fits_as=None)
  with pytest.raises(ValueError, match='not known what'):
    fit(own, t)
  with pytest.raises(
    ValueError, match='a dict: give what tda_jax.fit returned'
  ):
    attribute(EKFAC, t, fitted={})


def test_a_method_made_again_is_not_compiled_again(tmp_path):
  t, traces = tiny.classification(), []

  def outputs(params, example):
    traces.append(1)
    return t.problem.outputs(params, example)

  counted = t._replace(problem=t.problem._replace(outputs=outputs))
  make = lambda damping: tda_jax.influence(
    tda_jax.ekfac(damping, labels='data')
  )
  score(counted, tmp_path / '0', make(0.1))
  attribute(make(0.1), counted)
  before = len(traces)
  score(counted, tmp_path / '1', make(0.1))
  attribute(make(0.1), counted)
  assert len(traces) == before
  attribute(tda_jax.influence(tda_jax.ekfac(0.1)), counted)  # other labels
  assert len(traces) > before


# --- blocks of queries -------------------------------------------------------


def score(t, path, method=EKFAC, **kwargs):
  return tda_jax.score(
    method, t.problem, t.params, t.train, t.queries, path, key=KEY,
    batch_size=4, progress=False, **kwargs,
  )  # fmt: skip


@pytest.mark.parametrize(
  'name', ['ekfac', pytest.param('pcg', marks=pytest.mark.slow)]
)
def test_blocks_of_queries_give_the_scores_of_all(name, tmp_path):
  t, method = tiny.classification(q=7), FITTING[name]
  want = score(t, tmp_path / 'all', method)
  found = score(t, tmp_path / 'blocks', method, queries_at_once=3)
  near(np.asarray(found), np.asarray(want))
  np.testing.assert_array_equal(
    found[0, 2:9, 1:5], np.asarray(found)[0, 2:9, 1:5]
  )
  facts = [
    json.loads((tmp_path / folder / '0' / 'facts.json').read_text())
    for folder in ('all', 'blocks')
  ]
  assert [*facts[1]['blocks']] == ['0', '1', '2']
  assert facts[1]['blocks']['2']['queries'] == 1
  for field in ('damping', 'converged'):
    np.testing.assert_allclose(facts[1][field], facts[0][field], rtol=1e-5)
  assert len(facts[1]['steps']) == len(facts[0]['steps'])


def test_blocks_of_queries_are_resumed(tmp_path, monkeypatch):
  t = tiny.classification(q=7)
  want = np.asarray(score(t, tmp_path / 'whole', queries_at_once=3))
  score(t, tmp_path / 'part', queries_at_once=3)
  for name in ('1.1', '2.2'):
    (tmp_path / 'part' / '0' / 'done' / name).unlink()
  written, write = [], store_lib.write

  def noted(store, start, block, column):
    written.append((start, column))
    write(store, start, block, column)

  monkeypatch.setattr(store_lib, 'write', noted)
  # The blocks that are there keep their size.
  found = score(t, tmp_path / 'part', queries_at_once=5)
  assert written == [(4, 1), (8, 2)]
  np.testing.assert_array_equal(np.asarray(found), want)


def test_blocks_of_queries_do_not_draw_the_same(tmp_path):
  t = tiny.classification(q=7)
  method = tda_jax.random()
  found = np.asarray(score(t, tmp_path, method, queries_at_once=3))[0]
  assert len(np.unique(found)) == found.size
  given = (method, t.problem, t.params, t.train, t.queries, 11)
  values, _ = tda_jax.top_k(*given, key=KEY, queries_at_once=3)
  assert len(np.unique(values)) == values.size


def test_a_store_says_which_block_is_damaged(tmp_path):
  store = store_lib.create(tmp_path, (5, 4), 2, {}, columns_per_block=3)
  values = np.arange(20, dtype=np.float32).reshape(5, 4)
  for start in (0, 2, 4):
    for column in (0, 1):
      part = values[start : start + 2, store_lib.span(store, column)]
      store_lib.write(store, start, part, column)
  np.testing.assert_array_equal(store_lib.read(store), values)
  np.testing.assert_array_equal(store_lib.read(store, 1, 5), values[1:5])
  (tmp_path / 'c' / '1' / '1').write_bytes(b'short')
  assert store_lib.done(store, 0).all()
  assert store_lib.done(store, 1).tolist() == [True, False, True]
  assert store_lib.done(store).tolist() == [True, False, True]
  expected = values.copy()
  expected[2:4, 3] = np.nan
  np.testing.assert_array_equal(store_lib.read(store), expected)
  with pytest.raises(ValueError, match=r'here \(2, 1\): write whole blocks'):
    store_lib.write(store, 2, values[2:4], 1)


def test_the_fit_of_a_score_is_kept_for_other_queries(tmp_path, monkeypatch):
  t = tiny.classification(q=7)
  few = t._replace(queries=rows_lib.take(t.queries, slice(0, 2)))
  score(few, tmp_path / 'few', fits=tmp_path / 'fits')
  want = np.asarray(score(t, tmp_path / 'all'))

  def keep(*args):
    raise AssertionError('fitted again')

  monkeypatch.setattr(streaming.fits_lib.checkpoints, 'keep', keep)
  found = score(t, tmp_path / 'again', fits=tmp_path / 'fits')
  near(np.asarray(found), want)
  with pytest.raises(ValueError, match='grad_dot fits nothing'):
    score(t, tmp_path / 'dot', tda_jax.grad_dot(), fits=tmp_path / 'other')


def test_a_block_has_as_many_queries_as_fit(monkeypatch):
  params = {'w': np.zeros((10, 10))}
  assert streaming._columns(params) == 2**31 // 400
  monkeypatch.setattr(streaming, 'QUERIES', 100)
  assert streaming._columns(params) == 1


def test_the_strongest_by_blocks_of_queries(tmp_path):
  t = tiny.classification(q=7)
  given = (EKFAC, t.problem, t.params, t.train, t.queries, 3)
  want = tda_jax.top_k(*given, key=KEY)
  for more in (
    {},
    {'path': tmp_path},
    {'path': tmp_path},
    {'fitted': fit(EKFAC, t)},
  ):
    found = tda_jax.top_k(*given, key=KEY, queries_at_once=3, **more)
    near(found[0], want[0])
    np.testing.assert_array_equal(found[1], want[1])


@pytest.mark.slow
def test_self_influence_fits_once(monkeypatch):
  t = tiny.classification()
  method = FITTING['displaced']
  fits, program = [], streaming.programs.fit
  monkeypatch.setattr(
    streaming.programs, 'fit', lambda *args: fits.append(1) or program(*args)
  )
  found = tda_jax.self_influence(
    method, t.problem, t.params, t.train, key=KEY, batch_size=4
  )
  assert len(fits) == 1
  everything = t._replace(queries=t.train)
  near(found, np.diagonal(attribute(method, everything)))
