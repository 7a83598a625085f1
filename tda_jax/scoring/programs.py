"""The compiled programs of scoring: for other data of the same shapes the same."""

from tda_jax.methods import method as method_lib
from tda_jax.methods.compiled import compiled

fit = compiled(method_lib.fit)
prepare = compiled(method_lib.prepare)
score = compiled(method_lib.score)
self_influence = compiled(method_lib.self_influence)
