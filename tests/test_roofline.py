import jax
import jax.numpy as jnp
import pytest

from scripts import roofline


def test_loops_are_counted_as_often_as_they_run():
  """By hand: 2·n³ for each product, 9n³ for eigenvectors in float32."""
  n, w = 64, jnp.ones((64, 64))

  def step(x, _):
    x, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, None, 3)
    return x, None

  def nested(x):
    return jax.lax.scan(step, x @ w, None, 5)[0]

  def until(x, steps):
    return jax.lax.fori_loop(0, steps, lambda _, x: x @ w, x)

  assert roofline.cost(nested, w).flops == pytest.approx(
    16 * 2 * n**3, rel=0.01
  )
  cost = roofline.cost(until, w, 7, trips=7)
  assert cost.flops == pytest.approx(7 * 2 * n**3, rel=0.01)
  cost = roofline.cost(lambda x: jnp.linalg.eigh(x)[0], w)
  assert cost.flops == pytest.approx(9 * n**3, rel=0.05)
