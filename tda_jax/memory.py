"""Memory: what is free, what may be taken, and what to do where it ran out."""

import contextlib
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


def free(root: str = '/') -> float:
  """Bytes that a computation of this process can still take.

  Of the accelerator it runs on; else the least of what the machine, its cgroup
  and the limit of the process's address space leave. Infinity: not known.

  Args:
    root: where /proc and /sys are.
  """
  stats = _device_stats()
  if stats is not None and 'bytes_limit' in stats:
    return float(stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  root = pathlib.Path(root)
  known = [_available(root), _address_space(root)]
  known += [_left(root / most, root / taken) for most, taken in CGROUPS]
  return min(known)


def check(
  need: float, limit: float, what: str, cure: str, *, most: float | None = None
) -> None:
  """Raises ValueError where more is needed than may be taken.

  Args:
    need: bytes.
    limit: the argument `memory_limit`, bytes.
    what: what needs them, for the sentence.
    cure: what to do instead.
    most: bytes that are free; None: those of `free`.
  """
  most = free() if most is None else most
  if need > limit:
    raise ValueError(
      f'{what} needs {said_bytes(need)}, above memory_limit={said_bytes(limit)}:'
      f' {cure}, or raise memory_limit'
    )
  if need > most:
    raise ValueError(
      f'{what} needs {said_bytes(need)}, and {said_bytes(most)} of memory are free'
      f' here: {cure}, or take a larger machine'
    )


@contextlib.contextmanager
def explained(
  stage: str, name: str, knob: str = 'batch_size'
) -> Iterator[None]:
  """Says which stage of what ran out of memory, and what to lower.

  Args:
    knob: the argument that memory grows with.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if isinstance(error, jax.errors.JaxRuntimeError) and not RAN_OUT.search(
      str(error)
    ):
      raise
    asked = re.search(r'allocat\w+ (\d+) bytes', str(error))
    wanted = f' (it asked for {said_bytes(int(asked[1]))})' if asked else ''
    raise ValueError(
      f'{name} ran out of memory in {stage}{wanted}: lower {knob}, or give fewer'
      ' queries at once'
    ) from error


def said_bytes(count: float) -> str:
  """A number of bytes as people say it."""
  for unit, size in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
    if count >= size:
      return f'{count / size:.1f} {unit}'
  return f'{count:.0f} bytes'


def _device_stats():
  """What the default device tells of its memory; a CPU tells nothing."""
  device = jax.local_devices()[0]
  return device.memory_stats() if device.platform != 'cpu' else None


def _available(root) -> float:
  found = _line(root / 'proc/meminfo', 'MemAvailable')
  return found * 1024 if found is not None else float('inf')


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
    found = re.search(rf'^{name}:\s+(\d+)', path.read_text(), re.M)
  except OSError:
    return None
  return int(found[1]) if found else None


def _left(most, taken) -> float:
  try:
    return float(int(most.read_text()) - int(taken.read_text()))
  except (OSError, ValueError):  # none, or 'max'
    return float('inf')
