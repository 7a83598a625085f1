"""What a stage is made from, and that it is known again."""

import jax
import numpy as np
import pytest
import tiny
from ml_collections import config_dict

from experiments import stages, tasks
from tda_jax.training.fit import Run


def test_a_method_within_another_is_known_again(tmp_path):
  t = tiny.classification()
  params = jax.tree.map(lambda leaf: leaf[None], t.params)
  runs = Run(params, None, None, None, None)
  task = tasks.Task(t.problem, None, t.train, t.queries, None)
  config = config_dict.create(seed=0, setting='s', batch_size=4)
  precondition = {'kind': 'ekfac', 'damping': 0.1}
  settings = config_dict.create(
    kind='astra', damping=0.1, steps=4, precondition=precondition
  )
  args = (task, runs, tmp_path)
  made = stages.scores(config, 'astra', settings, *args)
  again = stages.scores(config, 'astra', settings, *args)
  np.testing.assert_array_equal(again, made)
  settings.precondition.damping = 0.2
  with pytest.raises(ValueError, match='damping is 0.1 there and 0.2 now'):
    stages.scores(config, 'astra', settings, *args)
