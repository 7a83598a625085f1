"""The compiled programs of scoring.

Jitted once, at module level, so that a method is not compiled again for other
data of the same shapes.
"""

import jax

from tda_jax.methods import method as method_lib

fit = jax.jit(method_lib.fit, static_argnums=(0, 1))
prepare = jax.jit(method_lib.prepare, static_argnums=(0, 1))
score = jax.jit(method_lib.score, static_argnums=(0, 1))
