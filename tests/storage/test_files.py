import errno
import os
import stat

import pytest
from killed import killed

from tda_jax.storage import files


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
  file = tmp_path / 'a'
  files.write(file, b'old')

  def full(number):
    raise OSError(errno.ENOSPC, 'no space left')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='no space'):
    files.write(file, b'new')
  assert file.read_bytes() == b'old' and [*tmp_path.iterdir()] == [file]


def test_file_then_name_then_folder_reach_the_disk(tmp_path, monkeypatch):
  order = []
  sync, replace = os.fsync, os.replace

  def fsync(number):
    folder = stat.S_ISDIR(os.fstat(number).st_mode)
    order.append('folder' if folder else 'file')
    sync(number)

  def renamed(*names):
    order.append('name')
    replace(*names)

  monkeypatch.setattr(os, 'fsync', fsync)
  monkeypatch.setattr(os, 'replace', renamed)
  files.write(tmp_path / 'a', b'x')
  assert order == ['file', 'name', 'folder']
  files.write(tmp_path / 'a', b'x')  # is there
  assert len(order) == 3


def test_what_people_look_at_stays_on_a_disk_that_cannot_be_written(
  tmp_path, monkeypatch
):
  files.show(tmp_path / 'a', b'old')

  def cannot(number):
    raise OSError(errno.EROFS, 'read-only')

  monkeypatch.setattr(os, 'fsync', cannot)
  files.show(tmp_path / 'a', b'new')
  with pytest.raises(OSError, match='read-only'):
    files.show(tmp_path / 'b', b'new')
  assert (tmp_path / 'a').read_bytes() == b'old'
  monkeypatch.undo()
  files.show(tmp_path / 'a', b'new')
  assert (tmp_path / 'a').read_bytes() == b'new'


def test_a_folder_has_one_holder(tmp_path):
  folder = tmp_path / 'w'
  with files.lock(folder):
    with pytest.raises(ValueError, match=f'use by process {os.getpid()} on '):
      with files.lock(folder):
        pass
  with files.lock(folder):
    pass


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch, caplog):
  def flock(file, how):
    raise OSError(errno.ENOLCK, 'no locks')

  monkeypatch.setattr(files.fcntl, 'flock', flock)
  with files.lock(tmp_path):
    assert 'a disk without locks' in caplog.text


def hold(folder):
  """Holds it for ever; for a process of its own."""
  with files.lock(folder):
    (folder / 'held').touch()
    while True:
      pass


def test_death_ends_a_lock(tmp_path):
  killed(__file__, f'import pathlib\nt.hold(pathlib.Path({str(tmp_path)!r}))',
         (tmp_path / 'held').exists)  # fmt: skip
  assert (tmp_path / '.lock').read_text()
  with files.lock(tmp_path):
    pass
