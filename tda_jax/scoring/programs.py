"""The compiled programs of scoring: for other data of the same shapes the same."""

import jax

from tda_jax.methods import by_term as by_term_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.compiled import compiled

fit = compiled(method_lib.fit)
prepare = compiled(method_lib.prepare)
score = compiled(method_lib.score)
terms = compiled(method_lib.terms)
self_influence = compiled(method_lib.self_influence)
vectors = compiled(by_term_lib.vectors)
by_term = jax.jit(by_term_lib.by_term, static_argnums=0)
by_part = jax.jit(by_term_lib.by_part, static_argnums=(0, 1))
