"""Scores of training tokens, as the page shows them and as tokens are removed."""

import jax
import numpy as np

from experiments.shared import scores as scores_lib
from experiments.shared import stages
from tda_jax import run as run_lib
from tda_jax import scoring


def scores(config, task, runs, finding, queries, rows=None) -> np.ndarray:
  """Scores of rows' tokens by the first model, [R, T, Q].

  Args:
    finding: of the method, which is made again with the key of its scores.
    rows: numbers of the training rows [R]; None: all.

  Raises:
    ValueError: the method's scores are not split by token.
  """
  return scoring.token_scores(
    scores_lib.method_of(finding.scored, task),
    task.problem,
    run_lib.member(runs, 0),
    task.train,
    queries,
    rows=rows,
    key=jax.random.fold_in(stages.key(config.seed, 'scores'), 0),
    batch_size=config.batch_size,
  )
