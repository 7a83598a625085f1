"""Many devices and hosts: the only file that names mesh axes.

The devices of a process divide what has a leading axis and is many: the batches of
a pass over the rows (`summed`, `apart`), the rows of a scored batch, the members of
an ensemble (`apart`), the layers whose eigenvectors are wanted (`dealt`). Each has
its share as an entry of a leading axis, over which the program is mapped. Parameters and factors are copies on each. A verb uses all devices of its process
(`all_devices`), or the mesh that the user has set.

Hosts run the same program and share a folder. What is one piece of work (training
a stack of models, a record) process 0 does, and the others read it (`in_turn`).
What is many pieces (rows to score, models to retrain) they share (`share`), and
wait for each other (`barrier`). A fit and a solve are one program on the devices of
all hosts (`by_all_hosts`), the one place where hosts send arrays to each other. A
host that
ends takes the others with it, within seconds and with a sentence (`together`).
"""

import contextlib
import contextvars
import functools
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tda_jax.trees import PyTree

DATA = 'data'  # of rows, batches, members: what is divided
BEAT = 2.0  # seconds between two signs of life of a host
PATIENCE = 15.0  # seconds without one, after which a host counts as ended
LONGEST = 7 * 24 * 3600  # seconds that hosts wait for each other's work
ENDED = 'ended'  # sign of a host whose program came to its end
_barriers = itertools.count()
# Whether what is traced is one device's share of something.
_within_share = contextvars.ContextVar('within_share', default=False)


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


# --- devices ----------------------------------------------------------------


def mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """Devices in a row.

  Args:
    devices: None: those of this process.
  """
  devices = jax.local_devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices),), (DATA,), (AxisType.Auto,), devices=devices
  )


@contextlib.contextmanager
def all_devices() -> Iterator[None]:
  """Lets the body use all devices of this process, or the first TDA_DEVICES.

  Nothing changes where that is one, or where a mesh is set already, by
  `jax.set_mesh`: its axis `data`, if it has one, is then the one that divides.
  """
  used = jax.local_devices()[: _most_devices()]
  if len(used) == 1 or jax.sharding.get_abstract_mesh().axis_names:
    yield
    return
  with jax.set_mesh(mesh(used)):
    yield


def _most_devices() -> int | None:
  given = os.environ.get('TDA_DEVICES')
  if given is None:
    return None
  if not given.isdigit() or given == '0':
    raise ValueError(
      f'TDA_DEVICES={given!r}: give the number of devices that a process uses,'
      ' at least 1, or leave it out for all'
    )
  return int(given)


def no_mesh() -> contextlib.AbstractContextManager:
  """Within it, what is traced is the same whatever the devices."""
  if not jax.sharding.get_abstract_mesh().axis_names:
    return contextlib.nullcontext()
  return jax.set_mesh(None)


def devices() -> int:
  """Over how many devices work is divided here; 1 within a share of it."""
  here = jax.sharding.get_abstract_mesh()
  if _within_share.get() or DATA not in here.axis_names:
    return 1
  return here.shape[DATA]


def replicate(tree: PyTree) -> PyTree:
  """Copies the arrays of `tree` to every device, once for many calls."""
  if devices() == 1:
    return jax.tree.map(jnp.asarray, tree)
  return jax.device_put(tree, PartitionSpec())


def taken_in(given: PyTree) -> PyTree:
  """What a user gave, with arrays that are bound to other devices copied to these.

  Other things, and what is no tree that JAX knows, stay as they are.
  """
  if devices() == 1:
    return given
  here = set(jax.sharding.get_mesh().devices.flat)

  def placed(leaf):
    elsewhere = (
      isinstance(leaf, jax.Array)
      and not isinstance(leaf, jax.core.Tracer)
      and leaf.committed
      and leaf.sharding.device_set != here
    )
    return jax.device_put(leaf, PartitionSpec()) if elsewhere else leaf

  try:
    return jax.tree.map(placed, given)
  except (
    TypeError,
    ValueError,
  ):  # keys that cannot be sorted; the door says so
    return given


def by_all_hosts(program: Callable[..., PyTree], *given: PyTree) -> PyTree:
  """`program(*given)`, to which the devices of all hosts contribute.

  All hosts must call it, with equal arguments, and each gets the result.
  """
  given = replicate(given)
  if jax.process_count() == 1:
    return program(*given)
  everywhere = NamedSharding(mesh(jax.devices()), PartitionSpec())
  with jax.set_mesh(everywhere.mesh):
    given = jax.tree.map(functools.partial(_on_hosts, everywhere), given)
    result = jax.jit(lambda x: x, out_shardings=everywhere)(program(*given))
    local = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), result)
  return replicate(local)


def _on_hosts(everywhere, leaf):
  """An array that all hosts have, as one array on all devices."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = _on_hosts(everywhere, jax.random.key_data(leaf))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  values = np.asarray(leaf)
  return jax.make_array_from_callback(
    values.shape, everywhere, lambda index: values[index]
  )


def copied(tree: PyTree) -> PyTree:
  """Within a program: values that each device has all of from here on."""
  if devices() == 1:
    return tree
  return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def summed(function: Callable[[PyTree], PyTree], parts: PyTree) -> PyTree:
  """Σ over devices of `function` of each one's share of the parts.

  Args:
    function: parts, any number of them -> a sum over them.
    parts: a tree of leaves [C, ...]. If C is no multiple of the number of
      devices, they are not divided.
  """
  if devices() == 1 or _count(parts) % devices():
    return function(parts)
  values = _of_shares(function, parts)
  return jax.tree.map(lambda x: x.sum(0), values)


def apart(function: Callable[[PyTree], PyTree], parts: PyTree) -> PyTree:
  """`function(parts)`, of which each device computes a share.

  Args:
    function: [C, ...] -> [C, ...], any number of parts that never talk.
    parts: see `summed`. Where C is above the number of devices but no multiple
      of it, the last part is done more than once.
  """
  count = _count(parts)
  if devices() == 1 or count < devices():
    return function(parts)
  values = _of_shares(function, padded(parts, -count % devices()))
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], values)


def by_each(function: Callable) -> Callable:
  """A function that every device calls for its own share.

  For what asks the host, which else one device would do for all.
  """
  if not _within_share.get():
    return function
  everywhere = PartitionSpec()
  return jax.shard_map(
    function, in_specs=everywhere, out_specs=everywhere, check_vma=False
  )


def dealt(
  functions: dict[str, Callable[..., PyTree]], items: dict[str, tuple]
) -> dict[str, PyTree]:
  """{name: functions[name](*items[name])}: each by one device, for all.

  Args:
    functions: they close over no arrays.
  """
  count = devices()
  if count == 1:
    return {name: functions[name](*item) for name, item in items.items()}

  def deal(items):
    me = jax.lax.axis_index(DATA)
    values = {}
    for number, (name, item) in enumerate(items.items()):
      like = jax.eval_shape(functions[name], *item)
      zeros = functools.partial(_zeros, like)
      mine = jax.lax.cond(me == number % count, functions[name], zeros, *item)
      values[name] = jax.lax.psum(mine, DATA)
    return values

  everywhere = PartitionSpec()
  return jax.shard_map(
    deal, in_specs=everywhere, out_specs=everywhere, check_vma=False
  )(items)


def _zeros(like, *_):
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)


def padded(parts: PyTree, count: int) -> PyTree:
  """The parts [C, ...], and `count` copies of the last one behind them."""
  if not count:
    return parts
  return jax.tree.map(
    lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], count, 0)]), parts
  )


def _count(parts) -> int:
  return jax.tree.leaves(parts)[0].shape[0]


def _of_shares(function, parts):
  """Values [devices, ...] of each device's share [C / devices, ...] of the parts."""
  count = devices()
  cut = lambda x: x.reshape(count, -1, *x.shape[1:])
  shares = _spread(jax.tree.map(cut, parts))
  token = _within_share.set(True)
  try:
    values = jax.vmap(function, spmd_axis_name=DATA)(shares)
  finally:
    _within_share.reset(token)
  return _spread(values)


def _spread(tree):
  """Within a program: an entry of the leading axis on each device."""
  return jax.lax.with_sharding_constraint(tree, PartitionSpec(DATA))
