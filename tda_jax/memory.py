"""Memory: what is free, checks of limits, and errors that say what to lower."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

import jax

CGROUPS = (  # of version 2 and 1: the limit, and what is taken of it
  ('sys/fs/cgroup/memory.max', 'sys/fs/cgroup/memory.current'),
  (
    'sys/fs/cgroup/memory/memory.limit_in_bytes',
    'sys/fs/cgroup/memory/memory.usage_in_bytes',
  ),
)
RAN_OUT = re.compile('RESOURCE_EXHAUSTED|[Oo]ut of memory|std::bad_alloc')


def free(root: str | os.PathLike = '/') -> float:
  """Bytes that a computation of this process can still allocate.

  On an accelerator, the free memory of the device; on a CPU, the smallest of
  what the machine, its cgroup and the limit of the process's address space
  leave. Infinity: not known.

  Args:
    root: where /proc and /sys are.
  """
  stats = _device_stats()
  if stats is not None and 'bytes_limit' in stats:
    return float(stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  root = pathlib.Path(root)
  known = [_available(root), _address_space(root)]
  known += [_remaining(root / most, root / taken) for most, taken in CGROUPS]
  return min(known)


def check(
  need: float, limit: float, what: str, hint: str, *, most: float | None = None
) -> None:
  """Raises ValueError if more memory is needed than may be used.

  Args:
    need: bytes.
    limit: the argument `memory_limit`, bytes.
    what: what needs them, for the sentence.
    hint: what to do instead.
    most: bytes that are free; None: those of `free`.
  """
  most = free() if most is None else most
  if need > limit:
    raise ValueError(
      f'{what} needs {format_bytes(need)}, above'
      f' memory_limit={format_bytes(limit)}: {hint}, or raise memory_limit'
    )
  if need > most:
    raise ValueError(
      f'{what} needs {format_bytes(need)}, and {format_bytes(most)} of memory are'
      f' free here: {hint}, or take a larger machine'
    )


@contextlib.contextmanager
def explained(
  stage: str, name: str, knob: str = 'batch_size'
) -> Iterator[None]:
  """A context in which running out of memory raises a ValueError that helps.

  The sentence says which stage ran out of memory, and which argument to lower.

  Args:
    stage: what was being done.
    name: of the method or call.
    knob: the argument that memory grows with.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if isinstance(error, jax.errors.JaxRuntimeError) and not RAN_OUT.search(
      str(error)
    ):
      raise
    match = re.search(r'allocat\w+ (\d+) bytes', str(error))
    wanted = f' (it asked for {format_bytes(int(match[1]))})' if match else ''
    raise ValueError(
      f'{name} ran out of memory in {stage}{wanted}: lower {knob}, or give fewer'
      ' queries at once'
    ) from error


def format_bytes(count: float) -> str:
  """A number of bytes as text, for example '1.5 GB'."""
  for unit, size in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
    if count >= size:
      return f'{count / size:.1f} {unit}'
  return f'{count:.0f} bytes'


def _device_stats():
  """Memory statistics of the default device; None on a CPU."""
  device = jax.local_devices()[0]
  return device.memory_stats() if device.platform != 'cpu' else None


def _available(root) -> float:
  kilobytes = _line(root / 'proc/meminfo', 'MemAvailable')
  return kilobytes * 1024 if kilobytes is not None else float('inf')


def _address_space(root) -> float:
  try:
    import resource
  except ImportError:  # not on this system
    return float('inf')
  soft, _ = resource.getrlimit(resource.RLIMIT_AS)
  taken = _line(root / 'proc/self/status', 'VmSize')
  if soft == resource.RLIM_INFINITY or taken is None:
    return float('inf')
  return max(0.0, soft - taken * 1024)


def _line(path, name) -> int | None:
  try:
    match = re.search(rf'^{name}:\s+(\d+)', path.read_text(), re.M)
  except OSError:
    return None
  return int(match[1]) if match else None


def _remaining(most, taken) -> float:
  try:
    return float(int(most.read_text()) - int(taken.read_text()))
  except (OSError, ValueError):  # none, or 'max'
    return float('inf')
