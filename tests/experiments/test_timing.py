"""Seconds over commands that end, fail or are killed."""

import os
import time

import numpy as np
import pytest

from experiments.shared import timing
from tda_jax.storage import record


def test_commands_add_up_also_one_that_fails(tmp_path):
  file = tmp_path / 'stages' / 'spent.json'
  assert timing.seconds(file, tmp_path) == 0
  with timing.counted(file, tmp_path):
    time.sleep(0.05)
  once = timing.seconds(file, tmp_path)
  assert once > 0.05
  with pytest.raises(ValueError), timing.counted(file, tmp_path):
    time.sleep(0.05)
    raise ValueError
  assert timing.seconds(file, tmp_path) > once + 0.05


def test_a_killed_command_worked_until_its_newest_file(tmp_path):
  file = tmp_path / 'spent.json'
  record.write_json(file, {'seconds': 7.0, 'begun': 1000.0})
  os.utime(file, (1000.5, 1000.5))
  work = tmp_path / 'state' / 'step'
  work.parent.mkdir()
  work.write_text('')
  os.utime(work, (1030.0, 1030.0))
  assert timing.seconds(file, tmp_path) == 37
  with timing.counted(file, tmp_path):
    pass
  assert 37 <= timing.seconds(file, tmp_path) < 38


def test_a_stage_is_timed_until_it_is_made(tmp_path):
  def work():
    (tmp_path / 'train').mkdir(exist_ok=True)
    time.sleep(0.05)
    return 'made'

  def fails():
    work()
    raise ValueError

  assert np.isnan(timing.on(tmp_path, 'train'))
  with pytest.raises(ValueError):
    timing.timed(tmp_path, 'train', fails)
  assert timing.timed(tmp_path, 'train', work) == 'made'
  took = timing.on(tmp_path, 'train')
  assert took > 0.1
  assert timing.timed(tmp_path, 'train', work) == 'made'
  assert timing.on(tmp_path, 'train') == took
  (tmp_path / 'halves').mkdir()  # of a command that did not count
  timing.timed(tmp_path, 'halves', work)
  assert np.isnan(timing.on(tmp_path, 'halves'))
