"""Eight fake CPU devices, and programs compiled once for all runs."""

import pathlib

import jax

_CACHE = pathlib.Path(__file__).parents[1] / 'build' / 'jax_cache'

# Before any array is made: JAX starts once.
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
