"""Files that are whole or absent, also after a loss of power; folders in use."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

import jax

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_log = logging.getLogger(__name__)


def write(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file aside and renames it, so that no half of it is ever seen.

  What is named here is on the disk when this returns. A file that holds `data`
  already is left alone: what is finished can be read from a read-only disk.
  """
  path = pathlib.Path(path)
  if path.is_file() and path.read_bytes() == data:
    return
  aside = path.with_name(f'.{path.name}.{os.getpid()}')
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
  """Writes what is made for people: a page, a plot, a table.

  On a disk that cannot be written, one that is there stays, and that is said.
  """
  path = pathlib.Path(path)
  try:
    write(path, data)
  except OSError as error:
    if error.errno not in READ_ONLY or not path.exists():
      raise
    _log.warning('%s stays as it is: it cannot be written there', path)


def sync(path: str | os.PathLike) -> None:
  """Returns when what `path`, a file or a folder, holds is on the disk."""
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)


def writable(folder: str | os.PathLike) -> bool:
  """Whether files can be made in a folder that is there."""
  return os.access(folder, os.W_OK)


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[None]:
  """Holds the folder, which is made if need be, against a second writer.

  The lock ends with the process, however that ends. Processes of one job (see
  jax.distributed) hold it by the first of them. A folder that cannot be written
  needs none.

  Raises:
    ValueError: another process holds it.
  """
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
  """Locks the file and writes into it by whom."""
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
    _log.warning('%s has a disk without locks (%s): see that no other'
                 ' command writes there', folder, error)  # fmt: skip
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
