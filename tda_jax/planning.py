"""Predicts what scoring takes, before it runs."""

import functools
from typing import Any, NamedTuple

import jax

from tda_jax import cost, door, memory, pods
from tda_jax.data import rows as rows_lib
from tda_jax.methods import method as method_lib
from tda_jax.methods.method import Method
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.storage import fingerprint
from tda_jax.trees import PyTree


class Stage(NamedTuple):
  """The memory of one compiled program, in bytes.

  Attributes:
    name: 'prepare' (fit and solve for all queries) or 'score' (one batch).
    arguments: the rows, parameters and prepared queries it is given.
    results: its outputs.
    working: temporary memory while it runs.
  """

  name: str
  arguments: int
  results: int
  working: int

  @property
  def total(self) -> int:
    """Bytes at its peak."""
    return self.arguments + self.results + self.working


class Plan(NamedTuple):
  """The memory that scoring takes, and what is free.

  Attributes:
    stages: in the order they run; they do not run at the same time.
    free: bytes that are free here (`memory.free`); infinity: not known.
  """

  stages: tuple[Stage, ...]
  free: float

  @property
  def peak(self) -> int:
    """Bytes of the stage that takes most."""
    return max(stage.total for stage in self.stages)

  @property
  def fits(self) -> bool:
    """Whether the largest stage fits what is free."""
    return self.peak <= self.free

  def __str__(self):
    said = memory.format_bytes
    lines = [
      f'{s.name:8} {said(s.total):>10}  ({said(s.arguments)} given,'
      f' {said(s.results)} left, {said(s.working)} at work)'
      for s in self.stages
    ]
    free = said(self.free) if self.free < float('inf') else 'an unknown amount'
    return '\n'.join([*lines, f'{free} of memory are free'])


@door.verb('plan')
def plan(
  method: Method,
  problem: Problem,
  run: Run | PyTree,
  train: PyTree,
  queries: PyTree,
  *,
  key: jax.Array | int | None = None,
  batch_size: int = 256,
  pod: str | None = None,
  model: int = 1,
  queries_at_once: int | None = None,
) -> Plan | pods.PodPlan:
  """The memory that `attribute` with the same arguments would take.

  The figures are the memory analysis of its compiled programs; nothing is
  computed. The scores, 4 bytes for each row and query, are on the host.

  Args:
    pod: chips that are not here, as 'v5e:16x16' or 'v5e:256': the plan is then
      of their bytes and seconds in `fit`, `solve` and `score`, by the formulas of
      docs/scaling.md, which are of EKFAC. None: memory, of this machine.
    model: of the pod's chips, those that divide parameters, factors and queries.
    queries_at_once: of the pod's plan, as in `score`; None: all.

  Raises:
    ValueError: what `door.enter` refuses; what the method itself refuses, for
      example a matrix above its memory limit; there is no such pod, or a stage
      does not fit it.
  """
  door.check_batch_size(batch_size)
  if queries_at_once is not None:
    door.check_batch_size(queries_at_once, 'queries_at_once')
  chips = None if pod is None else cost.pod(pod, model)
  if chips is None and (model != 1 or queries_at_once is not None):
    raise ValueError(
      'model and queries_at_once are of a pod: give pod, or leave them out'
    )
  entered = door.enter(method, problem, run, train, queries, key)
  if chips is not None:
    run = fingerprint.abstract(entered.run)
    given = method, problem, run, entered.train, entered.queries
    return pods.plan(*given, chips, batch_size, queries_at_once)
  run, train, queries, key, _ = fingerprint.abstract(entered)
  prepare = functools.partial(method_lib.prepare, method, problem)
  score = functools.partial(method_lib.score, method, problem)
  batch = next(rows_lib.batches(entered.train, batch_size))
  prepared = jax.eval_shape(prepare, run, train, queries, key)
  return Plan(
    (
      _stage('prepare', prepare, run, train, queries, key),
      _stage('score', score, run, prepared, fingerprint.abstract(batch)),
    ),
    memory.free(),
  )


def _stage(name, function, *shapes) -> Stage:
  compiled = jax.jit(function).lower(*shapes).compile()
  memory_use: Any = compiled.memory_analysis()
  if memory_use is None:
    raise ValueError(
      f'{jax.default_backend()} does not tell what its programs take: plan on'
      ' another backend, for example with JAX_PLATFORMS=cpu'
    )
  return Stage(
    name,
    memory_use.argument_size_in_bytes,
    memory_use.output_size_in_bytes,
    memory_use.temp_size_in_bytes,
  )
