"""Tables, plots and pages."""

import importlib.util

from tda_jax import lazily

if not all(map(importlib.util.find_spec, ('jinja2', 'matplotlib', 'rich'))):
  raise ModuleNotFoundError(
    'tables, plots and pages take more packages: pip install "tda_jax[report]"'
  )

__getattr__ = lazily.modules(__name__, __path__)
