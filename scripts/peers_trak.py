"""TRAK by the PyTorch package traker on the same weights, and ours beside it.

  python -m scripts.peers_trak [--members=1,5,10] [--projection=factored]

Needs `pip install traker` with a CPU build of torch. MNIST-5k: score matrices
of both, their LDS against retraining, and their times in one run.
"""

import tempfile
import time

import numpy as np

try:
  import torch
  import trak
  from trak.projectors import BasicProjector, ProjectionType
except ImportError as error:
  raise SystemExit(
    f'the comparison needs {error.name}: pip install traker'
  ) from None
