"""Many devices and hosts: the only file that names mesh axes.

The devices of a process divide what has a leading axis and is many: the batches of
a pass over the rows (`summed`, `apart`), the rows of a scored batch, the members of
an ensemble (`apart`), the matrices whose eigenvectors are wanted (`dealt`). Each
has its share as an entry of a leading axis, over which the program is mapped. A verb
uses all devices of its process (`all_devices`), or the mesh that the user has set.

What is large and that every share needs, parameters, factors and queries, is a copy
on each device, unless the mesh has a second axis, `model`: then the devices along it
have a part of each such array (`placed`, `held`) and of the rows of a share
(`spread`), and XLA exchanges what is missing, layer by layer.

Hosts run the same program and share a folder. What is one piece of work (a record)
process 0 does, and the others read it (`in_turn`). What is many pieces (rows to
score, models to train) they share (`share`), and wait for each other (`barrier`).
A fit and a solve are one program on the devices of all hosts (`by_all_hosts`);
there, and where the results of all shares are wanted in memory (`by_share`), hosts
send arrays to each other. A host that ends takes the others with it, within seconds
and with a sentence (`together`).
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
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tda_jax.trees import PyTree

DATA = 'data'  # of rows, batches, members: what is divided
MODEL = 'model'  # of the entries of large arrays: parameters, factors, queries
LEAST = 2**14  # entries of an array that is divided over `model`
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


def by_share(
  work: Callable[[int], PyTree],
  count: int,
  spare: Callable[[], PyTree] | None = None,
) -> list[PyTree]:
  """[work(0), ..., work(count − 1)] on every host; each computes its `share`.

  All hosts must call it.

  Args:
    work: number -> tree of arrays, of the same shapes for all numbers.
    spare: arrays of those shapes, for a host that has no number; None: it does
      the last one, as another host does.
  """
  if jax.process_count() == 1:
    return [work(number) for number in range(count)]
  mine = [work(int(number)) for number in share(np.arange(count))]
  mine = mine or [work(count - 1) if spare is None else spare()]
  short = -(-count // jax.process_count()) - len(mine)
  # One at a time: each device holds what is sent, of all hosts.
  gathered = [
    multihost_utils.process_allgather(jax.tree.map(np.asarray, one))
    for one in (*mine, *mine[-1:] * short)
  ]

  def done(number):
    place, host = divmod(number, jax.process_count())
    return jax.tree.map(lambda x: x[host], gathered[place])

  return [done(number) for number in range(count)]


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


def mesh(devices: Sequence[Any] | None = None, model: int = 1) -> Mesh:
  """Devices in a row, or in a grid whose second axis divides large arrays.

  Args:
    devices: None: those of this process.
    model: devices along the axis `model`; 1: there is no such axis.

  Raises:
    ValueError: `model` does not divide their number.
  """
  devices = jax.local_devices() if devices is None else devices
  count = len(devices)
  if model < 1 or count % model:
    raise ValueError(
      f'model={model} does not divide {count} devices: give a number that does'
    )
  shape, names = ((count,), (DATA,))
  if model > 1:
    shape, names = (count // model, model), (DATA, MODEL)
  kinds = (AxisType.Auto,) * len(shape)
  return jax.make_mesh(shape, names, kinds, devices=devices)


@contextlib.contextmanager
def all_devices() -> Iterator[None]:
  """Lets the body use all devices of this process, or the first TDA_DEVICES.

  Nothing changes where that is one, or where a mesh is set already, by
  `jax.set_mesh`: its axis `data`, if it has one, is then the one that divides.

  Raises:
    ValueError: that mesh has devices of other hosts.
  """
  _refuse_other_hosts()
  used = jax.local_devices()[: _most_devices()]
  if len(used) == 1 or jax.sharding.get_abstract_mesh().axis_names:
    yield
    return
  with jax.set_mesh(mesh(used)):
    yield


def _refuse_other_hosts() -> None:
  """Each host scores rows of its own, as a program that the others do not run."""
  if not jax.sharding.get_abstract_mesh().axis_names:
    return
  here = jax.process_index()
  if any(d.process_index != here for d in jax.sharding.get_mesh().devices.flat):
    raise ValueError(
      'the mesh that is set has devices of other hosts, and a verb sets up those'
      ' itself: set one of the devices of each host (parallel.mesh(model=...)), or'
      ' none'
    )


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


def parts() -> int:
  """Over how many devices a large array is divided: those of the axis `model`."""
  here = jax.sharding.get_abstract_mesh()
  return here.shape[MODEL] if MODEL in here.axis_names else 1


def placed(params: PyTree, rule: PyTree = None) -> PyTree:
  """Parameters divided over the axis `model` of the mesh that is set.

  Args:
    params: arrays, or their shapes (`jax.ShapeDtypeStruct`), which are returned
      with shardings.
    rule: a tree like `params` of `jax.sharding.PartitionSpec`; None: the largest
      axis, of those that the number of devices divides, of each leaf of LEAST
      entries or more; smaller leaves are copies.
  """
  if rule is None:
    rule = jax.tree.map(lambda x: _by_rule(x.shape), params)
  return _put(params, rule)


def replicate(tree: PyTree) -> PyTree:
  """Copies the arrays of `tree` to every device, once for many calls.

  Those that are divided over `model` (`placed`) stay so.
  """
  if devices() == 1 and parts() == 1:
    return jax.tree.map(jnp.asarray, tree)

  def spec(x):
    divided = _axes(getattr(x, 'sharding', None))
    return x.sharding if MODEL in divided else PartitionSpec()

  return _put(tree, jax.tree.map(spec, tree))


def taken_in(given: PyTree) -> PyTree:
  """What a user gave, with arrays that are bound to other devices copied to these.

  Other things, and what is no tree that JAX knows, stay as they are.
  """
  if devices() == 1 and parts() == 1:
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
  except (TypeError, ValueError):  # keys without an order: the door says so
    return given


def by_all_hosts(program: Callable[..., PyTree], *given: PyTree) -> PyTree:
  """`program(*given)`, to which the devices of all hosts contribute.

  All hosts must call it, with equal arguments, and each gets the result.
  """
  given = replicate(given)
  if jax.process_count() == 1:
    return program(*given)
  all_of_them = mesh(_of_hosts())
  everywhere = NamedSharding(all_of_them, PartitionSpec())
  with jax.set_mesh(all_of_them):
    given = jax.tree.map(functools.partial(_on_hosts, everywhere), given)
    result = jax.jit(lambda x: x, out_shardings=everywhere)(program(*given))
    local = jax.tree.map(_here, result)
  return replicate(local)


def _of_hosts() -> list[Any]:
  """The devices that each process uses, of all processes."""
  used, most = [], _most_devices()
  for process in range(jax.process_count()):
    own = [d for d in jax.devices() if d.process_index == process]
    used += own[:most]
  return used


def _here(leaf):
  """An array that all devices have, as this host's."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = _here(jax.random.key_data(leaf))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  return np.asarray(leaf.addressable_data(0))


def _on_hosts(everywhere, leaf):
  """An array that all hosts have, as one array on all devices."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = _on_hosts(everywhere, jax.random.key_data(leaf))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  values = np.asarray(leaf)
  return jax.make_array_from_callback(
    values.shape, everywhere, lambda index: values[index]
  )


def rows_placed(tree: PyTree) -> PyTree:
  """Rows [N, ...] divided over the axis `data`, for rows too many to copy."""
  return _put(tree, jax.tree.map(lambda _: PartitionSpec(DATA), tree))


def _put(tree, specs):
  """The tree with these shardings, whether it is of arrays or of shapes."""
  if not any(
    isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(tree)
  ):
    return jax.device_put(tree, specs)
  here = jax.sharding.get_mesh()
  return jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(here, spec)
    ),
    tree,
    specs,
  )


def _axes(sharding):
  """The axes of the mesh that an array is divided over."""
  spec = sharding.spec if isinstance(sharding, NamedSharding) else ()
  return set(jax.tree.leaves(tuple(spec)))


def _by_rule(shape):
  """Of an array: the last of its largest axes that `parts` divides over `model`."""
  number = parts()
  spec: list[str | None] = [None] * len(shape)
  fit = [i for i, length in enumerate(shape) if length % number == 0]
  if number > 1 and fit and np.prod(shape) >= LEAST:
    spec[max(fit, key=lambda i: (shape[i], i))] = MODEL
  return PartitionSpec(*spec)


def held(tree: PyTree) -> PyTree:
  """Within a program: values of which every share of the rows needs all.

  Each device has a copy, or, of arrays of LEAST entries or more, its part along
  the axis `model`.
  """
  if devices() == 1 and parts() == 1:
    return tree
  return jax.lax.with_sharding_constraint(
    tree, jax.tree.map(lambda x: _by_rule(x.shape), tree)
  )


def spread(tree: PyTree) -> PyTree:
  """Within a program: rows [B, ...], whose work the axis `model` divides too."""
  number = parts()
  if number == 1 or _count(tree) % number:
    return tree
  return _divided(MODEL, tree)


def _divided(axis, tree):
  """Arrays whose leading axis is divided over `axis`; XLA chooses the others."""
  free = PartitionSpec.UNCONSTRAINED
  specs = jax.tree.map(
    lambda x: PartitionSpec(axis, *[free] * (x.ndim - 1)), tree
  )
  return jax.lax.with_sharding_constraint(tree, specs)


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


def from_host(host: Callable, like: PyTree, *args: Any) -> PyTree:
  """`jax.pure_callback` by each device for its own share; a tree like `like`.

  Within a share of the rows, or within `dealt`. All results get the same rank:
  on a TPU, JAX gives all of them the sharding of the first.
  """
  rank = max(len(s.shape) for s in jax.tree.leaves(like))
  ones = lambda s: (1,) * (rank - len(s.shape))

  def answer(*args):
    widened = lambda x, s: np.reshape(x, (*np.shape(x), *ones(s)))
    return jax.tree.map(widened, host(*args), like)

  wide = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((*s.shape, *ones(s)), s.dtype), like
  )
  ask = functools.partial(
    jax.pure_callback, answer, wide, vmap_method='broadcast_all'
  )
  if _within_share.get():
    everywhere = PartitionSpec()
    ask = jax.shard_map(
      ask, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
  return jax.tree.map(lambda x, s: x.reshape(s.shape), ask(*args), like)


def dealt(
  function: Callable[[jax.Array], PyTree], items: dict[Any, jax.Array]
) -> dict[Any, PyTree]:
  """{name: function(items[name])}, of whose matrices each device has some.

  Args:
    function: [n, I, I] -> tree of [n, ...], any number of matrices that never
      talk; it closes over no arrays.
    items: stacks of matrices [*stack, I, I]. Those of one size are dealt
      together.
  """
  if _within_share.get() or devices() * parts() == 1:
    return {name: function(stack) for name, stack in items.items()}
  by_size = {}
  for name, stack in items.items():
    by_size.setdefault(stack.shape[-2:], []).append(name)
  done = {}
  for size, names in by_size.items():
    stacks = [items[name].reshape(-1, *size) for name in names]
    values = _deal(function, jnp.concatenate(stacks))
    ends = np.cumsum([len(stack) for stack in stacks])[:-1]
    for number, name in enumerate(names):
      own = lambda x: jnp.split(x, ends)[number]  # noqa: B023
      lead = items[name].shape[:-2]
      done[name] = jax.tree.map(
        lambda x: own(x).reshape(*lead, *x.shape[1:]),  # noqa: B023
        values,
      )
  return held(done)


def _deal(function, matrices):
  """`function` of matrices [n, I, I], each of which one device does."""
  here = jax.sharding.get_abstract_mesh()
  axes = tuple(name for name in (MODEL, DATA) if name in here.axis_names)
  count, n = devices() * parts(), len(matrices)

  def of_share(share):
    first = jax.lax.axis_index(axes) * len(share)
    like = jax.eval_shape(function, share)
    zeros = lambda _: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
    return jax.lax.cond(first < n, function, zeros, share)

  matrices = jnp.pad(matrices, ((0, -n % count), (0, 0), (0, 0)))
  # By way of the axis that the matrices were divided over: else all are gathered.
  matrices = jax.lax.with_sharding_constraint(matrices, PartitionSpec(axes[:1]))
  spec = PartitionSpec(axes)
  values = jax.shard_map(
    of_share, in_specs=spec, out_specs=spec, check_vma=False
  )(matrices)
  values = jax.lax.with_sharding_constraint(values, PartitionSpec(axes[:1]))
  return jax.tree.map(lambda x: x[:n], values)


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
  shares = _divided(DATA, jax.tree.map(cut, parts))
  token = _within_share.set(True)
  try:
    values = jax.vmap(function, spmd_axis_name=DATA)(shares)
  finally:
    _within_share.reset(token)
  return _divided(DATA, values)
