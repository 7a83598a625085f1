"""DataInf against the mean of explicit inverses, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tda_jax import problem as problem_lib
from tda_jax.curvature import gram
from tda_jax.inverses import datainf
from tda_jax.layers import find as layers_lib

KEY = jax.random.key(5)


def blocks(t):
  """Flat indices of every block: a layer, or an entry of its stack."""
  example = jax.tree.map(lambda x: x[0], t.train)
  layers = layers_lib.find(t.problem.outputs, t.params, example)
  size = sum(x.size for x in jax.tree.leaves(t.params))
  unravel = jax.flatten_util.ravel_pytree(t.params)[1]
  at = unravel(jnp.arange(size, dtype=jnp.float32))
  for layer in layers.values():
    w = np.asarray(layers_lib.matrix(layer, at), int)
    yield from w.reshape(-1, layer.num_in * layer.num_out)


@pytest.mark.parametrize('damping', ['heuristic', 0.03])
@pytest.mark.parametrize('name', ['mlp', 'scan'])
def test_is_the_mean_of_inverses(name, damping):
  t = tiny.model(name)
  t = t._replace(problem=t.problem._replace(l2=0.01))
  solver = datainf.datainf(damping, batch_size=3)

  @jax.jit
  def run(v):
    state = solver.fit(t.problem, t.params, t.train, KEY)
    return solver.solve(state, t.problem, t.params, t.train, v, KEY)

  got = run(tiny.basis(t.params))
  g = tiny.gradients(t.problem.loss, t, t.train)
  want = np.zeros((g.shape[1],) * 2)
  shifts = []
  for block in blocks(t):
    own = g[:, block]
    shift = 0.1 * (own**2).mean() if damping == 'heuristic' else damping
    shifts.append(np.full(len(block), shift))
    eye = np.eye(len(block)) * (shift + t.problem.l2)
    inverses = [np.linalg.inv(np.outer(one, one) + eye) for one in own]
    want[np.ix_(block, block)] = np.mean(inverses, 0)
  np.testing.assert_allclose(
    tiny.flat(got.x), want, atol=2e-5 * np.abs(want).max()
  )
  np.testing.assert_allclose(
    got.damping, np.mean(np.concatenate(shifts)), rtol=1e-4
  )


def test_a_layer_applied_twice_is_refused():
  t = tiny.classification(widths=(3, 3))
  twice = lambda p, x: jnp.tanh(x @ p['w']) @ p['w']
  problem = problem_lib.classification(twice)
  params = {'w': jnp.eye(3)}
  with pytest.raises(ValueError, match='w is applied more than once'):
    datainf.datainf(0.1).fit(problem, params, t.train, KEY)


def test_statistics_with_vectors_skip_padding():
  t = tiny.model('scan')
  layers = layers_lib.find(
    t.problem.outputs, t.params, jax.tree.map(lambda x: x[0], t.train)
  )
  layer = layers['embed']
  a = jnp.array([[1, 2, 2], [7, 7, 7]])  # the second is padding: out of range
  g = jnp.ones((2, 3, 4)).at[1].set(0)
  np.testing.assert_allclose(gram.squared_norms(layer, a, g), [20, 0])
  pulled = gram.weighted_sums(layer, a, g, jnp.ones((2, 1)))
  np.testing.assert_allclose(pulled[0, :, 0], [0, 1, 2, 0, 0, 0, 0])
