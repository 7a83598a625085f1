"""What EKFAC takes on a pod, by formula: operations, bytes and seconds of a chip.

docs/scaling.md has the formulas in words, and what they were checked against.
"""

import math
import re
from typing import NamedTuple

PASSES = 6  # of the matrix unit for one product of float32 at 'highest'
STAGES = ('fit', 'solve', 'score')


class Chip(NamedTuple):
  """One chip, as its maker describes it, and how many are connected."""

  flops: float  # a second, of bfloat16
  memory: float  # bytes a second
  links: float  # bytes a second, to all neighbours, one way
  size: float  # bytes
  axes: int  # of the grid in which chips are connected
  most: int  # chips of one grid


CHIPS = {
  # https://cloud.google.com/tpu/docs/v5e
  'v5e': Chip(197e12, 819e9, 200e9, 16e9, 2, 256),
  # https://cloud.google.com/tpu/docs/v5p
  'v5p': Chip(459e12, 2765e9, 600e9, 95e9, 3, 8960),
  # https://cloud.google.com/tpu/docs/v6e
  'v6e': Chip(918e12, 1638e9, 400e9, 32e9, 2, 256),
}


class Sizes(NamedTuple):
  """A model and its rows, as the formulas see them.

  The layers are matrices I x O, by S positions of a row each.

  Attributes:
    entries: Σ I·O.
    squares: Σ I² + O², entries of all factors.
    largest: the most entries that one layer has.
    moved: Σ S·(I² + O²) of a row.
    formed: Σ S·I·O of a row.
    through: operations of a row through the model and back.
    forward: operations of a row through the model.
    parameters: bytes of all parameters.
    row: bytes of a row.
    passes: of the matrix unit for a product of the model: 1, or PASSES.
  """

  entries: float
  squares: float
  largest: float
  moved: float
  formed: float
  through: float
  forward: float
  parameters: float
  row: float = 0
  passes: int = 1


class Pod(NamedTuple):
  """Chips that work together; `model` of them hold one copy of what is large."""

  text: str
  chip: Chip
  chips: int
  model: int = 1

  @property
  def shares(self) -> int:
    """Into how many shares the rows are divided."""
    return self.chips // self.model


class Work(NamedTuple):
  """What is to be attributed.

  Attributes:
    rows, queries: in all.
    fitted, scored: rows of a share in one batch of the fit, of scoring.
    at_once: queries that are solved, and scored, together.
  """

  rows: float
  queries: int
  fitted: int
  scored: int
  at_once: int


class Stage(NamedTuple):
  """What a chip does in one stage.

  Attributes:
    name: 'fit', 'solve' or 'score'.
    given, left: bytes of a program's arguments and results.
    working: bytes of the gradients that are formed meanwhile. The compiler adds
      to them what it finds to be worth its while.
    products, memory, links: seconds at the peak of each, of all batches and
      blocks of queries.
  """

  name: str
  given: float
  left: float
  working: float
  products: float
  memory: float
  links: float

  @property
  def total(self) -> float:
    """Bytes of a chip."""
    return self.given + self.left + self.working

  @property
  def seconds(self) -> float:
    """Those of what takes longest: nothing is faster."""
    return max(self.products, self.memory, self.links)


def pod(text: str, model: int = 1) -> Pod:
  """'v5e:16x16' or 'v5e:256' -> 256 chips.

  Args:
    model: chips along the axis `model` of the mesh.

  Raises:
    ValueError: there is no such pod, or `model` does not divide its chips.
  """
  name, _, shape = str(text).partition(':')
  if name not in CHIPS:
    raise ValueError(
      f'pod={text!r}: no chip {name!r} is known here, only {", ".join(CHIPS)}:'
      " give one with its topology, as 'v5e:16x16'"
    )
  chip = CHIPS[name]
  good = re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', shape)
  lengths = [int(length) for length in shape.split('x')] if good else []
  if len(lengths) not in (1, chip.axes) or math.prod(lengths) > chip.most:
    raise ValueError(
      f'pod={text!r}: {name} has grids of {chip.axes} axes and at most'
      f' {chip.most} chips: give one as'
      f" '{name}:{'x'.join(['4'] * chip.axes)}', or a number of chips"
    )
  chips = math.prod(lengths)
  if not isinstance(model, int) or model < 1 or chips % model:
    raise ValueError(
      f'model={model!r} does not divide the {chips} chips of pod={text!r}: give'
      ' a number that does'
    )
  return Pod(text, chip, chips, model)


def operations(
  sizes: Sizes, rows: float, queries: float, batches: int = 2
) -> dict[str, tuple[float, float]]:
  """{stage: (in the model's own type, in float32)} of all chips.

  Args:
    batches: 1: the two passes of the fit share their way through the model.
  """
  through, moved, formed = sizes.through, 2 * sizes.moved, 2 * sizes.formed
  shared = sizes.forward if batches == 1 else 0
  pairs = 2 * queries * sizes.entries
  return {
    'fit': (rows * (2 * through - shared), rows * (2 * moved + formed)),
    'solve': (queries * through, queries * (moved + formed)),
    'score': (rows * through, rows * (moved + formed + pairs)),
  }


def seconds_of_products(
  pod: Pod, sizes: Sizes, narrow: float, wide: float
) -> float:
  """Seconds of `operations` on a pod at its peak: (the model's type, float32)."""
  done = sizes.passes * narrow + PASSES * wide
  return done / (pod.chips * pod.chip.flops)


def held(
  sizes: Sizes, pod: Pod, work: Work
) -> dict[str, tuple[float, float, float]]:
  """{stage: bytes of a chip (given, left, working)}, of one program.

  Factors, eigenvalues and queries are float32, and divided over `model` as the
  parameters are; rows are divided over all shares.
  """
  part = lambda numbers: 4 * numbers / pod.model
  params = sizes.parameters / pod.model
  state = part(sizes.squares + sizes.entries)
  queries = part(work.at_once * sizes.entries)
  prepared = part(sizes.squares) + queries
  fitted, scored = work.fitted * sizes.row, work.scored * sizes.row
  asked = work.at_once * sizes.row
  return {
    'fit': (params + fitted, state, part(work.fitted * sizes.largest)),
    'solve': (params + state + asked, prepared, queries),
    'score': (
      params + prepared + scored,
      4 * work.scored * work.at_once,
      part(work.scored * sizes.largest),
    ),
  }


def sent(sizes: Sizes, pod: Pod, work: Work) -> dict[str, float]:
  """{stage: bytes that a chip exchanges in all}.

  Where rows alone are divided: the fit adds up the factors, deals them out and
  gathers the eigenvectors, and adds up the eigenvalues; a solve gathers the
  queries; scoring sends nothing. Over `model`, every batch gathers the parameters
  three times (forward, again, back) and the eigenvectors once, and the fit adds
  up the factors of each batch.
  """
  factors, values = 4 * sizes.squares, 4 * sizes.entries
  batches, blocks = counts(pod, work)
  if pod.chips == 1:
    return dict.fromkeys(STAGES, 0.0)
  if pod.model == 1:
    fit, queries = 3 * factors + values, work.queries * values
    return {'fit': fit, 'solve': queries, 'score': 0.0}
  through = 3 * sizes.parameters
  return {
    'fit': batches['fit'] * (2 * through + 2 * factors + values),
    'solve': blocks * (through + 2 * factors),
    'score': blocks * batches['score'] * (through + factors),
  }


def counts(pod: Pod, work: Work) -> tuple[dict[str, int], int]:
  """({stage: batches of a way over all rows}, blocks of queries)."""
  batch = {'fit': work.fitted, 'score': work.scored}
  over = {s: math.ceil(work.rows / (pod.shares * n)) for s, n in batch.items()}
  return over, math.ceil(work.queries / work.at_once)


def stages(sizes: Sizes, pod: Pod, work: Work) -> list[Stage]:
  """Fit, solve and score of all rows and queries, in this order."""
  over, blocks = counts(pod, work)
  often = {'fit': 1, 'solve': blocks, 'score': blocks}
  runs = {'fit': over['fit'], 'solve': blocks}
  runs['score'] = blocks * over['score']
  asked = work.queries / blocks
  done = operations(sizes, work.rows, asked, over['fit'])
  taken, exchanged = held(sizes, pod, work), sent(sizes, pod, work)
  found = []
  for name in STAGES:
    products = often[name] * seconds_of_products(pod, sizes, *done[name])
    memory = runs[name] * sum(taken[name]) / pod.chip.memory
    links = exchanged[name] / pod.chip.links
    found.append(Stage(name, *taken[name], products, memory, links))
  return found
