"""What scoring would take on a pod, before there is one: `plan(..., pod=...)`."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tda_jax import cost, memory, settings
from tda_jax.curvature import ekfac
from tda_jax.data import rows as rows_lib
from tda_jax.layers import find, operations
from tda_jax.methods import method as method_lib
from tda_jax.problem import Problem
from tda_jax.run import Run
from tda_jax.storage import fingerprint
from tda_jax.trees import PyTree


class PodPlan(NamedTuple):
  """Bytes and seconds of a chip, by the formulas of `cost`.

  Attributes:
    pod: the chips.
    stages: fit, solve and score, in this order.
  """

  pod: cost.Pod
  stages: tuple[cost.Stage, ...]

  @property
  def peak(self) -> float:
    """Bytes of a chip in the stage that takes most."""
    return max(stage.total for stage in self.stages)

  @property
  def seconds(self) -> float:
    """Those of all stages at the peak of the chips, which nothing reaches."""
    return sum(stage.seconds for stage in self.stages)

  def __str__(self):
    said = memory.format_bytes
    lines = [
      f'{s.name:6} {said(s.total):>10} a chip, {s.seconds:.3g} s or more'
      f' (products {s.products:.3g}, memory {s.memory:.3g}, links {s.links:.3g})'
      for s in self.stages
    ]
    size = said(self.pod.chip.size)
    chips = f'{self.pod.chips} chips of {self.pod.text}, {size} each'
    return '\n'.join([*lines, chips])


def plan(
  method: Any,
  problem: Problem,
  run: Run,
  train: PyTree,
  queries: PyTree,
  pod: cost.Pod,
  batch_size: int,
  queries_at_once: int | None,
) -> PodPlan:
  """The plan for `pod`; arguments as of `planning.plan`, entered.

  Raises:
    ValueError: the formulas do not have the method, or a stage does not fit.
  """
  fitted = _rows_of_fit(method)
  asked = rows_lib.count(queries)
  example = fingerprint.of_rows(train)
  work = cost.Work(
    rows_lib.count(train), asked, fitted, batch_size,
    min(queries_at_once or asked, asked),
  )  # fmt: skip
  sizes = sizes_of(problem, run, example)
  found = PodPlan(pod, tuple(cost.stages(sizes, pod, work)))
  largest = max(found.stages, key=lambda stage: stage.total)
  if found.peak > pod.chip.size:
    said = memory.format_bytes
    raise ValueError(
      f'{largest.name} needs {said(largest.total)} a chip, and one of {pod.text}'
      f' has {said(pod.chip.size)}: lower queries_at_once={work.at_once} or'
      f' batch_size={batch_size}, or raise model={pod.model}, the chips that'
      ' divide parameters, factors and queries'
    )
  return found


def sizes_of(problem: Problem, run: Run, example: PyTree) -> cost.Sizes:
  """The sizes of a model whose rows are like `example`; shapes alone are read."""
  found = []

  def traced(run):  # in which parameters that are not scored by are constants
    part, own = method_lib.attributed(problem, run)
    found.append(_sizes(part, own.params, example))
    return own.params

  jax.eval_shape(traced, run)
  own = jax.tree.leaves(run.params)
  half = all(x.dtype == jnp.bfloat16 for x in own)
  return found[0]._replace(
    parameters=_bytes(own), passes=1 if half else cost.PASSES
  )


def _sizes(problem, params, example):
  """The sizes of a problem in the parameters that rows are scored by."""
  given = problem.outputs, params, example, problem.as_leaf
  layers = find.find(*given).values()
  forward, through = operations.of_row(problem, params, example)
  of = lambda count: sum(math.prod(x.stack) * count(x) for x in layers)
  return cost.Sizes(
    entries=of(_entries),
    squares=of(_squares),
    largest=max(math.prod(x.stack) * _entries(x) for x in layers),
    moved=of(lambda x: x.positions * _squares(x)),
    formed=of(lambda x: x.positions * _entries(x) * (x.kind == 'dense')),
    through=through,
    forward=forward,
    parameters=0,
    row=_bytes(example),
  )


def _entries(layer):
  return layer.num_in * layer.num_out


def _squares(layer):
  """Entries of both factors that are matrices: the others are diagonal."""
  wide = (layer.kind != 'embed') * layer.num_in**2
  return wide + ekfac.has_outputs(layer) * layer.num_out**2


def _bytes(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _rows_of_fit(method: Any) -> int:
  """Rows of a batch of the fit of EKFAC, of which alone the formulas are."""
  known = settings.of(method)
  data = dict(known.data) if known else {}
  inverse = data.get('inverse')
  inverse = dict(inverse) if isinstance(inverse, tuple) else {}
  wanted = {'name': 'ekfac', 'kind': 'ekfac', 'labels': 'sampled'}
  plain = data.get('name') == 'influence' and data.get('query_rank') is None
  if not plain or wanted.items() - inverse.items():
    raise ValueError(
      'what a pod takes is known of tda.influence(tda.ekfac(damping)) alone, with'
      ' sampled labels and without query_rank: give that, or leave pod out'
    )
  return inverse['batch_size']
