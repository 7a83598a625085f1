"""SOURCE against dense matrix functions, influence and exact unrolling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import tiny
from jax.flatten_util import ravel_pytree

from tda_jax import problem as problem_lib
from tda_jax import trees
from tda_jax.curvature import ekfac
from tda_jax.data import rows as rows_lib
from tda_jax.inverses import descent, exact
from tda_jax.layers import find as layers_lib
from tda_jax.methods import influence
from tda_jax.methods import method as method_lib
from tda_jax.methods.source import response, source
from tda_jax.methods.unrolled import unrolled
from tda_jax.run import members_of
from tda_jax.training import members
from tda_jax.training.fit import Recipe

KEY = jax.random.key(2)


def attribute(method, t, run, **kwargs):
  return method_lib.attribute(
    method, t.problem, run, t.train, t.queries, key=KEY, **kwargs
  )


def dense(t, blocks):
  return tiny.flat(
    _dense(t.problem, t.params, t.train, blocks, tiny.basis(t.params))
  )


@functools.partial(jax.jit, static_argnums=0)
def _dense(problem, params, train, blocks, v):
  of = lambda _, values: values
  return ekfac.apply(blocks, of, problem, params, rows_lib.take(train, 0), v)


@functools.partial(jax.jit, static_argnums=0)
def fitted(problem, checkpoints, stack, key):
  return ekfac.fit_average(problem, checkpoints, stack, key, labels='exact')


def mean_gradients(t, part):
  """ḡ of a segment's checkpoints at each training row, [N, P]."""
  every = [
    tiny.gradients(
      t.problem.loss, t._replace(params=trees.row(part, c)), t.train
    )
    for c in range(trees.count(part))
  ]
  return np.mean(every, 0)


def by_expm(t, run, segments):
  """The recursion with scipy's expm on the dense EKFAC of each segment."""
  n, per = len(t.train['y']), len(run.steps) // segments
  stack = rows_lib.stacked(t.train, 4)
  u = tiny.gradients(t.problem.measure, t, t.queries)
  scores = np.zeros((n, len(u)))
  for i in reversed(range(segments)):
    part = jax.tree.map(
      lambda x, i=i: x[i * per : (i + 1) * per], run.checkpoints
    )
    span = 10 * 20 * np.sum(run.learning_rates[i * per : (i + 1) * per])
    own = jax.random.fold_in(KEY, i)
    blocks = fitted(t.problem, part, stack, own)
    g = dense(t, blocks) + t.problem.l2 * np.eye(u.shape[1])
    # (1 − e^{−tG})G⁻¹ is a block of the exponential of [[−tG, tI], [0, 0]].
    eye, zero = span * np.eye(len(g)), np.zeros_like(g)
    both = scipy.linalg.expm(np.block([[-span * g, eye], [zero, zero]]))
    r, s = both[: len(g), len(g) :], both[: len(g), : len(g)]
    scores -= mean_gradients(t, part) @ (u @ r).T / n
    u = u @ s.T
  return scores


def least_squares(count, segments):
  """Full-batch descent on a linear model: EKFAC is the curvature itself."""
  t = tiny.regression(n=12, widths=(3, 1), l2=0.02)
  schedule = lambda total: optax.constant_schedule(0.005)
  recipe = Recipe(
    lambda key: tiny.mlp_init((3, 1), key),
    lambda total: optax.sgd(0.005),
    schedule,
    batch_size=12,
    epochs=320,
  )
  run = members.train(
    t.problem, recipe, t.train, jax.random.split(KEY, 1), checkpoints=count
  )
  run = trees.row(members_of(run), 0)
  true = attribute(unrolled(recipe), t, run)
  method = source(segments, 0.0, labels='exact')
  return np.abs(attribute(method, t, run) - true).max() / np.abs(true).max()


@pytest.mark.parametrize('l2', [0.0, 0.01])
def test_filters_equal_dense_matrix_functions(l2):
  t = tiny.classification(l2=l2)
  run = tiny.run(t.params)
  want = by_expm(t, run, 2)
  got = attribute(source(2, labels='exact'), t, run)
  np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())
  whole = attribute(source(1, labels='exact'), t, run)
  assert np.abs(whole - want).max() > 0.05 * np.abs(want).max()


def test_the_response_is_smooth_at_zero():
  values = np.array([0, 1e-30, 1e-12, 1e-4, 1.0, 1e4])
  want = [3, 3, 3, 3 - 4.5e-4, -np.expm1(-3.0), 1e-4]
  np.testing.assert_allclose(response(jnp.array(values), 3.0), want, 1e-6)


def test_one_segment_with_a_solver_is_influence():
  t = tiny.classification(l2=0.01)
  run = tiny.run(t.params, 1)
  want = influence.influence(exact.exact(0.1 / (0.1 * 20)))
  want = attribute(want, t, run.params)
  got = attribute(source(1, 0.9, exact.exact), t, run)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_a_solver_works_at_the_mean_weights_and_its_report_is_kept():
  """L = 1: x = (G(θ̄) + damping)⁻¹ u, against ḡ of both checkpoints."""
  t = tiny.classification()
  run = tiny.run(t.params, 2)
  solver = lambda damping: descent.astra(damping, steps=300, rounds=8)
  method = source(1, 0.9, solver)
  prepare = jax.jit(method.prepare, static_argnums=0)
  prepared = prepare(t.problem, run, t.train, t.queries, KEY)
  at_mean = t._replace(params=trees.scaled(0.9, t.params))
  ggn = tiny.dense_ggn(at_mean, t.train)
  u = tiny.gradients(t.problem.measure, t, t.queries)
  x = np.linalg.solve(ggn + np.eye(len(ggn)) / 60, u.T)
  want = -mean_gradients(t, run.checkpoints) @ x / 11
  got = method.score(t.problem, run, prepared, tiny.batch(t.train))
  np.testing.assert_allclose(got, want, atol=0.03 * np.abs(want).max())
  found = prepared.solution
  assert found.residuals.shape[1] == 4 and found.converged.all()
  assert not found.diverged.any()
  np.testing.assert_allclose(found.damping, 1 / 60, 1e-5)


def test_a_solver_that_diverges_in_one_segment_is_told():
  t = tiny.classification()
  solver = lambda damping: descent.neumann(damping, step_size=1e6, steps=20)
  with pytest.raises(ValueError, match='diverged on 4 of 4'):
    attribute(source(2, 0.9, solver), t, tiny.run(t.params))


@pytest.mark.slow
def test_segments_come_near_the_exact_derivative_as_they_get_shorter():
  """Error in (C, L): first order in the length of a stretch of training."""
  long, short = least_squares(4, 2), least_squares(16, 4)
  assert long < 0.06 and short < 0.02


@pytest.mark.slow
@pytest.mark.parametrize('optimizer', ['sgd', 'adam'])
def test_batches_and_members_do_not_change_the_scores(optimizer):
  t = tiny.classification()
  method = source(2, optimizer=optimizer, labels='exact')
  runs = [tiny.run(trees.scaled(s, t.params)) for s in (1.0, -0.5)]
  if optimizer == 'adam':
    runs = [with_moments(t, run, seed) for seed, run in enumerate(runs)]
  alone = [attribute(method, t, run, batch_size=4) for run in runs]
  stack = lambda *x: jnp.stack(x)
  many = runs[0]._replace(
    params=jax.tree.map(stack, *(run.params for run in runs)),
    checkpoints=jax.tree.map(stack, *(run.checkpoints for run in runs)),
    second_moments=jax.tree.map(stack, *(run.second_moments for run in runs)),
  )
  got = attribute(method_lib.ensemble(method), t, many)
  np.testing.assert_allclose(
    got, np.mean(alone, 0), atol=1e-4 * np.abs(got).max()
  )


# --- Adam -------------------------------------------------------------------


def with_moments(t, run, seed=0, like=None):
  """The run with second moments from 1e-3 to 1 that differ by checkpoint."""
  leaves, tree = jax.tree.flatten(run.checkpoints)
  rng = np.random.default_rng(seed)
  v = [10 ** rng.uniform(-3, 0, x.shape).astype(x.dtype) for x in leaves]
  return run._replace(second_moments=tree.unflatten(v))


def adam(segments=2):
  return source(segments, optimizer='adam', labels='exact')


def scales_of(t, v):
  """(p, q) of each layer of a tree of second moments, in numpy."""
  scales = {}
  for name, layer in found(t).items():
    m = np.asarray(layers_lib.matrix(layer, v), np.float64)
    columns = m.mean(-2) / m.mean((-2, -1))[..., None]
    scales[name] = m.mean(-1) ** -0.25, columns**-0.25
  return scales


def found(t):
  example = rows_lib.take(t.train, 0)
  return layers_lib.find(
    t.problem.outputs, t.params, example, t.problem.as_leaf
  )


def scaled_apply(scales, params, x):
  """An MLP without biases in φ: W = p φ q."""
  for i, (p, q) in enumerate(scales):
    x = ((x * p) @ params[f'layer{i}']) * q
    x = jnp.tanh(x) if i < len(scales) - 1 else x
  return x


@pytest.mark.slow
def test_adam_is_sgd_in_other_parameters():
  """φ = P^(−½) θ, with the scales in the model that SGD's formula is given."""
  rows = tiny.classification()
  keys = jax.random.split(KEY, 2)
  params = {
    'layer0': jax.random.normal(keys[0], (5, 4)),
    'layer1': jax.random.normal(keys[1], (4, 3)),
  }
  ones = [(np.ones(5), np.ones(4)), (np.ones(4), np.ones(3))]
  problem = problem_lib.classification(functools.partial(scaled_apply, ones))
  t = rows._replace(problem=problem, params=params)
  run = with_moments(t, tiny.run(params))
  same = jax.tree.map(
    lambda x: np.broadcast_to(x[:1], x.shape), run.second_moments
  )
  run = run._replace(second_moments=same)
  scales = scales_of(t, trees.row(same, 0))
  scales = [scales[name] for name in ('layer0', 'layer1')]
  other = functools.partial(scaled_apply, scales)
  t_other = t._replace(problem=problem_lib.classification(other))
  into = lambda tree: {
    name: leaf / (p[:, None] * q)
    for (name, leaf), (p, q) in zip(sorted(tree.items()), scales, strict=True)
  }
  run_other = run._replace(
    params=into(run.params), checkpoints=into(run.checkpoints)
  )
  want = attribute(source(2, 0.0, labels='exact'), t_other, run_other)
  got = attribute(adam(), t, run)
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
  plain = attribute(source(2, 0.0, labels='exact'), t, run)
  assert np.abs(plain - want).max() > 0.2 * np.abs(want).max()


@pytest.mark.parametrize(
  'name',
  ['leaf', *(pytest.param(n, marks=pytest.mark.slow) for n in ('mlp', 'scan'))],
)
def test_equal_second_moments_are_a_learning_rate(name):
  """P = v^(−½) I, also of embeddings, stacks and leaves, and with l2."""
  t = tiny.model('mlp' if name == 'leaf' else name)
  leaf = ('layer1/b',) if name == 'leaf' else ()
  t = t._replace(problem=t.problem._replace(l2=0.05, as_leaf=leaf))
  run = tiny.run(t.params)
  halved = run._replace(learning_rates=run.learning_rates / 2)
  want = attribute(source(2, 0.0, labels='exact'), t, halved)
  constant = jax.tree.map(lambda x: jnp.full_like(x, 4), run.checkpoints)
  got = attribute(adam(), t, run._replace(second_moments=constant))
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def pseudo_gradients(t):
  """Rows whose outer products sum to the mean GGN, [N·K, P]."""
  j, h = tiny.jacobian(t, t.train), tiny.loss_hessians(t, t.train)
  values, vectors = np.linalg.eigh(h)
  roots = vectors * np.sqrt(np.maximum(values, 0))[:, None]
  every = np.einsum('nkp,nkc->ncp', j, roots) / np.sqrt(len(j))
  return every.reshape(-1, every.shape[-1])


def curvature_in_phi(t, blocks, scales, layers):
  """(P^½ [P], the EKFAC of the pseudo-gradients times P^½, [P, P])."""
  g = pseudo_gradients(t)
  unit = np.eye(g.shape[1])
  _, unravel = ravel_pytree(t.params)
  root, total = np.zeros(len(unit)), 0
  for name, layer in layers.items():
    matrix = lambda x, layer=layer: np.stack(
      [np.asarray(layers_lib.matrix(layer, unravel(row))) for row in x]
    )
    p, q = scales[name]
    d = p[..., :, None] * q[..., None, :]
    root += (matrix(unit) * d).reshape(len(unit), -1).sum(1)
    bases = []
    for basis, scale in zip(blocks[name][:2], scales[name], strict=True):
      identity = np.ones((*scale.shape[:-1], 1, 1)) * np.eye(scale.shape[-1])
      basis = (
        identity if basis is None else np.asarray(basis) / scale[..., None]
      )
      bases.append(basis)
    rotate = lambda m, b=bases: np.swapaxes(b[0], -1, -2) @ m @ b[1]
    values = (rotate(matrix(g) * d) ** 2).sum(0).ravel()
    along = rotate(matrix(unit)).reshape(len(unit), -1)
    total += (along * values) @ along.T
  return root, total


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mlp', 'scan'])
def test_adam_equals_dense_matrix_functions(name):
  """P^½ r P^½ and P^(−½) e P^½ by scipy's expm, of an EKFAC in float64."""
  t = tiny.model(name)
  run, layers = with_moments(t, tiny.run(t.params)), found(t)
  stack = rows_lib.stacked(t.train, 4)
  u = tiny.gradients(t.problem.measure, t, t.queries)
  scores = np.zeros((5, len(u)))
  for i in (1, 0):
    part, v = jax.tree.map(
      lambda x, i=i: x[2 * i : 2 * i + 2], (run.checkpoints, run.second_moments)
    )
    span = 20 * np.sum(run.learning_rates[2 * i : 2 * i + 2])
    scales = scales_of(t, jax.tree.map(lambda x: x.mean(0), v))
    blocks = ekfac.fit_average(
      t.problem, part, stack, jax.random.fold_in(KEY, i), labels='exact',
      scales=jax.tree.map(jnp.float32, scales),
    )  # fmt: skip
    each = [
      curvature_in_phi(
        t._replace(params=trees.row(part, c)), blocks, scales, layers
      )
      for c in range(2)
    ]
    root, g = each[0][0], np.mean([g for _, g in each], 0)
    eye, zero = span * np.eye(len(g)), np.zeros_like(g)
    both = scipy.linalg.expm(np.block([[-span * g, eye], [zero, zero]]))
    r, s = both[: len(g), len(g) :], both[: len(g), : len(g)]
    scores -= mean_gradients(t, part) @ (root[:, None] * r * root) @ u.T / 5
    u = u @ (root[:, None] * s.T / root)
  got = attribute(adam(), t, run)
  np.testing.assert_allclose(got, scores, atol=1e-3 * np.abs(scores).max())


def test_second_moments_are_those_of_what_rows_are_scored_by():
  t = tiny.classification()
  problem = t.problem._replace(leave_out=('layer0/b',))
  _, run = method_lib.attributed(problem, with_moments(t, tiny.run(t.params)))
  assert trees.names(run.second_moments) == trees.names(run.params)
  assert len(trees.names(run.params)) == 3


@pytest.mark.slow
def test_an_input_that_was_never_on_does_not_count():
  """Its second moments are 0; queries may have it on."""
  t = tiny.classification()
  params = dict(t.params)
  wide = np.concatenate([params['layer0']['w'], np.ones((1, 4), np.float32)])
  params['layer0'] = {**params['layer0'], 'w': jnp.asarray(wide)}
  with_column = lambda rows, value: {
    **rows, 'x': np.pad(rows['x'], ((0, 0), (0, 1)), constant_values=value)
  }  # fmt: skip
  more = t._replace(
    params=params,
    train=with_column(t.train, 0),
    queries=with_column(t.queries, 0.5),
  )
  run = with_moments(more, tiny.run(params))
  run.second_moments['layer0']['w'][:, -1] = 0
  got = attribute(adam(), more, run)
  assert np.isfinite(got).all()
  spread = run.second_moments['layer0']['w'][:, -1:] + 1e-9
  run.second_moments['layer0']['w'][:, -1:] = spread
  near = attribute(adam(), more, run)
  np.testing.assert_allclose(got, near, atol=1e-3 * np.abs(got).max())


def trained_by_adam(t, count, weights=None, seeds=(0,), checkpoints=6):
  recipe = Recipe(
    lambda key: tiny.mlp_init((8, 10, 3), key),
    lambda total: optax.adam(0.01, b2=0.99, eps_root=1e-10),
    lambda total: optax.constant_schedule(0.01),
    batch_size=20,
    epochs=24,
  )
  run = members.train(
    t.problem, recipe, t.train, [*seeds], weights=weights,
    checkpoints=checkpoints,
  )  # fmt: skip
  return recipe, run


@pytest.mark.slow
def test_adam_foresees_training_with_adam_better_than_sgd_does():
  """Inputs of scales from 0.1 to 3, which Adam evens out."""
  t = tiny.classification(n=100, q=12, widths=(8, 10, 3))
  scale = np.geomspace(0.1, 3, 8).astype(np.float32)
  teacher = tiny.mlp_init((8, 10, 3), jax.random.key(9), 1.5)
  relabelled = lambda rows: {
    'x': rows['x'] * scale,
    'y': np.argmax(tiny.mlp_apply(teacher, rows['x']), -1),
  }
  t = t._replace(train=relabelled(t.train), queries=relabelled(t.queries))
  recipe, runs = trained_by_adam(t, 6)
  run = trees.row(members_of(runs), 0)
  exact = attribute(unrolled(recipe), t, run)
  weights = np.ones((101, 100), np.float32)
  weights[1:] -= np.eye(100, dtype=np.float32)
  removed = 0
  for seed in range(4):
    _, many = trained_by_adam(t, 0, weights, [seed] * 101, 0)
    measures = lambda p: problem_lib.measures(t.problem, p, t.queries)
    found = np.asarray(jax.jit(jax.vmap(measures))(many.params))
    removed = removed + found[:1] - found[1:]
  mean = lambda a, b: np.mean(
    [np.corrcoef(a[:, q], b[:, q])[0, 1] for q in range(12)]
  )
  by_adam = attribute(adam(3), t, run)
  by_sgd = attribute(source(3, 0.0, labels='exact'), t, run)
  for truth in (exact, removed):
    assert mean(by_adam, truth) > mean(by_sgd, truth) + 0.03


def test_errors_say_what_to_do():
  t = tiny.classification()
  run = tiny.run(t.params)
  with pytest.raises(ValueError, match='second moments of Adam, and this run'):
    attribute(adam(), t, run)
  with pytest.raises(ValueError, match="optimizer='lion': use one of"):
    source(2, optimizer='lion')
  with pytest.raises(ValueError, match='leave the solver out'):
    source(2, solver=exact.exact, optimizer='adam')
  with pytest.raises(ValueError, match='source follows.*has none: train with'):
    attribute(source(), t, run._replace(checkpoints=None))
  with pytest.raises(ValueError, match='4 checkpoints cannot be cut into 3'):
    attribute(source(3), t, run)
  with pytest.raises(
    ValueError, match='momentum=1.0: give a number from 0 to below 1'
  ):
    source(3, 1.0)
