"""Many devices and hosts: the only file that names mesh axes.

`vmap` says what is computed and sharding where. Axes: `member` for models that
never talk to each other, `data` for examples.
"""

import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tda_jax.trees import PyTree

MEMBER = 'member'
DATA = 'data'


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
