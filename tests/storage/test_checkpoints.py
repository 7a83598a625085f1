import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from tda_jax.storage import checkpoints


def tree():
  params = {'w': jnp.arange(6.0).reshape(2, 3), 'b': jnp.ones(3, jnp.bfloat16)}
  return {'params': params, 'optimizer': optax.adam(0.1).init(params)}


@pytest.fixture(params=[1, 2])
def hosts(request, monkeypatch):
  monkeypatch.setattr('jax.process_count', lambda: request.param)
  monkeypatch.setattr('jax.process_index', lambda: request.param - 1)
  yield request.param
  monkeypatch.undo()


def test_round_trip_keeps_values_types_and_structure(
  tmp_path, monkeypatch, hosts
):
  checkpoints.save(tmp_path / 'a' / 'b', tree())
  assert (tmp_path / 'a' / 'b' / checkpoints.ARRAYS).exists() == (hosts > 1)
  monkeypatch.setattr('jax.process_count', lambda: 1)  # goes on with one
  monkeypatch.setattr('jax.process_index', lambda: 0)
  like = jax.eval_shape(tree)
  loaded = checkpoints.load(tmp_path / 'a' / 'b', like)
  assert jax.tree.structure(loaded) == jax.tree.structure(tree())
  for found, wanted in zip(
    jax.tree.leaves(loaded), jax.tree.leaves(tree()), strict=True
  ):
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_a_half_left_by_a_kill_is_not_a_checkpoint(tmp_path):
  (tmp_path / 'a.partial' / 'state').mkdir(parents=True)
  with pytest.raises(ValueError, match='no checkpoint at .*run the stage'):
    checkpoints.load(tmp_path / 'a', tree())
  checkpoints.save(tmp_path / 'a', tree())
  assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_a_save_that_was_cut_is_not_a_checkpoint(tmp_path, monkeypatch):
  def cut(path, tree):
    path.mkdir()
    raise KeyboardInterrupt

  monkeypatch.setattr(ocp, 'save', cut)
  with pytest.raises(KeyboardInterrupt):
    checkpoints.save(tmp_path / 'a', tree())
  assert not (tmp_path / 'a').exists()


def test_all_of_it_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
  order, replace = [], os.replace
  monkeypatch.setattr(checkpoints.files, 'sync', order.append)

  def renamed(aside, path):
    if path == tmp_path / 'a':
      every = {*aside.rglob('*'), aside}
      assert {*order} == every and (aside / checkpoints.SUMS).exists()
      order.clear()
    replace(aside, path)

  monkeypatch.setattr(checkpoints.os, 'replace', renamed)
  checkpoints.save(tmp_path / 'a', tree())
  assert order == [tmp_path]


def test_never_overwrites(tmp_path):
  checkpoints.save(tmp_path / 'a', tree())
  with pytest.raises(ValueError, match='exists already'):
    checkpoints.save(tmp_path / 'a', tree())


def files(path):
  return sorted(file for file in path.rglob('*') if file.is_file())


def halved(data):
  return data[: len(data) // 2]


def flipped(data):
  return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize('damage', [halved, flipped, None])
def test_every_file_of_a_checkpoint_is_checked(tmp_path, damage):
  checkpoints.save(tmp_path / 'a', tree())
  assert checkpoints.whole(tmp_path / 'a')
  assert not checkpoints.whole(tmp_path / 'b')
  for file in files(tmp_path / 'a'):
    was = file.read_bytes()
    if not was:  # orbax's mark that it is done
      continue
    file.unlink() if damage is None else file.write_bytes(damage(was))
    assert not checkpoints.whole(tmp_path / 'a')
    with pytest.raises(ValueError, match='/a is damaged .*delete that folder'):
      checkpoints.load(tmp_path / 'a', tree())
    file.write_bytes(was)
  assert checkpoints.whole(tmp_path / 'a')


def test_the_newest_whole_one_is_gone_on_from(tmp_path):
  assert checkpoints.newest(tmp_path, 'step') is None
  for number in (2, 10, 9):
    checkpoints.save(tmp_path / f'step_{number}', {'n': np.full(3, number)})
  (tmp_path / 'step_11.partial').mkdir()
  assert checkpoints.newest(tmp_path, 'step') == 10
  for file in files(tmp_path / 'step_10'):
    file.write_bytes(b'')
  assert checkpoints.newest(tmp_path, 'step') == 9
  checkpoints.keep(tmp_path, 'step', 10, {'n': np.full(3, 10)})
  assert checkpoints.newest(tmp_path, 'step') == 10
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'step_10',
    'step_11.partial',
  ]


def test_work_that_was_begun_keeps_its_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoints.parallel, 'barrier', lambda: None)
  names = lambda folder: [p.name for p in checkpoints.parts(folder, 3)]

  def with_hosts(count):
    monkeypatch.setattr('jax.process_count', lambda: count)

  (tmp_path / 'alone').mkdir()
  (tmp_path / 'alone' / 'run.json').touch()
  assert names(tmp_path / 'alone') == ['alone']
  with_hosts(2)
  both = ['part_0_of_2', 'part_1_of_2']
  assert names(tmp_path / 'alone') == names(tmp_path / 'both') == both
  with_hosts(5)
  assert names(tmp_path / 'both') == [f'part_{part}_of_3' for part in range(3)]
  (tmp_path / 'alone' / 'step_7').mkdir()
  (tmp_path / 'both' / 'part_1_of_2' / 'step_7').mkdir(parents=True)
  for hosts in (1, 2, 5):
    with_hosts(hosts)
    assert names(tmp_path / 'alone') == ['alone']
    assert names(tmp_path / 'both') == both


def test_of_another_model(tmp_path, hosts):
  checkpoints.save(tmp_path / 'a', {'w': jnp.ones((2, 3))})
  with pytest.raises(ValueError, match=r"shape \(2, 3\) for 'w'.*\(2, 4\)"):
    checkpoints.load(tmp_path / 'a', {'w': jnp.ones((2, 4))})
  with pytest.raises(ValueError, match='cannot be read .*another model'):
    checkpoints.load(tmp_path / 'a', {'v': jnp.ones((2, 3))})


def test_a_checkpoint_in_the_place_of_another_is_damaged(tmp_path):
  for step in (1, 2):
    checkpoints.save(tmp_path / f'step_{step}', {'w': np.full(3, step)})
  (tmp_path / 'step_1').rename(tmp_path / 'kept')
  (tmp_path / 'step_2').rename(tmp_path / 'step_1')
  (tmp_path / 'kept').rename(tmp_path / 'step_2')
  assert not checkpoints.whole(tmp_path / 'step_1')
  assert checkpoints.newest(tmp_path, 'step') is None
  with pytest.raises(ValueError, match='damaged'):
    checkpoints.load(tmp_path / 'step_1', {'w': np.zeros(3, int)})
