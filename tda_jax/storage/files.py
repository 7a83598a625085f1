"""Writes files whole or not at all, also at a loss of power; locks folders."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import re
import socket
from collections.abc import Iterator

import jax

from tda_jax import parallel

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_log = logging.getLogger(__name__)


def write(path: str | os.PathLike, data: bytes, by_all: bool = False) -> None:
  """Writes a file under another name and renames it: no reader sees half of it.

  The file is on the disk when this returns. A file that holds `data` already is
  not written, so that a finished stage works on a read-only disk. Of several
  hosts the first writes.

  Args:
    by_all: whether the other hosts write too, files of their own.
  """
  check_local(path)
  if not by_all and not parallel.owner():
    return
  path = pathlib.Path(path)
  if path.is_file() and path.read_bytes() == data:
    return
  aside = path.with_name(f'.{path.name}.{jax.process_index()}.{os.getpid()}')
  try:
    with open(aside, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
  finally:
    aside.unlink(missing_ok=True)  # of a write that failed
  sync(path.parent)


def show(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file that is made for people: a page, a plot, a table.

  If the disk is read-only and the file exists, it stays as it is, with a warning.
  """
  path = pathlib.Path(path)
  try:
    write(path, data)
  except OSError as error:
    if error.errno not in READ_ONLY or not path.exists():
      raise
    _log.warning('%s stays as it is: it cannot be written there', path)


def check_local(path: str | os.PathLike, name: str = 'the path') -> None:
  """Raises ValueError for an address, as of a bucket (gs://bucket/folder).

  It would be a folder of that name within the current one, of each host its own.

  Args:
    name: of the argument, for the error.
  """
  if re.match(r'[A-Za-z][\w+.-]+:/', os.fspath(path)):
    raise ValueError(
      f'{name} {path} is an address, and results are written to a file system:'
      ' mount the bucket and give the folder where it is (docs/hosts.md)'
    )


def sync(path: str | os.PathLike) -> None:
  """Waits until the content of `path`, a file or a folder, is on the disk."""
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)


def writable(folder: str | os.PathLike) -> bool:
  """Whether files can be created in a folder that exists."""
  return os.access(folder, os.W_OK)


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[None]:
  """Locks a folder, created if it does not exist, against a second writer.

  The lock ends with the process, however that ends. Of the processes of one job
  (see jax.distributed), the first holds the lock. A folder that cannot be written
  needs no lock.

  Raises:
    ValueError: another process holds it.
  """
  check_local(folder, 'the folder')
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  file = None if jax.process_index() else _opened(folder / '.lock')
  if file is None:
    yield
    return
  with file:
    _claim(file, folder)
    try:
      yield
    finally:
      file.truncate(0)


def _claim(file, folder):
  """Locks the file and writes into it which process holds it."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    holder = file.read() or 'another process'
    raise ValueError(
      f'{folder} is in use by {holder}: wait until that ends, or give another'
      ' folder'
    ) from None
  except OSError as error:
    _log.warning(
      '%s has a disk without locks (%s): see that no other'
      ' command writes there',
      folder,
      error,
    )
  file.truncate(0)
  file.write(f'process {os.getpid()} on {socket.gethostname()}')
  file.flush()


def _opened(path):
  """A file to lock, or None where nothing can be written."""
  try:
    return open(path, 'a+')
  except OSError as error:
    if error.errno not in READ_ONLY:
      raise
    return None
