import functools

import jax
import numpy as np
import optax
import pytest
from killed import killed

from tda_jax.data.subsets import half_subsets
from tda_jax.evaluation import retraining
from tda_jax.problem import regression
from tda_jax.storage import scores
from tda_jax.training import members
from tda_jax.training.fit import Recipe

KEY = jax.random.key(5)
PROBLEM = regression(lambda params, x: x @ params, l2=0.1)
SUBSETS = half_subsets(0, 12, 5)


@functools.cache
def recipe(rate=0.1, epochs=4):
  def schedule(total):
    return optax.linear_schedule(rate, 0.0, total)

  def init(key):
    return jax.random.normal(key, (3,))

  def optimizer(total):
    return optax.sgd(schedule(total))

  return Recipe(init, optimizer, schedule, 4, epochs)


def rows(seed, n):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, 3)).astype(np.float32)
  return {'x': x, 'y': (x.sum(1) + rng.normal(size=n)).astype(np.float32)}


TRAIN, QUERIES = rows(0, 12), rows(1, 4)


def outcomes(path, **changes):
  given = {
    'problem': PROBLEM,
    'recipe': recipe(),
    'train': TRAIN,
    'queries': QUERIES,
    'subsets': SUBSETS,
    'repeats': 3,
    'key': KEY,
    'members_at_once': 4,
    'progress': False,
  }
  return retraining.outcomes(path=path, **(given | changes))


def test_outcomes_are_measures_of_single_runs(tmp_path):
  found = outcomes(tmp_path / 's')  # 15 models, 4 at once: the last chunk has 3
  assert found.shape == (5, 3, 4)
  for m, r in [(0, 0), (3, 1), (4, 2)]:
    key = jax.random.fold_in(jax.random.fold_in(KEY, r), m)
    run = members.train(
      PROBLEM, recipe(), TRAIN, key[None], subsets=SUBSETS[m : m + 1]
    )
    wanted = -np.abs(QUERIES['x'] @ run.params[0] - QUERIES['y'])
    np.testing.assert_allclose(found[m, r], wanted, 1e-5, 1e-5)
  assert len(np.unique(found[:, :, 0])) == 15


def test_models_at_once_do_not_matter(tmp_path):
  found = outcomes(tmp_path / 'a')
  again = outcomes(tmp_path / 'b', members_at_once=6)
  np.testing.assert_allclose(found, again, 1e-5, 1e-5)


def test_resumed_and_complete_stores(tmp_path, monkeypatch):
  whole = outcomes(tmp_path / 'whole')
  real, calls = scores.write, []

  def dies(store, start, block):
    if len(calls) == 2:
      raise KeyboardInterrupt
    calls.append(start)
    real(store, start, block)

  monkeypatch.setattr(scores, 'write', dies)
  with pytest.raises(KeyboardInterrupt):
    outcomes(tmp_path / 'cut')
  calls.clear()
  monkeypatch.setattr(scores, 'write', lambda *a: (calls.append(a), real(*a)))
  # Fewer at once: the store keeps its blocks of 4, in two parts each.
  np.testing.assert_allclose(
    outcomes(tmp_path / 'cut', members_at_once=2), whole, 1e-5, 1e-5
  )
  assert len(calls) == 2
  np.testing.assert_array_equal(outcomes(tmp_path / 'cut'), whole)
  assert len(calls) == 2


def test_hosts_share_the_blocks(tmp_path, monkeypatch):
  whole, sync = outcomes(tmp_path / 'whole'), []
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(retraining.parallel, 'barrier', lambda: sync.append(0))
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  outcomes(tmp_path / 'shared')
  done = scores.done(scores.open(tmp_path / 'shared'))
  assert done.tolist() == [False, True, False, True]
  monkeypatch.setattr(jax, 'process_index', lambda: 0)
  np.testing.assert_array_equal(outcomes(tmp_path / 'shared'), whole)
  assert len(sync) == 2 * 3  # the store is opened in turn, then all are read


@pytest.mark.parametrize(
  'changes, field',
  [
    ({'recipe': recipe(rate=0.2)}, 'learning_rate'),
    ({'key': jax.random.key(6)}, 'key'),
    ({'subsets': SUBSETS[::-1]}, 'subsets'),
    ({'train': rows(2, 12)}, 'the training rows are others'),
    ({'queries': rows(2, 4)}, 'queries'),
    ({'attributes': {'network': 'wide'}}, 'network'),
    ({'repeats': 1}, 'repeats is 3 there and 1 now'),
  ],
)
def test_a_store_of_another_run_is_refused(tmp_path, changes, field):
  outcomes(tmp_path / 's')
  with pytest.raises(ValueError, match=f'another run .*{field}'):
    outcomes(tmp_path / 's', **changes)


def test_divergence_names_the_model_and_keeps_what_is_done(tmp_path):
  train = {'x': TRAIN['x'].copy(), 'y': TRAIN['y']}
  train['x'][11] = 1e30  # only models whose subset has row 11 diverge
  subsets = np.stack([np.arange(6), np.arange(6) + 6])
  with pytest.raises(ValueError, match='subset 1, repeat 0 diverged .* lower'):
    outcomes(tmp_path / 's', train=train, subsets=subsets, members_at_once=1)
  store = scores.open(tmp_path / 's')
  assert scores.done(store).tolist() == [True] + [False] * 5


def test_bad_input(tmp_path):
  with pytest.raises(ValueError, match='queries is empty'):
    outcomes(tmp_path / 's', queries=rows(0, 0))
  with pytest.raises(ValueError, match='from 0 to 11'):
    outcomes(tmp_path / 's', subsets=SUBSETS + 6)
  assert not (tmp_path / 's').exists()


def test_leave_one_out_is_the_fit_without_the_row(tmp_path):
  """Trained to convergence on ridge regression, against the closed form."""
  made = Recipe(
    lambda key: jax.random.normal(key, (3,)),
    lambda total: optax.sgd(0.2),
    lambda total: optax.constant_schedule(0.2),
    12,
    400,
  )
  base, left = retraining.leave_one_out(
      PROBLEM, made, TRAIN, QUERIES, np.array([2, 7]), repeats=2, key=KEY, path=tmp_path / 's',
      members_at_once=3, progress=False,
  )  # fmt: skip
  assert base.shape == (2, 4) and left.shape == (2, 2, 4)

  def closed(rows):
    x, y = TRAIN['x'][rows], TRAIN['y'][rows]
    curvature = 2 * x.T @ x / 12 + 0.1 * np.eye(3)
    theta = np.linalg.solve(curvature, 2 * x.T @ y / 12)
    return -np.abs(QUERIES['x'] @ theta - QUERIES['y'])

  for r in range(2):
    np.testing.assert_allclose(base[r], closed(range(12)), atol=1e-4)
    for i, row in enumerate([2, 7]):
      wanted = closed([j for j in range(12) if j != row])
      np.testing.assert_allclose(left[i, r], wanted, atol=1e-4)


def test_reweighted_runs_are_those_of_their_keys(tmp_path):
  keys = jax.random.split(jax.random.key(7), 2)
  weights = np.ones((3, 12), np.float32)
  weights[1, 4], weights[2, :6] = 0, 2.5
  found = retraining.reweighted(
      PROBLEM, recipe(), TRAIN, QUERIES, weights, keys=keys, path=tmp_path / 's',
      members_at_once=4, progress=False,
  )  # fmt: skip
  assert found.shape == (3, 2, 4)
  for m in range(3):
    run = members.train(
      PROBLEM, recipe(), TRAIN, keys, weights=np.tile(weights[m], (2, 1))
    )
    gaps = QUERIES['x'] @ run.params[:, :, None]
    wanted = -np.abs(gaps[..., 0] - QUERIES['y'])
    np.testing.assert_allclose(found[m], wanted, 1e-5, 1e-5)
  with pytest.raises(ValueError, match='another run .*weights'):
    retraining.reweighted(
        PROBLEM, recipe(), TRAIN, QUERIES, weights[::-1], keys=keys, path=tmp_path / 's',
        members_at_once=4, progress=False,
    )  # fmt: skip


def test_leave_one_out_has_common_random_numbers(tmp_path):
  train = {'x': np.concatenate([TRAIN['x'], np.zeros((1, 3), np.float32)]),
           'y': np.append(TRAIN['y'], np.float32(0))}  # fmt: skip
  base, left = retraining.leave_one_out(
      PROBLEM, recipe(), train, QUERIES, np.array([12, 3]), repeats=2, key=KEY,
      path=tmp_path / 's', progress=False,
  )  # fmt: skip
  # Row 12 has no gradient, so that leaving it out changes nothing.
  np.testing.assert_allclose(left[0], base, 1e-6, 1e-6)
  assert np.abs(left[1] - base).max() > 1e-3
  assert np.abs(base[0] - base[1]).max() > 1e-3
  with pytest.raises(ValueError, match='rows from 0 to 12'):
    retraining.leave_one_out(
      PROBLEM,
      recipe(),
      train,
      QUERIES,
      np.array([13]),
      repeats=1,
      key=KEY,
      path=tmp_path,
    )


def test_an_ensemble_is_left_one_out_with_its_own_keys(tmp_path):
  keys = jax.random.split(jax.random.key(8), 2)
  run = members.train(PROBLEM, recipe(), TRAIN, keys, checkpoints=4)
  base, left = retraining.leave_one_out(
      PROBLEM, recipe(), TRAIN, QUERIES, np.array([2, 5]), repeats=2, key=keys,
      path=tmp_path / 's', points=run.steps, progress=False,
  )  # fmt: skip
  assert base.shape == (2, 4, 4) and left.shape == (2, 2, 4, 4)
  measures = jax.vmap(lambda p: retraining.measures(PROBLEM, p, QUERIES))
  np.testing.assert_allclose(base, measures(run.checkpoints), atol=1e-5)
  weights = np.ones((2, 12), np.float32)
  weights[:, 5] = 0
  out = members.train(
    PROBLEM, recipe(), TRAIN, keys, weights=weights, checkpoints=4
  )
  np.testing.assert_allclose(left[1], measures(out.checkpoints), atol=1e-5)
  with pytest.raises(ValueError, match='for 3 repeats: give one key'):
    retraining.leave_one_out(
      PROBLEM,
      recipe(),
      TRAIN,
      QUERIES,
      np.array([2]),
      repeats=3,
      key=keys,
      path=tmp_path / 't',
    )
  with pytest.raises(ValueError, match='rising steps from 1 to 12'):
    retraining.leave_one_out(
        PROBLEM, recipe(), TRAIN, QUERIES, np.array([2]), repeats=2, key=keys,
        path=tmp_path / 't', points=[3, 13],
    )  # fmt: skip


def test_subsets_are_functions_of_the_seed():
  subsets = half_subsets(3, 11, 20)
  assert subsets.shape == (20, round(11 / 2))
  assert all(len(set(s)) == len(s) and (np.diff(s) > 0).all() for s in subsets)
  np.testing.assert_array_equal(subsets[:5], half_subsets(3, 11, 5))
  assert (subsets != half_subsets(4, 11, 20)).any()
  assert len({tuple(s) for s in subsets}) > 10
  counts = np.bincount(half_subsets(0, 10, 2000).reshape(-1), minlength=10)
  assert abs(counts / 2000 - 0.5).max() < 0.05
  assert half_subsets(0, 10, 2, fraction=0.3).shape == (2, 3)
  with pytest.raises(ValueError, match='above 0 and at most 1'):
    half_subsets(0, 10, 2, fraction=0.01)


def test_killed_retraining_continues_to_the_same_numbers(tmp_path):
  done = tmp_path / 'cut' / 'done'
  killed(
    __file__,
    f't.outcomes({str(tmp_path / "cut")!r}, repeats=40, members_at_once=1)',
    lambda: len(list(done.glob('*'))) > 3,
  )
  before = scores.done(scores.open(tmp_path / 'cut'))
  assert 0 < before.sum() < 200
  found = outcomes(tmp_path / 'cut', repeats=40, members_at_once=1)
  whole = outcomes(tmp_path / 'whole', repeats=40, members_at_once=1)
  np.testing.assert_array_equal(found, whole)
  assert contents(tmp_path / 'cut') == contents(tmp_path / 'whole')


def contents(path):
  return {
    str(file.relative_to(path)): file.read_bytes()
    for file in path.rglob('*')
    # A file that was being written aside when its process died stays, hidden.
    if file.is_file() and not file.name.startswith('.')
  }


def test_memory_does_not_grow_with_subsets(tmp_path, monkeypatch):
  shapes = []
  real = members.train_steps

  def spy(problem, recipe, *arrays, **when):
    shapes[-1].update(np.shape(x) for x in jax.tree.leaves(arrays))
    return real(problem, recipe, *arrays, **when)

  monkeypatch.setattr(members, 'train_steps', spy)
  for m in (5, 20):
    shapes.append(set())
    subsets = half_subsets(0, 12, m)
    outcomes(tmp_path / str(m), subsets=subsets, repeats=1)
  assert shapes[0] == shapes[1]
