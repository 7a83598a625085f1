"""TrackStar against dense float64 formulas, its projections made explicit."""

import jax
import numpy as np
import pytest
import tiny
from jax.flatten_util import ravel_pytree
from scipy import linalg

from tda_jax import trees
from tda_jax.curvature import two_sided
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find as layers_lib
from tda_jax.methods import gradients
from tda_jax.methods import method as method_lib
from tda_jax.methods.trackstar import trackstar

KEY = jax.random.key(5)


def attribute(method, t, run=None, **kwargs):
  run = t.params if run is None else run
  return method_lib.attribute(
    method, t.problem, run, t.train, t.queries, key=KEY, **kwargs
  )


def with_moments(t):
  """A Run of two checkpoints, with second moments from 1e-3 to 1."""
  rng = np.random.default_rng(0)
  draw = lambda x: 10 ** rng.uniform(-3, 0, (2, *x.shape)).astype(np.float32)
  run = tiny.run(t.params, 2)
  return run._replace(second_moments=jax.tree.map(draw, t.params))


def found(t):
  example = rows_lib.take(t.train, 0)
  return layers_lib.find(
    t.problem.outputs, t.params, example, t.problem.as_leaf
  )


def matrices(t, vectors):
  """{layer: [*stack, n, I, O]} of flat float64 vectors [n, P]."""
  stacks = {}
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), t.params)
    unravel = ravel_pytree(wide)[1]
    every = [unravel(v) for v in vectors]
    for name, layer in found(t).items():
      w = np.stack([layers_lib.matrix(layer, one) for one in every])
      stacks[name] = np.moveaxis(w, 0, len(layer.stack))
  return stacks


def corrected(t, grads, run, kind):
  """Gradients of `matrices` divided by √v of the run's last second moments."""
  if kind is None:
    return grads
  last = trees.row(run.second_moments, 1)
  moments = matrices(t, tiny.flat(jax.tree.map(lambda x: x[None], last)))
  if kind == 'factored':
    mean = lambda v, *axes: v.mean(axes, keepdims=True)
    moments = {
      n: mean(v, -1) * mean(v, -2) / mean(v, -1, -2) for n, v in moments.items()
    }
  return {name: g / np.sqrt(moments[name]) for name, g in grads.items()}


def dense(t, run, rank, settings):
  """The docstring's four steps; the projection is a matrix [I·O, r·r']."""
  kind, mix = settings.get('second_moments'), settings.get('mix', 0.0)
  damping = settings.get('damping', 'heuristic')
  of = lambda what, rows: corrected(
    t, matrices(t, tiny.gradients(what, t, rows)), run, kind
  )
  rows, asked = of(t.problem.loss, t.train), of(t.problem.measure, t.queries)
  phi = []
  layers = found(t)
  for name, sides in two_sided.random(layers, KEY, rank).items():
    for at in np.ndindex(layers[name].stack):
      u = basis(sides.inputs, at, layers[name].num_in)
      v = basis(sides.outputs, at, layers[name].num_out)
      flat = lambda x: x.reshape(len(x), -1)
      both = [flat(x[name][at]) @ np.kron(u, v) for x in (rows, asked)]  # noqa: B023
      if settings.get('whitened', True):
        g, m = both
        r = (1 - mix) * g.T @ g / len(g) + mix * m.T @ m / len(m)
        add = 0.1 * np.trace(r) / len(r) if damping == 'heuristic' else damping
        root = np.linalg.inv(linalg.sqrtm(r + add * np.eye(len(r))).real)
        both = [g @ root, m @ root]
      phi.append(both)
  g, m = (np.concatenate(parts, 1) for parts in zip(*phi, strict=True))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  return -unit(g) @ unit(m).T


def basis(matrix, at, size):
  return np.eye(size) if matrix is None else np.asarray(matrix[at], np.float64)


SLOW = pytest.mark.slow
SETTINGS = [
  ('mlp', (3, 2), {}),
  ('mlp', (3, 9), {'second_moments': 'factored', 'mix': 0.3}),
  ('mlp', (3, 2), {'second_moments': 'whole', 'whitened': False}),
  pytest.param('mlp', (9, 2), {'second_moments': 'whole'}, marks=SLOW),
  pytest.param('mlp', (9, 9), {'mix': 0.9, 'damping': 0.01}, marks=SLOW),
  pytest.param('scan', (3, 2), {'second_moments': 'whole'}, marks=SLOW),
  pytest.param('scan', (9, 2), {'second_moments': 'factored'}, marks=SLOW),
  pytest.param('scan', (3, 9), {'mix': 0.3}, marks=SLOW),
]


@pytest.mark.parametrize('model, rank, settings', SETTINGS)
def test_scores_are_the_four_steps_in_their_order(model, rank, settings):
  t = tiny.classification() if model == 'mlp' else tiny.model(model)
  run = with_moments(t)
  got = attribute(trackstar(rank=rank, batch_size=4, **settings), t, run)
  want = dense(t, run, rank, settings)
  np.testing.assert_allclose(got, want, atol=2e-4)


def test_of_whole_gradients_without_whitening_it_is_grad_cos():
  t = tiny.classification()
  got = attribute(trackstar(rank=(9, 9), whitened=False), t)
  want = attribute(gradients.grad_cos(), t)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_row_and_a_query_without_gradient_score_zero():
  """Of rows that the measure and the loss do not read (weight 0)."""
  t = tiny.regression()
  weigh = lambda of: lambda outputs, e: e['w'] * of(outputs, e)
  problem = t.problem._replace(
    loss=weigh(t.problem.loss), measure=weigh(t.problem.measure)
  )
  weighed = lambda rows: {**rows, 'w': np.arange(len(rows['y'])) % 3 * 1.0}
  t = t._replace(
    problem=problem, train=weighed(t.train), queries=weighed(t.queries)
  )
  got = attribute(trackstar(rank=(3, 2)), t)
  none = np.zeros_like(got, bool)
  none[::3] = none[:, ::3] = True
  assert (got[none] == 0).all() and (got[~none] != 0).all()


def test_trackstar_refuses_bad_settings():
  t = tiny.classification()
  for settings, words in (
    ({'second_moments': 'adam'}, "second_moments='adam' is unknown"),
    ({'rank': (0, 4)}, r'rank=\(0, 4\)'),
    ({'mix': 1.0}, 'mix=1.0: give a number from 0 to below 1'),
    ({'damping': 0}, 'damping=0'),
    ({'second_moments': 'whole'}, "'whole' reads those of Adam, and this run"),
  ):
    with pytest.raises(ValueError, match=words):
      attribute(trackstar(**settings), t)
