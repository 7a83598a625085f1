import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax import scoring
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import descent, exact
from tda_jax.methods import baselines, gradients, influence
from tda_jax.methods import method as method_lib
from tda_jax.run import Run
from tda_jax.storage import checkpoints
from tda_jax.storage import scores as store_lib

KEY = jax.random.key(0)


def runs(t):
  members = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), t.params)
  return Run(members, None, None, None)


def score(t, path, method=None, **kwargs):
  kwargs = {'batch_size': 4, 'name': 'exact', 'progress': False, **kwargs}
  method = method or influence.influence(exact.exact(0.1))
  return scoring.score(
    method, t.problem, runs(t), t.train, t.queries, path, key=KEY, **kwargs
  )


def test_stores_each_member_and_says_how_it_was_solved(tmp_path):
  t = tiny.classification()
  got = score(t, tmp_path)
  for e in range(2):
    params = jax.tree.map(lambda x, e=e: x[e], runs(t).params)
    want = method_lib.attribute(
        influence.influence(exact.exact(0.1)),
        t.problem, params, t.train, t.queries,
    )  # fmt: skip
    np.testing.assert_allclose(got[e], want, atol=1e-6)
    np.testing.assert_array_equal(
      store_lib.read(store_lib.open(tmp_path / str(e))), got[e]
    )
  facts = json.loads((tmp_path / '1' / 'facts.json').read_text())
  assert facts['damping'] == pytest.approx(0.1)
  assert facts['residual'][-1] < 1e-4


def test_each_member_is_scored_with_a_key_of_its_own(tmp_path):
  """Equal members differ only by what a method draws."""
  t = tiny.classification()
  same = jax.tree.map(lambda x: jnp.stack([x, x, x]), t.params)
  got = scoring.score(
    baselines.random(), t.problem, Run(same, None, None, None), t.train,
    t.queries, tmp_path, name='random', key=KEY, progress=False,
  )  # fmt: skip
  for e in range(3):
    want = method_lib.attribute(
      baselines.random(), t.problem, t.params, t.train, t.queries,
      key=jax.random.fold_in(KEY, e),
    )  # fmt: skip
    np.testing.assert_array_equal(got[e], want)
  assert np.abs(got[0] - got[1]).max() > 1 < np.abs(got[1] - got[2]).max()


def test_resumes_the_missing_blocks_only(tmp_path, monkeypatch):
  t = tiny.classification()
  want = score(t, tmp_path / 'whole')
  score(t, tmp_path / 'part')
  (tmp_path / 'part' / '1' / 'done' / '2').unlink()
  written = []
  write = store_lib.write
  monkeypatch.setattr(
    store_lib,
    'write',
    lambda store, start, *more: (
      written.append(start) or write(store, start, *more)
    ),
  )
  got = score(t, tmp_path / 'part')
  assert written == [8]
  np.testing.assert_array_equal(got, want)


def test_a_store_says_the_unit_of_its_method(tmp_path):
  t = tiny.classification()
  methods = {'cos': gradients.grad_cos(), 'dot': gradients.grad_dot()}
  for name, method in methods.items():
    score(t, tmp_path / name, method)
  about = lambda name: json.loads(
    (tmp_path / name / '0' / 'zarr.json').read_text()
  )['attributes']
  assert about('cos')['unit'] == 'none'
  assert about('dot')['unit'] == 'measure, removal of one row'


def test_refuses_the_store_of_another_run(tmp_path):
  t = tiny.classification()
  score(t, tmp_path, attributes={'damping': 0.1})
  with pytest.raises(ValueError, match='damping is 0.1 there and 0.2 now'):
    score(t, tmp_path, attributes={'damping': 0.2})


def test_a_diverging_solver_leaves_no_scores(tmp_path):
  t = tiny.classification()
  bad = influence.influence(descent.astra(0.01, step_size=100.0))
  with pytest.raises(ValueError, match='astra diverged on .* lower step_size'):
    score(t, tmp_path, bad, name='astra')
  assert np.isnan(store_lib.read(store_lib.open(tmp_path / '0'))).all()


@pytest.mark.parametrize('size', [3, 11])
def test_top_k_is_the_top_of_all_scores(size):
  t = tiny.classification()
  method = gradients.grad_dot()
  run = Run(t.params, None, None, None)
  values, rows = scoring.top_k(
    method,
    t.problem,
    run,
    t.train,
    t.queries,
    3,
    name='grad_dot',
    key=KEY,
    batch_size=size,
  )
  scores = method_lib.attribute(method, t.problem, t.params, t.train, t.queries)
  want = np.argsort(-scores, 0)[:3].T
  np.testing.assert_array_equal(rows, want)
  np.testing.assert_allclose(
    values, np.take_along_axis(scores.T, want, 1), atol=1e-6
  )
  with pytest.raises(ValueError, match='k=12 of 11 training rows'):
    scoring.top_k(
      method, t.problem, run, t.train, t.queries, 12, name='m', key=KEY
    )


def test_top_k_of_another_method_is_refused(tmp_path):
  t = tiny.classification()
  run = Run(t.params, None, None, None)
  args = (t.problem, run, t.train, t.queries, 3)
  scoring.top_k(
    gradients.grad_dot(), *args, name='grad_dot', key=KEY, path=tmp_path
  )
  with pytest.raises(ValueError, match='method is .*grad_dot'):
    scoring.top_k(
      gradients.grad_cos(), *args, name='grad_cos', key=KEY, path=tmp_path
    )


def test_an_ensemble_is_not_scored_member_by_member(tmp_path):
  t = tiny.classification()
  runs = Run(jax.tree.map(lambda x: x[None], t.params), None, None, None)
  with pytest.raises(ValueError, match='grad_dot is an ensemble'):
    scoring.score(
        method_lib.ensemble(gradients.grad_dot()), t.problem, runs, t.train,
        t.queries, tmp_path, name='grad_dot', key=KEY,
    )  # fmt: skip


def test_top_k_continues_where_it_was_killed(tmp_path, monkeypatch):
  t = tiny.classification()
  run = Run(t.params, None, None, None)

  def top(method, path):
    return scoring.top_k(
        method, t.problem, run, t.train, t.queries, 3, name='grad_dot', key=KEY, path=path,
        batch_size=4, save_seconds=0.0,
    )  # fmt: skip

  method = gradients.grad_dot()
  want = top(method, tmp_path / 'whole')
  batches = rows_lib.batches

  def killed(train, size, *span):
    yield next(batches(train, size, *span))
    raise KeyboardInterrupt

  monkeypatch.setattr(rows_lib, 'batches', killed)
  with pytest.raises(KeyboardInterrupt):
    top(method, tmp_path / 'part')
  starts = []
  monkeypatch.setattr(
    rows_lib,
    'batches',
    lambda train, size, *span: (
      starts.append(span) or batches(train, size, *span)
    ),
  )
  got = top(method, tmp_path / 'part')
  assert starts == [(4, 11)]
  (tmp_path / 'whole' / 'top_99.partial').mkdir()
  top(method, tmp_path / 'whole')
  other = t._replace(params=jax.tree.map(lambda x: 2 * x, t.params))
  run = Run(other.params, None, None, None)
  with pytest.raises(ValueError, match='the models are others now'):
    top(method, tmp_path / 'whole')
  for a, b in zip(got, want, strict=True):
    np.testing.assert_array_equal(a, b)


def test_parts_of_the_rows_have_the_strongest_of_all(tmp_path, monkeypatch):
  t = tiny.classification()
  train = jax.tree.map(lambda x: np.concatenate([x] * 3), t.train)  # ties
  given = (gradients.grad_dot(), t.problem, t.params, train, t.queries, 5)
  want = scoring.top_k(*given, batch_size=4)
  folders = [tmp_path / f'part_{part}_of_3' for part in range(3)]
  monkeypatch.setattr(checkpoints, 'parts', lambda *_: folders)
  for _ in range(2):
    values, rows = scoring.top_k(*given, batch_size=4, path=tmp_path)
    np.testing.assert_allclose(values, want[0], 1e-6)
    np.testing.assert_array_equal(rows, want[1])
    tops = [[path.name for path in folder.iterdir()] for folder in folders]
    assert tops == [['top_11'], ['top_22'], ['top_33']]


def test_labels_that_do_not_fit_are_refused(tmp_path):
  t = tiny.classification()
  bad = t._replace(queries={**t.queries, 'y': t.queries['y'] + 7})
  with pytest.raises(ValueError, match='the model has 3 classes'):
    score(bad, tmp_path)


def test_a_store_of_other_models_is_refused(tmp_path):
  t = tiny.classification()
  score(t, tmp_path)
  other = t._replace(params=jax.tree.map(lambda x: 2 * x, t.params))
  with pytest.raises(ValueError, match='the models are others now'):
    score(other, tmp_path)


def test_a_kill_before_the_facts_were_written_is_mended(tmp_path):
  t = tiny.classification()
  want = score(t, tmp_path)
  facts, chunk = tmp_path / '0' / 'facts.json', tmp_path / '0' / 'c/0/0'
  for damage in (facts.unlink, lambda: facts.write_text('{"damping"')):
    damage()
    made = chunk.stat().st_mtime_ns
    np.testing.assert_array_equal(score(t, tmp_path), want)
    # Else the seconds of scoring would be those of nothing.
    assert json.loads(facts.read_text()) and chunk.stat().st_mtime_ns > made


def test_what_is_told_of_another_store_is_not_believed(tmp_path):
  t = tiny.classification()
  want = score(t, tmp_path)
  mine, other = (tmp_path / str(e) / 'facts.json' for e in (0, 1))
  told = json.loads(mine.read_text())
  mine.write_bytes(other.read_bytes())
  np.testing.assert_array_equal(score(t, tmp_path), want)
  assert json.loads(mine.read_text())['store'] == told['store']


def test_a_path_with_dots_is_the_same_place(tmp_path):
  t = tiny.classification()
  (tmp_path / 'a').mkdir()
  want = score(t, tmp_path / 'a' / '..' / 's')
  np.testing.assert_array_equal(score(t, tmp_path / 's'), want)


def test_the_folder_that_a_refusal_names_holds_all_members(tmp_path):
  t = tiny.classification()
  score(t, tmp_path / 's')
  with pytest.raises(ValueError, match=f'score store {tmp_path / "s"} is of'):
    score(t, tmp_path / 's', gradients.grad_cos())
