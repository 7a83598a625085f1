"""Many devices and hosts: the only file that names mesh axes.

`vmap` says what is computed and sharding where. Axes: `member` for models that
never talk to each other, `data` for examples.

Hosts run the same program and share a folder. What is one piece of work (training
a stack of models, a record) process 0 does, and the others read it (`in_turn`).
What is many pieces (rows to score, models to retrain) they share (`share`), and
wait for each other (`barrier`). They never send arrays to each other. A host that
ends takes the others with it, within seconds and with a sentence (`together`).
"""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tda_jax.trees import PyTree

MEMBER = 'member'
DATA = 'data'
BEAT = 2.0  # seconds between two signs of life of a host
PATIENCE = 15.0  # seconds without one, after which a host counts as ended
LONGEST = 7 * 24 * 3600  # seconds that hosts wait for each other's work
ENDED = 'ended'  # sign of a host whose program came to its end
_barriers = itertools.count()


def start() -> None:
  """Joins the other hosts, if there are any; before any other use of JAX.

  With TDA_DISTRIBUTED=1, JAX finds the other hosts by itself (TPU, Slurm,
  Kubernetes). With TDA_NUM_PROCESSES above 1, TDA_PROCESS_ID and
  TDA_COORDINATOR (host:port of process 0) identify them. With neither, there is
  one process.

  Raises:
    ValueError: a variable is missing.
  """
  count = int(os.environ.get('TDA_NUM_PROCESSES', 1))
  if count > 1:
    missing = [
      name
      for name in ('TDA_PROCESS_ID', 'TDA_COORDINATOR')
      if name not in os.environ
    ]
    if missing:
      raise ValueError(
        f'TDA_NUM_PROCESSES={count} but {" and ".join(missing)} is not set: set'
        ' the number of this process and host:port of process 0'
      )
    jax.distributed.initialize(
      coordinator_address=os.environ['TDA_COORDINATOR'],
      num_processes=count,
      process_id=int(os.environ['TDA_PROCESS_ID']),
    )
  elif os.environ.get('TDA_DISTRIBUTED', '0') not in ('', '0'):
    jax.distributed.initialize()


def owner() -> bool:
  """Whether this process writes what is written once: process 0 does."""
  return jax.process_index() == 0


def share(numbers: np.ndarray) -> np.ndarray:
  """Those of the numbers of pieces of work that this process does."""
  return numbers[numbers % jax.process_count() == jax.process_index()]


def barrier() -> None:
  """Waits until all processes are here; nothing where there is one."""
  if jax.process_count() > 1:
    name = f'tda_jax/{next(_barriers)}'
    _client().wait_at_barrier(name, 1000 * LONGEST)


def in_turn(work: Callable[[], Any]) -> Any:
  """What `work` returns: process 0 does it, then the others, who find it done.

  `work` must keep its results in the folder that all share, and look there first.
  """
  if jax.process_count() == 1:
    return work()
  done = work() if owner() else None
  barrier()
  done = done if owner() else work()
  barrier()
  return done


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Ends this process with a sentence if another one ends within the body.

  Each process gives a sign of life every BEAT seconds; a process whose sign stays
  the same for PATIENCE seconds, or is an error, has ended. If it was killed and
  is process 0, which has JAX's service, JAX ends the others at once itself, with
  words of its own.
  """
  if jax.process_count() == 1:
    yield
    return
  stop, ended = threading.Event(), threading.Event()
  watch = threading.Thread(target=_watch, args=(stop, ended), daemon=True)
  watch.start()
  try:
    yield
    ended.set()
    _sign(ENDED)
    barrier()  # else the one that leaves first takes the others' service along
  except BaseException as error:
    _sign(f'{type(error).__name__}: {error}')
    stop.set()
    if owner():  # which has the service: until the others have seen it
      time.sleep(2 * BEAT)
    raise
  finally:
    stop.set()
    watch.join()


def _watch(stop: threading.Event, ended: threading.Event) -> None:
  """Gives signs of life and looks at those of the others, until `stop`."""
  others = set(range(jax.process_count())) - {jax.process_index()}
  since: dict[int, tuple] = {p: (None, time.monotonic()) for p in others}
  for beat in itertools.count():
    try:
      _sign(ENDED if ended.is_set() else str(beat))
      signs = {p: _sign_of(p) for p in others}
    except Exception:  # the service, which process 0 has, does not answer
      signs = {min(others): 'lost'}
    for process, sign in signs.items():
      if sign != since[process][0]:
        since[process] = sign, time.monotonic()
      late = sign != ENDED and time.monotonic() - since[process][1] > PATIENCE
      failed = bool(sign) and sign != ENDED and not sign.isdigit()
      if (late or failed) and not stop.is_set():
        print(
          f'error: process {process} of {jax.process_count()} has ended'
          + (f' ({sign})' if failed and sign != 'lost' else '')
          + ', so that this one ends too: run the same command again on all of'
          ' them, or on fewer, which continues',
          file=sys.stderr,
          flush=True,
        )
        time.sleep(BEAT / 2)  # in which that one says more
        os._exit(1)
    if stop.wait(BEAT):
      return


def _sign(text: str) -> None:
  name = f'tda_jax/process/{jax.process_index()}'
  _client().key_value_set(name, text, allow_overwrite=True)


def _sign_of(process: int) -> str | None:
  """The last sign of a process; None before its first one."""
  try:
    return _client().key_value_try_get(f'tda_jax/process/{process}')
  except Exception as error:
    if 'NOT_FOUND' in str(error):
      return None
    raise


def _client() -> Any:
  """JAX's client of the service that connects the processes of a job."""
  return distributed.global_state.client


def mesh(members: int = 1) -> Mesh:
  """All devices of all hosts as [members, devices / members].

  Raises:
    ValueError: `members` does not divide the number of devices.
  """
  count = jax.device_count()
  if members < 1 or count % members:
    raise ValueError(
      f'{count} devices cannot form {members} equal groups: give a number of'
      f' members on the mesh that divides {count}'
    )
  return jax.make_mesh(
    (members, count // members),
    (MEMBER, DATA),
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def shard(batch: PyTree, mesh: Mesh) -> PyTree:
  """Places the leading axis of every leaf over `data`.

  On many hosts every process gives the same whole batch.

  Raises:
    ValueError: the leading axis is not a multiple of the devices on `data`.
  """
  return _place(batch, mesh, DATA)


def shard_members(tree: PyTree, mesh: Mesh) -> PyTree:
  """Places the leading axis, which counts members, over `member`.

  Raises:
    ValueError: the leading axis is not a multiple of the mesh's members.
  """
  return _place(tree, mesh, MEMBER)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """A copy on every device."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def _place(tree, mesh, axis):
  parts = mesh.shape[axis]
  for path, leaf in jax.tree.leaves_with_path(tree):
    shape = jax.numpy.shape(leaf)
    if not shape or shape[0] % parts:
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      raise ValueError(
        f'leaf {name!r} of shape {shape} cannot be spread over {parts} devices'
        f' of mesh axis {axis!r}: pad its leading axis to a multiple of {parts}'
      )
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(axis)))
