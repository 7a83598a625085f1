"""Members train as if alone; runs stop, resume and fail as they should."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from killed import killed

from tda_jax.problem import classification, regression
from tda_jax.storage import files
from tda_jax.training import ensembles, fit, members
from tda_jax.training.fit import Recipe, epoch_order, steps_per_epoch

KEYS = jax.random.split(jax.random.key(3), 3)


def net(params, x):
  return jax.nn.relu(x @ params['w']) @ params['v'] + params['b']


def init(key):
  values = 0.5 * jax.random.normal(key, (56,))
  w, v = values[:32].reshape(4, 8), values[32:].reshape(8, 3)
  return {'w': w, 'v': v, 'b': jnp.zeros(3)}


@functools.cache
def recipe(rate=0.1, batch_size=5, epochs=3, augment=None):
  def schedule(total):
    return optax.linear_schedule(rate, 0.0, total)

  def optimizer(total):
    return optax.sgd(schedule(total), momentum=0.9)

  return Recipe(init, optimizer, schedule, batch_size, epochs, augment)


def rows(n=18):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(n, 4)).astype(np.float32)
  return {'x': x, 'y': rng.integers(0, 3, n)}


PROBLEM = classification(net, l2=0.01)


def near(a, b, tolerance=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), a, b
  )


@jax.jit
def gradient(params, x, y, weights):
  def objective(params):
    loss = optax.softmax_cross_entropy_with_integer_labels(net(params, x), y)
    squares = sum(jnp.sum(p**2) for p in params.values())
    return jnp.mean(weights * loss) + 0.005 * squares

  return jax.grad(objective)(params)


shuffle = jax.jit(epoch_order, static_argnums=(2, 3))


def by_hand(data, key, subset, weights):
  """The same run with SGD written out, one batch after another."""
  params = init(jax.random.fold_in(key, 0))
  moments = jax.tree.map(jnp.zeros_like, params)
  n, steps = len(subset), steps_per_epoch(len(subset), 5)
  for epoch in range(3):
    shuffled = np.asarray(shuffle(key, epoch, n, 5)).reshape(-1)[:n]
    for t in range(steps):
      i = subset[shuffled[t * 5 : t * 5 + 5]]
      g = gradient(params, data['x'][i], data['y'][i], weights[i])
      moments = jax.tree.map(lambda m, g: 0.9 * m + g, moments, g)
      rate = 0.1 * (1 - (epoch * steps + t) / (3 * steps))
      params = jax.tree.map(lambda p, m, r=rate: p - r * m, params, moments)
  return params


def test_members_equal_runs_by_hand():
  # 13 rows in batches of 5: the last batch of an epoch has 3.
  data, rng = rows(), np.random.default_rng(1)
  subsets = np.stack([rng.permutation(18)[:13] for _ in KEYS])
  weights = rng.uniform(0, 2, (3, 18)).astype(np.float32)
  run = members.train(
    PROBLEM, recipe(), data, KEYS, subsets=subsets, weights=weights
  )
  for e, key in enumerate(KEYS):
    one = by_hand(data, key, subsets[e], weights[e])
    near(jax.tree.map(lambda x, e=e: x[e], run.params), one)


def test_members_equal_single_runs():
  run = members.train(PROBLEM, recipe(), rows(), KEYS)
  for e in range(3):
    one = members.train(PROBLEM, recipe(), rows(), KEYS[e : e + 1])
    near(jax.tree.map(lambda x, e=e: x[e : e + 1], run.params), one.params)
  assert not np.allclose(run.params['w'][0], run.params['w'][1])


def test_subset_is_a_run_on_those_rows():
  data, subset = rows(), np.array([7, 2, 9, 11, 3, 0])
  run = members.train(PROBLEM, recipe(), data, KEYS[:1], subsets=subset[None])
  taken = {name: column[subset] for name, column in data.items()}
  near(run.params, members.train(PROBLEM, recipe(), taken, KEYS[:1]).params)


def test_weight_zero_is_a_row_without_gradient():
  data = rows()
  weights = np.ones((1, 18), np.float32)
  weights[0, 4] = 0
  run = members.train(PROBLEM, recipe(), data, KEYS[:1], weights=weights)
  other = {'x': data['x'].copy(), 'y': data['y'].copy()}
  other['x'][4], other['y'][4] = 5.0, (data['y'][4] + 1) % 3
  again = members.train(PROBLEM, recipe(), other, KEYS[:1], weights=weights)
  near(run.params, again.params, 1e-7)
  full = members.train(PROBLEM, recipe(), data, KEYS[:1])
  assert not np.allclose(run.params['w'], full.params['w'], atol=1e-4)


def test_order_is_a_permutation_of_key_and_epoch():
  first = np.asarray(epoch_order(KEYS[0], 0, 13, 5))
  assert first.shape == (3, 5)
  assert sorted(first.reshape(-1)[:13]) == list(range(13))
  np.testing.assert_array_equal(first, epoch_order(KEYS[0], 0, 13, 5))
  assert (first != np.asarray(epoch_order(KEYS[0], 1, 13, 5))).any()
  assert (first != np.asarray(epoch_order(KEYS[1], 0, 13, 5))).any()
  assert epoch_order(KEYS[0], 0, 3, 5).shape == (1, 3)


def test_augmentation_is_fresh_and_reproducible():
  def augment(key, example):
    return {**example, 'x': example['x'] + jax.random.normal(key, (4,))}

  made = recipe(augment=augment)
  run = members.train(PROBLEM, made, rows(), KEYS)
  one = members.train(PROBLEM, made, rows(), KEYS[1:2])
  near(jax.tree.map(lambda x: x[1:2], run.params), one.params)
  plain = members.train(PROBLEM, recipe(), rows(), KEYS[1:2])
  assert not np.allclose(one.params['w'], plain.params['w'], atol=1e-3)


def test_every_step_of_an_epoch_augments_anew():
  made = recipe(augment=lambda key, e: {**e, 'x': jax.random.normal(key, (4,))})
  member = fit.Member(KEYS[0])
  index, count = fit.epoch_rows(made, rows(), member, 0)
  drawn = [
    fit.minibatch(made, rows(), member, index, count, 0, t).examples['x']
    for t in (0, 1, 1)
  ]
  assert np.abs(drawn[0] - drawn[1]).min() > 0
  np.testing.assert_array_equal(drawn[1], drawn[2])


def test_regression_without_l2_reaches_least_squares():
  x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
  target = (x @ np.array([1.0, -2, 3, 0.5])).astype(np.float32)
  problem = regression(lambda params, x: x @ params)
  made = recipe(0.02, 10, 300)._replace(init=lambda key: jnp.zeros(4))
  run = members.train(problem, made, {'x': x, 'y': target}, KEYS[:1])
  np.testing.assert_allclose(run.params[0], [1, -2, 3, 0.5], atol=1e-3)


@pytest.mark.parametrize('count', [1, 2, 5])
def test_checkpoints_are_where_they_say(count):
  run = members.train(PROBLEM, recipe(), rows(), KEYS, checkpoints=count)
  total = 3 * 4
  steps = [round(total * (c + 1) / count) for c in range(count)]
  assert run.steps.tolist() == steps
  near(jax.tree.map(lambda x: x[:, -1], run.checkpoints), run.params, 0)
  assert run.checkpoints['w'].shape == (3, count, 4, 8)
  rates = 0.1 * (1 - np.arange(total) / total)
  spans = np.split(rates, steps[:-1])
  means = [span.mean() for span in spans]
  np.testing.assert_allclose(run.learning_rates, means, 1e-5)
  plain = members.train(PROBLEM, recipe(), rows(), KEYS)
  near(run.params, plain.params, 1e-6)
  if count == 5:  # a snapshot within an epoch: step 2 of 12
    assert not np.allclose(run.checkpoints['w'][:, 0], run.params['w'])


@functools.cache
def by_adam():
  def optimizer(total):
    del total
    return optax.chain(
      optax.clip_by_global_norm(0.5),
      optax.add_decayed_weights(0.1),
      optax.adam(0.05, b2=0.9),
    )

  return recipe()._replace(optimizer=optimizer)


def test_second_moments_of_adam_are_the_means_of_squared_gradients(tmp_path):
  """v/(1 − β₂^t) of the state at each checkpoint, on disk as in memory."""
  train = lambda **options: members.train(
    PROBLEM, by_adam(), rows(), KEYS, checkpoints=2, **options
  )
  run, kept, again = train(), *[train(directory=tmp_path) for _ in range(2)]
  near(run.second_moments, kept.second_moments, 0)
  near(kept.second_moments, again.second_moments, 0)
  for e in range(2):
    state = fit.start(by_adam(), 18, KEYS[e])
    member = fit.Member(KEYS[e])
    for c, (epoch, last) in enumerate([(1, 2), (2, 4)]):
      for part in range(epoch + 1) if c == 0 else [1, 2]:
        first = 2 if c and part == 1 else 0
        state = fit.train_steps(
          PROBLEM, by_adam(), rows(), member, state, epoch=part, first=first,
          last=last if part == epoch else 4,
        )  # fmt: skip
      want = jax.tree.map(
        lambda v, c=c: v / (1 - 0.9 ** (6 * c + 6)), state.optimizer[2][0].nu
      )
      got = jax.tree.map(lambda v, c=c, e=e: v[e, c], run.second_moments)
      near(got, want, 1e-4)
  few = ensembles.members_at(run, np.array([2, 0]))
  near(few.second_moments['w'], run.second_moments['w'][[2, 0]], 0)
  plain = members.train(PROBLEM, recipe(), rows(), KEYS, checkpoints=1)
  assert plain.second_moments is None


def test_adamax_has_no_second_moments():
  """It keeps a largest gradient where Adam's state has a mean of squares."""
  start = {'w': jnp.zeros((2, 3))}
  for optimizer, has in ((optax.adamax(0.1), False), (optax.nadamw(0.1), True)):
    chained = optax.chain(optax.clip_by_global_norm(1e-3), optimizer)
    state = fit.State(start, chained.init(start))
    assert (fit.second_moments(chained, state) is not None) == has


def test_a_diverged_member_is_named(tmp_path):
  weights = np.ones((3, 18), np.float32)
  weights[1] = 1e38
  message = (
    'member 1 diverged in epoch . of 3 .* lower the learning rate.* new folder'
  )
  with pytest.raises(ValueError, match=message):
    members.train(
        PROBLEM, recipe(), rows(), KEYS, weights=weights, directory=tmp_path,
        save_seconds=0,
    )  # fmt: skip
  assert not (tmp_path / 'state' / 'complete').exists()


def test_resumes_from_a_state_on_disk(tmp_path, monkeypatch):
  train = functools.partial(
    members.train, PROBLEM, recipe(), rows(), KEYS, checkpoints=5
  )
  whole = train()
  kept, calls = members.storage.keep, []

  def dies(folder, name, step, state):
    kept(folder, name, step, state)
    calls.append(step)
    if len(calls) == 3:
      raise KeyboardInterrupt

  monkeypatch.setattr(members.storage, 'keep', dies)
  with pytest.raises(KeyboardInterrupt):
    train(directory=tmp_path, save_seconds=0)
  monkeypatch.setattr(members.storage, 'keep', kept)
  # What a kill amid saving leaves: a half folder, and a snapshot too many.
  (tmp_path / 'state' / 'step_12.partial').mkdir()
  (tmp_path / 'state' / 'snapshot_10').mkdir()
  seen = []
  real = members.train_steps

  def counted(*args, **when):
    seen.append(when['epoch'])
    return real(*args, **when)

  monkeypatch.setattr(members, 'train_steps', counted)
  again = train(directory=tmp_path)
  assert min(seen) >= 1
  near((whole.params, whole.checkpoints), (again.params, again.checkpoints), 0)
  seen.clear()
  third = train(directory=tmp_path)
  assert not seen
  near((whole.params, whole.checkpoints), (third.params, third.checkpoints), 0)


def test_parts_of_the_members_are_trained_as_the_whole(tmp_path, monkeypatch):
  train = functools.partial(
    members.train, PROBLEM, recipe(), rows(), KEYS, checkpoints=2
  )
  whole, sizes, steps = train(), [], members.train_steps

  def counted(problem, recipe, rows, stack, *args, **when):
    sizes.append(len(stack.key))
    return steps(problem, recipe, rows, stack, *args, **when)

  monkeypatch.setattr(members, 'train_steps', counted)
  names = ('part_0_of_2', 'part_1_of_2')
  folders = [tmp_path / 'state' / name for name in names]
  monkeypatch.setattr(members.storage, 'parts', lambda *_: folders)
  for trained in ([1] * 4 + [2] * 4, []):  # then all is read
    run = train(directory=tmp_path)
    near((whole.params, whole.checkpoints), (run.params, run.checkpoints))
    assert sizes == trained
    sizes.clear()
  shutil.rmtree(tmp_path / 'state')
  weights = np.ones((3, 18), np.float32)
  weights[2] = 1e38
  with pytest.raises(ValueError, match='member 2 diverged'):
    train(directory=tmp_path, weights=weights)


def test_refuses_another_runs_folder(tmp_path):
  members.train(PROBLEM, recipe(), rows(), KEYS, directory=tmp_path)
  with pytest.raises(ValueError, match='epochs is 3 there and 4 now'):
    members.train(PROBLEM, recipe(epochs=4), rows(), KEYS, directory=tmp_path)
  with pytest.raises(ValueError, match='keys is'):
    members.train(PROBLEM, recipe(), rows(), KEYS[::-1], directory=tmp_path)
  with files.lock(tmp_path / 'state'):
    with pytest.raises(ValueError, match='is in use by process'):
      members.train(PROBLEM, recipe(), rows(), KEYS, directory=tmp_path)


@pytest.mark.parametrize('name', ['step_12', 'snapshot_6', 'snapshot_12'])
def test_a_damaged_checkpoint_is_made_again(tmp_path, caplog, name):
  train = lambda: members.train(
    PROBLEM, recipe(), rows(), KEYS, checkpoints=2, directory=tmp_path
  )
  first = train()
  path = tmp_path / 'state' / name
  file = max(path.rglob('d/*'), key=lambda file: file.stat().st_size)
  data = bytearray(file.read_bytes())
  data[-3] ^= 1
  file.write_bytes(data)
  for said in (True, False):
    caplog.clear()
    again = train()
    near(
      (first.params, first.checkpoints), (again.params, again.checkpoints), 0
    )
    assert (f'{name} is ' in caplog.text) == said


BAD = [
  ({'keys': jnp.zeros((3, 2))}, 'typed keys'),
  ({'rows': {'x': np.zeros((0, 4)), 'y': np.zeros(0, int)}}, 'is empty'),
  ({'rows': rows() | {'y': np.full(18, 3)}}, 'row 0 has label 3'),
  ({'rows': rows() | {'x': np.full((18, 4), np.nan)}}, '18 rows with NaN'),
  ({'subsets': np.full((3, 4), 18)}, 'from 0 to 17'),
  ({'subsets': np.zeros((2, 4), int)}, 'each of the 3 members'),
  ({'weights': np.ones((3, 17))}, r'\[3, 18\]'),
  ({'weights': np.full((3, 18), np.nan)}, 'weights hold NaN'),
  ({'checkpoints': 13}, 'give 0 to 12'),
  ({'recipe': recipe(batch_size=0)}, 'batch_size of the recipe=0'),
]


@pytest.mark.parametrize('change, message', BAD, ids=[m for _, m in BAD])
def test_bad_input(change, message):
  given = {'recipe': recipe(), 'rows': rows(), 'keys': KEYS} | change
  with pytest.raises(ValueError, match=message):
    members.train(PROBLEM, **given)


def test_killed_training_continues_to_the_same_numbers(tmp_path):
  state = tmp_path / 'state'
  killed(
    __file__,
    't.members.train(t.PROBLEM, t.recipe(epochs=100), t.rows(), t.KEYS,'
    f' checkpoints=7, directory={str(tmp_path)!r}, save_seconds=0)',
    lambda: any(state.glob('step_*[0-9]')) and any(state.glob('snapshot_*')),
  )
  assert not (state / 'complete').exists()
  made = recipe(epochs=100)
  train = functools.partial(
    members.train, PROBLEM, made, rows(), KEYS, checkpoints=7
  )
  again, whole = train(directory=tmp_path), train()
  near((again.params, again.checkpoints), (whole.params, whole.checkpoints), 0)


def test_second_moments_of_a_model_in_bfloat16_are_finite():
  """There a β₂ of 0.999 is 1."""

  def trained(kind):
    plain = recipe()
    init = lambda key: jax.tree.map(lambda x: x.astype(kind), plain.init(key))
    rule = lambda steps: optax.adam(0.01)
    keys = jax.random.split(jax.random.key(0), 1)
    made = plain._replace(init=init, optimizer=rule)
    return members.train(PROBLEM, made, rows(), keys, checkpoints=2)

  wide, rounded = (trained(k).second_moments for k in ('float32', 'bfloat16'))
  for a, b in zip(jax.tree.leaves(wide), jax.tree.leaves(rounded), strict=True):
    assert b.dtype == np.float32 and np.isfinite(b).all()
    assert 0.5 < np.asarray(b).mean() / np.asarray(a).mean() < 2
