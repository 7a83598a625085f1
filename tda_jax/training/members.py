"""Training many models at once: the member axis E."""

import functools
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.typing import ArrayLike

from tda_jax import door, parallel, trees
from tda_jax.data import rows as rows_lib
from tda_jax.problem import Problem, bound
from tda_jax.run import Run
from tda_jax.storage import checkpoints as storage
from tda_jax.storage import files, fingerprint, record
from tda_jax.storage.fingerprint import digest as digest
from tda_jax.training import fit
from tda_jax.training.fit import Member, Recipe, State
from tda_jax.trees import PyTree

_log = logging.getLogger(__name__)


class Segment(NamedTuple):
  """Steps that are run without a stop: first..last−1 of an epoch."""

  epoch: int
  first: int
  last: int
  done: int  # steps of the whole run at its end


class Progress(NamedTuple):
  """How far training has come."""

  state: State  # of all members
  done: int  # steps
  snapshots: dict[int, tuple]  # step -> `_snapshot` of the state after it


@functools.partial(jax.jit, static_argnames=('recipe', 'n'))
def start(recipe: Recipe, n: int, keys: jax.Array) -> State:
  """The state of E members before the first step on n rows each."""
  return jax.vmap(lambda key: fit.start(recipe, n, key))(keys)


@functools.partial(
  jax.jit, static_argnames=('problem', 'recipe'), donate_argnames='state'
)
def train_steps(
  problem: Problem,
  recipe: Recipe,
  rows: PyTree,
  members: Member,
  state: State,
  *,
  epoch: ArrayLike,
  first: ArrayLike,
  last: ArrayLike,
) -> tuple[State, jax.Array]:
  """`fit.train_steps` of E members; `state` is donated.

  Devices divide the members, or, where these are fewer, the rows of a batch. Calls
  of equal shapes with the same problem and recipe compile once.

  Returns:
    (State, [E] whether the parameters are finite).
  """

  def train_member(member, state):
    when = {'epoch': epoch, 'first': first, 'last': last}
    state = fit.train_steps(problem, recipe, rows, member, state, **when)
    return state, _finite(state.params)

  both = (members, state)
  return parallel.apart(lambda share: jax.vmap(train_member)(*share), both)


@door.verb('training', 'the batch size or the members of one call')
def train(
  problem: Problem,
  recipe: Recipe,
  rows: PyTree,
  keys: jax.Array | int,
  *,
  subsets: np.ndarray | None = None,
  weights: np.ndarray | None = None,
  frozen: PyTree = None,
  checkpoints: int = 0,
  directory: str | os.PathLike | None = None,
  progress: bool | None = None,
  save_seconds: float = 30.0,
) -> Run:
  """Trains E members together, each as if it were alone.

  Member e minimises (1/n) Σ_i w_ei·loss_i(θ) + ½·l2·‖θ‖² over its rows by
  minibatches; its initialisation, order of rows and augmentation are functions
  of its key alone.

  Args:
    rows: leaves [N, ...].
    keys: [E] typed keys, or integers; one key is one member.
    subsets: [E, n] row numbers, or None: every member trains on all rows.
    weights: [E, N] of the losses, or None for ones. The batch mean divides by
      the number of rows, so that weight 0 is a row without gradient.
    frozen: what each model has besides its parameters, leaves [E, ...] (see
      `Run`), or None.
    checkpoints: C equally spaced snapshots, the last of the final parameters;
      of Adam with its second moments (`Run.second_moments`).
    directory: where the state is kept (in `directory`/state); the same call
      continues from it and ends with the same numbers. Hosts share the members;
      without a directory, each host trains all.
    progress: shows a bar.
    save_seconds: least time between two saves into `directory`.

  Raises:
    ValueError: bad rows, labels, keys, subsets, weights or frozen; a member
      diverged; `directory` is of another run or damaged.
  """
  door.check_path(directory)
  keys = jnp.atleast_1d(door.as_keys(keys))
  members = Member(keys, subsets, weights, frozen=frozen)
  rows = check(problem, recipe, rows, members)
  n = row_count(rows, members)
  total = fit.total_steps(recipe, n)
  if not isinstance(checkpoints, int) or not 0 <= checkpoints <= total:
    raise ValueError(
      f'{checkpoints} checkpoints of a run of {total} steps: give 0 to {total}'
    )
  steps = [round(total * (c + 1) / checkpoints) for c in range(checkpoints)]
  folder = None if directory is None else pathlib.Path(directory) / 'state'
  work = functools.partial(
    _train_resumably,
    problem,
    recipe,
    rows,
    steps=steps,
    save_seconds=save_seconds,
    progress=progress,
  )
  if folder is None:
    params, snapshots = _trained(work(members))
  else:
    with files.lock(folder):
      inputs = _inputs(problem, recipe, rows, members, steps)
      parallel.in_turn(lambda: record.begin(folder, inputs))
      params, snapshots = _train_parts(work, members, folder)
      record.complete(folder)
  stack = [snapshots[step] for step in steps]
  stack = jax.tree.map(lambda *x: np.stack(x, 1), *stack) if steps else None
  stack, moments = stack or (None, None)
  rates = _rates(recipe, total, steps)
  steps = np.array(steps)
  return Run(params, stack, rates, steps, members.key, frozen, moments)


def train_segments(
  problem: Problem,
  recipe: Recipe,
  rows: PyTree,
  members: Member,
  name: Callable = 'member {}'.format,
  stops: Sequence[int] = (),
) -> Iterator[tuple[Segment, PyTree]]:
  """Trains a stack of members, segment by segment; saves nothing.

  Yields every segment and the parameters [E, ...] after it. Use them before the
  next iteration: their memory is then overwritten.

  Args:
    rows, members: of `on_device`.
    name: what to call member e if it diverges.
    stops: steps of the run at which a segment ends too.
  """
  n = row_count(rows, members)
  state = start(recipe, n, members.key)
  for part in segments(recipe, n, stops):
    state = _train_segment(problem, recipe, rows, members, state, part, name)
    yield part, state.params


def segments(
  recipe: Recipe, n: int, stops: Sequence[int] = ()
) -> Iterator[Segment]:
  """Cuts the run at the ends of epochs and after the steps in `stops`."""
  steps = fit.steps_per_epoch(n, recipe.batch_size)
  for epoch in range(recipe.epochs):
    before = epoch * steps
    cuts = {s - before for s in stops if before < s < before + steps}
    cuts = [0, *sorted(cuts), steps]
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
      yield Segment(epoch, first, last, before + last)


def on_device(tree: PyTree) -> PyTree:
  """Copies the arrays of `tree` to the devices, once for many calls."""
  return parallel.replicate(tree)


def check(
  problem: Problem, recipe: Recipe, rows: PyTree, members: Member
) -> PyTree:
  """The rows, made plain; raises ValueError for what cannot be trained."""
  door.check_problem(problem, 'train(problem, recipe, rows, keys)')
  fit.check_recipe(recipe)
  rows = door.rows(rows, 'train', problem)
  keys, subsets, weights = members[:3]
  count = rows_lib.count(rows)
  if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
    raise ValueError(
      f'keys are {keys.dtype}{list(keys.shape)}: give [E] typed keys, as'
      ' jax.random.split(jax.random.key(0), E)'
    )
  if subsets is not None:
    subsets = _of_members(subsets, len(keys), 'subsets')
    if not np.issubdtype(subsets.dtype, np.integer) or (
      subsets.size == 0 or subsets.min() < 0 or subsets.max() >= count
    ):
      raise ValueError(
        f'subsets must hold row numbers from 0 to {count - 1}, at least one'
        ' for each member'
      )
  if weights is not None:
    weights = _of_members(weights, len(keys), 'weights', count)
    if not np.isfinite(weights).all():
      raise ValueError('weights hold NaN or infinity: give finite numbers')
  lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(members.frozen)}
  if not lengths <= {(len(keys),)}:
    raise ValueError(
      f'the leaves of frozen have leading axes {sorted(lengths)}: give one entry'
      f' for each of the {len(keys)} members'
    )
  total = fit.total_steps(recipe, row_count(rows, members))
  fit.check_schedule(recipe, total)
  params = jax.eval_shape(recipe.init, keys[0])
  door.parameters(params, 'the initial parameters')
  frozen = trees.row(members.frozen, 0)
  member_problem = bound(problem, frozen)
  door.check_rows_fit(member_problem, params, rows, 'train')
  door.check_differentiable(member_problem, params, rows)
  fit.check_optimizer(recipe, params, total)
  start = _initial(recipe.init, keys[0])
  door.check_independent(problem, start, frozen, rows)
  return rows


_initial = jax.jit(lambda init, key: init(key), static_argnums=0)


def identity(
  problem: Problem, recipe: Recipe, rows: PyTree, n: int, frozen: PyTree = None
) -> dict:
  """What identifies a training on n of the rows, for records.

  Args:
    frozen: of one member.
  """
  total = fit.total_steps(recipe, n)
  rate = recipe.learning_rate(total)
  return {
    'rows': rows_lib.count(rows),
    'rows_digest': digest(rows),
    'n': n,
    'batch_size': recipe.batch_size,
    'epochs': recipe.epochs,
    'learning_rate': [float(rate(t)) for t in (0, total // 2, total - 1)],
    'l2': problem.l2,
    'functions': fingerprint.of_training(problem, recipe, n, rows, frozen),
    'versions': fingerprint.versions(),
  }


def _train_parts(work, members, folder) -> tuple[PyTree, dict[int, tuple]]:
  """Trains parts of the members, of which hosts share; `_trained` of all.

  Args:
    work: `_train_resumably` of some members, the folder that keeps them and the
      number of the first.
    folder: of all.
  """
  folders = storage.parts(folder, len(members.key))
  count = np.arange(len(folders) + 1) * len(members.key)
  bounds = count // len(folders)

  def train_part(number):
    first, last = bounds[number], bounds[number + 1]
    part = rows_lib.take(members, slice(first, last))
    return _trained(work(part, folder=folders[number], first=first))

  trained = {
    number: train_part(number)
    for number in parallel.share(np.arange(len(folders)))
  }
  parallel.barrier()
  # Those of other hosts are at their end, so that they are read.
  parts = [
    trained.get(number) or train_part(number) for number in range(len(folders))
  ]
  if len(parts) == 1:
    return parts[0]
  joined = lambda *leaves: np.concatenate(leaves)
  params, snapshots = jax.tree.map(joined, *jax.device_get(parts))
  return on_device(params), snapshots


def _trained(progress: Progress) -> tuple[PyTree, dict[int, tuple]]:
  """(parameters, snapshots) of a training that is at its end."""
  return progress.state.params, progress.snapshots


def _train_resumably(
  problem,
  recipe,
  rows,
  members,
  *,
  steps,
  save_seconds,
  progress,
  folder=None,
  first=0,
) -> Progress:
  """Trains to the end of the run, from what `folder` holds of it.

  Args:
    steps: after which snapshots are taken.
    save_seconds: least time between two saves of the state.
    progress: shows a bar.
    folder: where snapshots and the latest state are saved; None: nowhere.
    first: number of the first member, for errors.
  """
  rows, members = on_device((rows, members))
  n = row_count(rows, members)
  total = fit.total_steps(recipe, n)
  state, begun, snapshots = _resumed(recipe, n, members, steps, folder)
  last_save = time.monotonic()
  bar = tqdm.tqdm(
    total=total,
    initial=begun,
    unit='step',
    desc='training',
    mininterval=1,
    disable=not progress,
  )
  with bar:
    for part in segments(recipe, n, steps):
      if part.done <= begun:
        continue
      name = lambda e: f'member {first + e}'
      state = _train_segment(problem, recipe, rows, members, state, part, name)
      if part.done in steps:
        snapshot = snapshots[part.done] = _snapshot(recipe, total, state)
        if folder is not None:
          _keep_snapshot(folder, part.done, snapshot)
      due = part.done == total or time.monotonic() - last_save >= save_seconds
      if folder is not None and due:
        storage.keep(folder, 'step', part.done, state)
        last_save = time.monotonic()
      bar.update(part.last - part.first)
  return Progress(state, total, snapshots)


def _train_segment(problem, recipe, rows, members, state, part, name) -> State:
  """The state after a segment; ValueError if a member, by its name, diverged."""
  state, finite = train_steps(
    problem,
    recipe,
    rows,
    members,
    state,
    epoch=part.epoch,
    first=part.first,
    last=part.last,
  )
  _check_finite(finite, part, recipe, name)
  return state


def _resumed(recipe, n, members, steps, folder) -> Progress:
  """Where training goes on: the newest saved state and the snapshots before it.

  Training starts again if no state is saved, or if a snapshot is lost.
  """
  step = None if folder is None else storage.newest(folder, 'step')
  if step is None:
    return Progress(start(recipe, n, members.key), 0, {})
  steps_there = [s for s in steps if s <= step]
  folder = cast(pathlib.Path, folder)  # None: no step is there
  like = jax.eval_shape(lambda keys: start(recipe, n, keys), members.key)
  of = functools.partial(_second_moments, recipe, fit.total_steps(recipe, n))
  parts = like.params, jax.eval_shape(of, like)
  paths = {s: _paths(folder, s, parts) for s in steps_there}
  lost = [p for path in paths.values() for p in path if not storage.whole(p)]
  if lost:
    _log.warning('%s is lost or damaged: training starts again', lost[0])
  if lost:
    return Progress(start(recipe, n, members.key), 0, {})
  state = on_device(storage.load(folder / f'step_{step}', like))
  load = lambda path: tuple(map(storage.load, path, parts))
  snapshots = {s: (*load(path), None)[:2] for s, path in paths.items()}
  return Progress(state, step, snapshots)


def _snapshot(recipe, total, state):
  """(parameters, Adam's second moments or None) of all members, on the host."""
  moments = _second_moments(recipe, total, state)
  return jax.device_get((state.params, moments))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _second_moments(recipe, total, state):
  optimizer = recipe.optimizer(total)
  return jax.vmap(lambda one: fit.second_moments(optimizer, one))(state)


def _keep_snapshot(folder, step, parts):
  """Saves a snapshot; replaces one that a killed process has saved before."""
  for path, part in zip(_paths(folder, step, parts), parts, strict=False):
    shutil.rmtree(path, ignore_errors=True)
    storage.save(path, part)


def _paths(folder, step, parts):
  """Where the parts of a snapshot are that it has."""
  names = ('snapshot', 'moments')[: 1 + (parts[1] is not None)]
  return [folder / f'{name}_{step}' for name in names]


def row_count(rows: PyTree, members: Member) -> int:
  """Number n of rows that each member of a stack trains on."""
  if members.subset is None:
    return rows_lib.count(rows)
  return np.shape(members.subset)[1]


def _finite(params):
  return jnp.stack(
    [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
  ).all()


def _check_finite(finite, part: Segment, recipe, name):
  """Raises ValueError if the parameters of a member are not finite."""
  finite = np.asarray(finite)
  if not finite.all():
    raise ValueError(
      f'{name(int(np.argmin(finite)))} diverged in epoch {part.epoch + 1} of'
      f' {recipe.epochs} (its parameters are not finite): lower the learning'
      ' rate (or weight decay) and run again, in a new folder if it is kept in one'
    )


def _rates(recipe, total, steps):
  """Mean learning rate of the steps since the checkpoint before, [C]."""
  if not steps:
    return np.zeros(0)
  rates = jax.vmap(recipe.learning_rate(total))(jnp.arange(total))
  rates = np.broadcast_to(rates, (total,))
  spans = zip([0, *steps[:-1]], steps, strict=True)
  return np.array([rates[first:last].mean() for first, last in spans])


def _of_members(array, members, name, rows=None):
  try:
    array = np.asarray(array)
  except ValueError:
    raise ValueError(f'{name} have lines of different lengths') from None
  fits = array.ndim == 2 and array.shape[0] == members
  if not fits or (rows is not None and array.shape[1] != rows):
    raise ValueError(
      f'{name} have shape {array.shape}: give one line for each of the'
      f' {members} members' + (f', [{members}, {rows}]' if rows else '')
    )
  return array


def _inputs(problem, recipe, rows, members, steps):
  frozen = members.frozen
  n, member_frozen = row_count(rows, members), trees.row(frozen, 0)
  return {
    **identity(problem, recipe, rows, n, member_frozen),
    'members': len(members.key),
    'keys': digest(members.key),
    'subsets': digest(members.subset),
    'weights': digest(members.weights),
    'checkpoints': steps,
    **({} if frozen is None else {'frozen': digest(frozen)}),
  }
