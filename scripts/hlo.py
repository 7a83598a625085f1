"""Reads a compiled program's text: its products, loops and exchanges.

XLA's own count of operations takes the body of a loop once; here it is multiplied
by how often the loop runs, which XLA notes or its condition says.
"""

import itertools
import math
import re
from typing import NamedTuple

EXCHANGES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
WIDTHS = {'pred': 1, 'bf16': 2, 'f16': 2, 's64': 8, 'u64': 8, 'f64': 8}
_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(')
_LINE = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$')
_ARRAY = re.compile(r'\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]')
_CALLED = re.compile(r'(calls|to_apply|condition|body)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  kind: str
  shapes: tuple[
    tuple[str, tuple[int, ...]], ...
  ]  # (type, shape) of its results
  operands: tuple[str, ...]
  text: str  # operands and attributes


class Exchange(NamedTuple):
  """What devices send each other at one place of the program."""

  kind: str
  shapes: tuple[tuple[str, tuple[int, ...]], ...]  # of the results on a device
  times: int  # how often the place is run

  @property
  def size(self) -> int:
    """Bytes of the results on a device, of all runs."""
    return self.times * sum(
      WIDTHS.get(kind, 4) * math.prod(shape) for kind, shape in self.shapes
    )


class Program(NamedTuple):
  """The computations of a program, and how often each is run."""

  computations: dict[str, dict[str, Instruction]]
  times: dict[str, int]


def read(text: str) -> Program:
  """The program of `compiled.as_text()`.

  Raises:
    ValueError: a loop's condition is not one that this reads.
  """
  computations, entry = {}, None
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head and line.rstrip().endswith('{'):
      now = computations[head[2]] = {}
      entry = head[2] if head[1] else entry
    elif match := _LINE.match(line):
      instruction = _instruction(match[1], match[2])
      now[instruction.name] = instruction
  times = dict.fromkeys(computations, 0)
  _count(computations, times, entry, 1)
  return Program(computations, times)


def _instruction(name, rest):
  """An instruction from what stands right of its equals sign."""
  end = _closing(rest) if rest.startswith('(') else rest.index(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  kind, _, after = rest.partition('(')
  stop = _closing('(' + after) - 1
  operands = re.findall(r'%([\w.\-]+)', after[: stop - 1])
  return Instruction(name, kind, _arrays(shape), tuple(operands), after)


def _closing(text):
  """The place behind the bracket that closes the first one."""
  depth = 0
  for place, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if depth == 0:
      return place + 1
  return len(text)


def _arrays(text):
  return tuple(
    (kind, tuple(int(n) for n in sizes.split(',') if n))
    for kind, sizes in _ARRAY.findall(text)
  )


def _count(computations, times, name, repeats):
  """Adds to `times` how often a computation and those that it calls are run."""
  times[name] += repeats
  for instruction in computations[name].values():
    called = dict(_CALLED.findall(instruction.text))
    inner = repeats
    if instruction.kind == 'while':
      condition = computations[called.pop('condition')]
      known = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.text)
      inner *= int(known[1]) if known else _trips(condition)
    others = _BRANCHES.findall(instruction.text)
    branches = re.findall(r'%([\w.\-]+)', others[0]) if others else []
    for other in (*called.values(), *branches):
      _count(computations, times, other, inner)


def _trips(condition):
  """How often a loop runs that counts from 0 to a constant."""
  compare = [i for i in condition.values() if i.kind == 'compare']
  bounds = [
    int(match[1])
    for one in compare
    for operand in one.operands
    if condition[operand].kind == 'constant'
    and (match := re.match(r'(\d+)\)', condition[operand].text))
  ]
  if len(bounds) != 1 or 'direction=LT' not in compare[0].text:
    raise ValueError(f'a loop does not count to a constant: {condition}')
  return bounds[0]


def flops(program: Program) -> int:
  """Additions and multiplications of all matrix products, on one device."""
  return sum(
    program.times[name] * _product(instruction, computation)
    for name, computation in program.computations.items()
    for instruction in computation.values()
    if instruction.kind in ('convolution', 'dot')
  )


def _product(instruction, computation):
  """2 · the multiplications of a convolution or dot; those by zero not counted."""
  ((_, out),) = instruction.shapes
  (_, left), (_, right) = (
    computation[name].shapes[0] for name in instruction.operands
  )
  if instruction.kind == 'dot':
    contracted = re.search(
      r'lhs_contracting_dims=\{([\d,]*)\}', instruction.text
    )
    sizes = [left[int(d)] for d in contracted[1].split(',') if d]
    return 2 * math.prod(out) * math.prod(sizes)
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.text)
  window = re.search(r'window=\{([^}]*)\}', instruction.text)
  fields = dict(f.split('=') for f in window[1].split()) if window else {}
  place = lambda label, side: labels[side].index(label)
  total = 2 * right[place('i', 2)]
  total *= out[place('b', 3)] * out[place('f', 3)]
  for number in range(len(labels[1]) - 2):
    sizes = (left[place(str(number), 1)], out[place(str(number), 3)])
    total *= _positions(fields, number, *sizes)
  return total


def _positions(fields, number, size, out):
  """Pairs of an output's position and the window's that are no padding."""
  of = lambda name, default: (
    fields[name].split('x')[number] if name in fields else default
  )
  before = int(of('pad', '0_0').split('_')[0])
  stride, apart, hole = (
    int(of(n, '1')) for n in ('stride', 'rhs_dilate', 'lhs_dilate')
  )
  end = (size - 1) * hole + 1
  places = (
    o * stride - before + w * apart
    for o, w in itertools.product(range(out), range(int(of('size', '1'))))
  )
  return sum(0 <= p < end and p % hole == 0 for p in places)


def exchanges(program: Program) -> list[Exchange]:
  """What devices send each other, place by place.

  A TPU's program may hide one behind several computations, each of which has a
  part of it under the same channel.
  """
  found = {}
  for name, computation in program.computations.items():
    for instruction in computation.values():
      kind = instruction.kind.removesuffix('-start')
      if kind not in EXCHANGES or not program.times[name]:
        continue
      shapes = instruction.shapes
      if instruction.kind.endswith('-start') and kind != 'all-reduce':
        shapes = shapes[1:2]  # (operand, result, ...)
      channel = re.search(r'channel_id=(\d+)', instruction.text)
      key = channel[1] if channel else (name, instruction.name)
      one = Exchange(kind, shapes, program.times[name])
      found[key] = max(one, found.get(key, one), key=lambda e: e.size)
  return list(found.values())
