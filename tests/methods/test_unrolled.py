"""Exact unrolling against finite differences of real training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax import scoring, trees
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods import unrolled as unrolled_lib
from tda_jax.methods.unrolled import contributions, unrolled
from tda_jax.run import members_of
from tda_jax.training import fit, members
from tda_jax.training.fit import Member, Recipe, total_steps

KEYS = jax.random.split(jax.random.key(4), 3)
RATES = {'sgd': 0.1, 'adam': 0.02}


@functools.cache
def recipe(kind='sgd', batch_size=4, epochs=3, augment=None):
  # A step as a float: of an int32 optax makes float32 rates, in x64 too.
  rate = lambda total: optax.linear_schedule(RATES[kind], 0.01, total)
  schedule = lambda total: lambda step: rate(total)(jnp.asarray(step, float))

  def optimizer(total):
    if kind == 'adam':
      return optax.adam(schedule(total), eps_root=1e-4)
    return optax.sgd(schedule(total), momentum=0.9)

  init = lambda key: tiny.mlp_init((5, 4, 3), key)
  return Recipe(init, optimizer, schedule, batch_size, epochs, augment)


def noisy(key, example):
  noise = jax.random.normal(key, example['x'].shape)
  return {**example, 'x': example['x'] + 0.1 * noise}


def differences(t, made, member, step=1e-4):
  """∂measure_q/∂ log-weight of each row, by retraining in float64, [N, Q]."""
  n = rows_lib.count(t.train)
  base = np.ones(n) if member.weights is None else np.asarray(member.weights)
  change = step * np.concatenate([np.eye(n), -np.eye(n)])
  weights = base * (1 + change)
  copies = len(weights)
  subset = member.subset
  subsets = None if subset is None else np.tile(subset, (copies, 1))
  keys = jnp.broadcast_to(member.key, (copies,))
  run = members.train(
    t.problem, made, t.train, keys, subsets=subsets, weights=weights
  )
  measures = lambda p: problem_lib.measures(t.problem, p, t.queries)
  found = np.asarray(jax.jit(jax.vmap(measures))(run.params))
  return (found[:n] - found[n:]) / (2 * step)


CASES = {
  'sgd': (recipe('sgd'), Member(KEYS[0])),
  'adam': (recipe('adam'), Member(KEYS[0])),
  'subset, weights, augmentation': (
    recipe('sgd', augment=noisy),
    Member(
      KEYS[1],
      np.array([7, 2, 9, 10, 3, 0, 1]),
      np.linspace(0.5, 1.5, 11),
    ),
  ),
}


def parts_of(t, made, member, stops, **options):
  train, queries, member = jax.tree.map(
    jnp.asarray, (t.train, t.queries, member)
  )
  call = jax.jit(
    lambda: contributions(
      t.problem, made, member, train, queries, stops, **options
    )
  )
  return call()


@pytest.mark.parametrize('case', CASES)
def test_scores_are_the_derivative_of_training(case):
  # 11 or 7 rows in batches of 4: the last batch of an epoch has 3. 9 or 6 steps.
  with jax.enable_x64(True):
    made, member = CASES[case]
    t = tiny.classification(l2=0.02)
    want = differences(t, made, member)
    total = total_steps(made, 11 if member.subset is None else 7)
    parts, end = parts_of(t, made, member, jnp.array([total]))
    assert end['layer0']['w'].dtype == jnp.float64
    np.testing.assert_allclose(parts[0], want, atol=1e-6 * np.abs(want).max())
    if case == 'sgd':
      every, _ = parts_of(t, made, member, jnp.arange(1, total + 1))
      stops = np.array([2, 3, total])
      some, _ = parts_of(t, made, member, jnp.asarray(stops))
      np.testing.assert_allclose(every.sum(0), parts[0], atol=1e-12)
      np.testing.assert_allclose(
        np.cumsum(some, 0), np.cumsum(every, 0)[stops - 1], atol=1e-12
      )
      order = fit.epoch_order(
        member.key, 1, 11, 4
      )  # of the second epoch, step 4
      given = np.flatnonzero(np.abs(every[4]).max(1))
      assert sorted(np.asarray(order[1])) == given.tolist()


def test_parameters_without_a_gradient_have_no_part_in_the_scores():
  """Of a column of zeros, in Adam with a root that has no derivative at 0."""
  with jax.enable_x64(True):
    made = recipe()._replace(optimizer=lambda total: optax.adam(0.01))
    t = tiny.classification()
    for rows in (t.train, t.queries):
      rows['x'] = rows['x'] * (np.arange(5) < 4)
    member = Member(KEYS[0])
    parts, _ = parts_of(t, made, member, jnp.array([total_steps(made, 11)]))
    want = differences(t, made, member)
    np.testing.assert_allclose(parts[0], want, atol=1e-5 * np.abs(want).max())


def test_gradients_that_cancel_have_their_part_in_the_scores():
  """Adam from a gradient of 0, to which each row's is not 0."""
  with jax.enable_x64(True):
    problem = problem_lib.Problem(
      outputs=lambda p, e: p['w'] * e['x'],
      loss=lambda z, e: z.sum(),
      measure=lambda z, e: z.sum(),
      sample=lambda key, z, e: e,
      check=lambda *_: None,
    )
    rows = {'x': np.array([[1.0], [-1.0], [2.0], [-2.0]])}
    t = tiny.Tiny(problem, None, rows, {'x': np.ones((1, 1))})
    made = recipe()._replace(
      init=lambda key: {'w': jnp.zeros(1)},
      optimizer=lambda total: optax.adam(0.01, eps=1e-3),
    )
    member = Member(KEYS[0])
    parts, _ = parts_of(t, made, member, jnp.array([total_steps(made, 4)]))
    want = differences(t, made, member, step=1e-7)
    assert np.abs(want).min() > 1
    np.testing.assert_allclose(parts[0], want, rtol=1e-3)


def decoupled(batch_size=4):
  """AdamW with clipping: an update in which everything meets everything."""
  schedule = lambda total: optax.cosine_decay_schedule(0.05, total)

  def optimizer(total):
    return optax.chain(
      optax.clip_by_global_norm(0.5),
      optax.adamw(schedule(total), weight_decay=0.1, eps_root=1e-4),
    )

  init = lambda key: tiny.mlp_init((5, 4, 3), key)
  return Recipe(init, optimizer, schedule, batch_size, 3, noisy)


def one_step(t, made):
  """(state before a step, its batch, adjoints after it), one row of padding."""
  member = Member(KEYS[0], weights=jnp.linspace(0.5, 1.5, 11))
  state = fit.start(made, 11, member.key)
  train = jax.tree.map(jnp.asarray, t.train)
  for s in (0, 1):
    batch = unrolled_lib._weighted_batch(made, train, member, 11, s)
    state = fit.update(t.problem, made, 11, state, batch, None)
  numbers = unrolled_lib._split(state.optimizer)[0]
  leaves, tree = jax.tree.flatten(fit.State(state.params, numbers))
  keys = jax.random.split(KEYS[1], len(leaves))
  draw = lambda k, x: jax.random.normal(k, (4, *x.shape), x.dtype)
  adjoints = tree.unflatten(map(draw, keys, leaves))
  batch = unrolled_lib._weighted_batch(made, train, member, 11, 2)
  return state, batch, adjoints


def in_one(problem, made, n, state, batch, adjoints):
  """The step's derivative by JAX's reverse mode, through gradient and update."""
  numbers, join = unrolled_lib._split(state.optimizer)

  def forward(params, numbers, weights):
    before = fit.State(params, join(numbers))
    after = fit.update(problem, made, n, before, batch, weights)
    return fit.State(after.params, unrolled_lib._split(after.optimizer)[0])

  ones = jnp.ones_like(batch.share)
  _, pull = jax.vjp(forward, state.params, numbers, ones)
  params, numbers, weights = jax.vmap(pull)(adjoints)
  return fit.State(params, numbers), weights


@pytest.mark.slow
@pytest.mark.parametrize('wide, accuracy', [(True, 1e-12), (False, 1e-5)])
@pytest.mark.parametrize('kind', ['sgd', 'adamw'])
@pytest.mark.parametrize('derivative', ['_mixed', '_in_reverse'])
def test_a_step_back_is_the_derivative_of_the_step(
  wide, accuracy, kind, derivative
):
  """Of momentum and of AdamW, with l2, weights, augmentation and padding."""
  with jax.enable_x64(wide):
    t = tiny.classification(l2=0.02)
    made = decoupled() if kind == 'adamw' else recipe(augment=noisy)
    way = getattr(unrolled_lib, derivative)

    def both():
      state, batch, adjoints = one_step(t, made)
      step = t.problem, made, 11, state, batch
      back = jax.vmap(unrolled_lib._step_back(*step, way))
      return back(adjoints), in_one(*step, adjoints)

    got, want = jax.jit(both)()
    assert got[1].shape == (4, 4) and not got[1][:, -1].any()
    for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
      np.testing.assert_allclose(x, y, atol=accuracy * np.abs(y).max())


@jax.custom_vjp
def bent(x):
  return x


bent.defvjp(lambda x: (x, x), lambda x, g: (jnp.sin(g) * (2 + jnp.roll(x, 1)),))


@pytest.mark.slow
def test_a_gradient_that_is_none_is_differentiated_in_reverse(monkeypatch):
  """The loss has a rule whose ∇g is not symmetric, within a scan under remat."""
  with jax.enable_x64(True):
    made, member = recipe('sgd'), Member(KEYS[0])
    t = tiny.classification()
    plain = t.problem.loss
    once = jax.checkpoint(lambda x, _: (bent(x), None))
    loss = lambda o, e: plain(jax.lax.scan(once, o, None, 1)[0], e)
    t = t._replace(problem=t.problem._replace(loss=loss))
    want = differences(t, made, member)
    parts, _ = parts_of(t, made, member, jnp.array([9]))
    np.testing.assert_allclose(parts[0], want, atol=1e-6 * np.abs(want).max())
    mixed = lambda *_: unrolled_lib._mixed
    monkeypatch.setattr(unrolled_lib, '_derivative_for', mixed)
    wrong, _ = parts_of(t, made, member, jnp.array([9]))
    assert np.abs(wrong[0] - want).max() > 0.1 * np.abs(want).max()


@pytest.mark.slow
def test_blocks_of_queries_do_not_change_the_scores():
  t = tiny.classification(q=5)
  every, some = (
    parts_of(t, recipe(), Member(KEYS[0]), jnp.array([4, 9]), queries_at_once=k)
    for k in (5, 2)
  )
  assert some[0].shape == (2, 11, 5)
  scale = np.abs(every[0]).max()
  np.testing.assert_allclose(some[0], every[0], atol=1e-5 * scale)


@pytest.mark.slow
def test_memory_of_activations_is_that_of_the_queries_at_once():
  t = tiny.classification(n=64, q=32, widths=(5, 256, 3))
  init = lambda key: tiny.mlp_init((5, 256, 3), key)
  made = recipe(batch_size=64)._replace(init=init)

  def temporary(count):
    call = lambda train, queries: contributions(
      t.problem,
      made,
      Member(KEYS[0]),
      train,
      queries,
      jnp.array([3]),
      queries_at_once=count,
    )
    compiled = jax.jit(call).lower(t.train, t.queries).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = temporary(4), temporary(32)
  assert few < 0.5 * many, (few, many)


@pytest.mark.slow
def test_memory_grows_with_the_root_of_the_steps():
  t = tiny.classification(widths=(40, 64, 3))

  def temporary(epochs):
    init = lambda key: tiny.mlp_init((40, 64, 3), key)
    made = recipe(epochs=epochs)._replace(init=init)
    call = jax.jit(
      lambda train, queries: contributions(
        t.problem,
        made,
        Member(KEYS[0]),
        train,
        queries,
        jnp.array([3 * epochs]),
      )
    )
    compiled = call.lower(t.train, t.queries).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = temporary(12), temporary(1200)  # 6 and 60 states kept
  assert many < 12 * few, (few, many)


def trained(t, made, count=2):
  return members.train(t.problem, made, t.train, KEYS[:count], checkpoints=2)


@pytest.mark.slow
def test_an_ensemble_and_the_store_score_the_run_of_train(tmp_path):
  t = tiny.classification(l2=0.02)
  run = trained(t, recipe())
  method = unrolled(recipe())
  stored = scoring.score(
    method,
    t.problem,
    run,
    t.train,
    t.queries,
    tmp_path,
    name='unrolled',
    key=jax.random.key(0),
    batch_size=4,
    progress=False,
  )
  for e in range(2):
    parts, _ = parts_of(t, recipe(), Member(KEYS[e]), jnp.array([9]))
    np.testing.assert_allclose(
      stored[e], parts[0], atol=1e-5 * np.abs(stored).max()
    )
  got = method_lib.attribute(
    method_lib.ensemble(method), t.problem, run, t.train, t.queries
  )
  np.testing.assert_allclose(got, stored.mean(0), atol=1e-5)


def test_another_run_is_refused():
  t = tiny.classification(l2=0.02)
  run = trees.row(members_of(trained(t, recipe())), 0)
  attribute = lambda made, run: method_lib.attribute(
    unrolled(made), t.problem, run, t.train, t.queries
  )
  with pytest.raises(ValueError, match='does not know its keys'):
    attribute(recipe(), run._replace(keys=None))
  message = 'diverged on 4 of 4.*else give the recipe, rows'
  with pytest.raises(ValueError, match=message):
    attribute(recipe(), run._replace(keys=KEYS[1]))
  with pytest.raises(ValueError, match=message):
    attribute(recipe(batch_size=5), run)


@pytest.mark.slow
def test_scores_foresee_fixed_seed_retraining_without_a_percent_of_rows():
  t = tiny.classification(n=200, q=6, l2=0.01, widths=(5, 8, 3))
  init = lambda key: tiny.mlp_init((5, 8, 3), key)
  made = recipe(batch_size=20, epochs=4)._replace(init=init)
  rng = np.random.default_rng(0)
  weights = np.ones((41, 200), np.float32)
  for line in weights[1:]:
    line[rng.permutation(200)[:2]] = 0
  keys = jnp.broadcast_to(KEYS[0], (41,))
  run = members.train(t.problem, made, t.train, keys, weights=weights)
  found = jax.jit(
    jax.vmap(lambda p: problem_lib.measures(t.problem, p, t.queries))
  )(run.params)
  effects = np.asarray(found[:1] - found[1:])
  parts, _ = parts_of(t, made, Member(KEYS[0]), jnp.array([40]))
  foreseen = (1 - weights[1:]) @ np.asarray(parts[0])
  for q in range(6):
    assert np.corrcoef(foreseen[:, q], effects[:, q])[0, 1] > 0.98
  slope = (foreseen * effects).sum() / (foreseen**2).sum()
  assert 0.95 < slope < 1.05
