"""Measures of the code as a reader finds it: rooms, functions, types, words.

  python -m scripts.house            the table; status 1 where a rule is broken
  python -m scripts.house --list     what each figure counts, by file and line

A room is a folder or file right below `tda_jax/` or `experiments/`; its floor is
the longest way down by imports; an arrow goes up where two rooms import each
other, by whatever way round.
"""

import argparse
import ast
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('tda_jax', 'experiments')
LONG, LONGEST = 50, 60  # lines of a function's body: a screen, and no more
FLOORS = 4  # of experiments/
# Names that say nothing of what they hold: of a function, an argument, a field.
NAMES = frozenset(
  'able along asked bare cure found made ours own seen spent tell told turned'
  ' every'.split()
)
# The old dialect in docstrings, comments and errors.
PHRASES = (
  r'\bthey do not tell\b',
  r'\bis told\b',
  r'\bare told\b',
  r'\bOf the way\b',
  r'\bso many\b',
  r'\bwhich answers for\b',
  r'\bgoes before\b',
  r'\bleft of\b',
  r'"""Of each of',
  r'"""Attributes:',
  r'"""Args:',
)


LIMITED = (
  'experiments: floors',
  'tda_jax: arrows upward',
  'experiments: arrows upward',
  f'functions of more than {LONGEST} lines',
  'public functions of tda_jax without types',
  'words of the old dialect',
)


class Measure(NamedTuple):
  """One figure: its name, the most that is allowed (None: told), and where."""

  name: str
  most: int | None
  value: int
  places: list[str]


def modules(package: str) -> dict[str, tuple[pathlib.Path, ast.Module]]:
  """Dotted name -> (file, its tree)."""
  out = {}
  for file in sorted((ROOT / package).rglob('*.py')):
    parts = file.relative_to(ROOT).with_suffix('').parts
    name = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
    out[name] = file, ast.parse(file.read_text())
  return out


def imports(tree: ast.AST, known) -> Iterator[str]:
  """Dotted names of the modules among `known` that a tree imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        if full in known:
          yield full
        elif node.module in known:
          yield node.module


def arrows(package: str) -> dict[str, set[str]]:
  """Room -> the rooms that it imports."""
  every = modules(package)
  room = lambda name: (name.split('.') + [''])[1]
  out: dict[str, set[str]] = {}
  for name, (_, tree) in every.items():
    if not room(name):
      continue  # the face, which imports everything
    others = {room(other) for other in imports(tree, every)}
    out.setdefault(room(name), set()).update(others - {room(name), ''})
  return out


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
  """What is imported by a room, directly or through others."""
  seen, open_ = set(), [start]
  while open_:
    for room in graph.get(open_.pop(), ()):
      if room not in seen:
        seen.add(room)
        open_.append(room)
  return seen


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
  """Room -> its floor; the ground is 0. Arrows that close a circle are left out."""
  below = {room: reachable(graph, room) for room in graph}

  def floor(room: str) -> int:
    down = [r for r in graph.get(room, ()) if room not in below.get(r, ())]
    return 1 + max(map(floor, down), default=-1)

  return {room: floor(room) for room in graph}


def upward(graph: dict[str, set[str]]) -> list[str]:
  """The arrows of circles, 'a -> b'."""
  return sorted(
    f'{a} -> {b}'
    for a, others in graph.items()
    for b in others
    if a in reachable(graph, b)
  )


def functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, bool]]:
  """(function, whether it is public: of the module or a class, no '_')."""
  tops = [*tree.body]
  tops += [n for c in tree.body if isinstance(c, ast.ClassDef) for n in c.body]
  public = {
    id(n)
    for n in tops
    if isinstance(n, ast.FunctionDef) and not n.name.startswith('_')
  }
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef):
      yield node, id(node) in public


def body_lines(function: ast.FunctionDef) -> int:
  """Lines of a function without its signature and docstring."""
  body = function.body
  if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
    body = body[1:]
  return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def untyped(function: ast.FunctionDef) -> bool:
  """Whether an argument, or the result, has no type."""
  given = function.args
  every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
  bare = [a for a in every if a.annotation is None and a.arg != 'self']
  starred = [a for a in (given.vararg, given.kwarg) if a and not a.annotation]
  return bool(bare or starred) or function.returns is None


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
  """(line, name) of functions, arguments and fields."""
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef):
      yield node.lineno, node.name
      given = node.args
      for a in (*given.posonlyargs, *given.args, *given.kwonlyargs):
        yield node.lineno, a.arg
    elif isinstance(node, ast.ClassDef):
      for field in node.body:
        if isinstance(field, ast.AnnAssign):
          yield field.lineno, field.target.id


def measures() -> list[Measure]:
  """All figures of both packages."""
  out = []
  for package in PACKAGES:
    graph = arrows(package)
    height = floors(graph)
    most = FLOORS if package == 'experiments' else None
    by_floor = [f'{height[r]} {r}' for r in sorted(graph, key=height.get)]
    up = upward(graph)
    count = sum(map(len, graph.values()))
    out += [
      Measure(f'{package}: rooms', None, len(graph), sorted(graph)),
      Measure(f'{package}: floors', most, max(height.values()) + 1, by_floor),
      Measure(f'{package}: arrows', None, count, []),
      Measure(f'{package}: arrows upward', 0, len(up), up),
    ]
  every = {**modules('tda_jax'), **modules('experiments')}
  long, longest, bare, dialect = [], [], [], []
  for file, tree in every.values():
    where = lambda line, file=file: f'{file.relative_to(ROOT)}:{line}'
    for function, public in functions(tree):
      lines = body_lines(function)
      place = f'{where(function.lineno)} {function.name}'
      if lines > LONG:
        long.append(f'{place}: {lines}')
      if lines > LONGEST:
        longest.append(f'{place}: {lines}')
      library = file.is_relative_to(ROOT / 'tda_jax')
      if library and public and untyped(function):
        bare.append(place)
    dialect += [
      f'{where(line)} {name}'
      for line, name in names(tree)
      if name.strip('_') in NAMES
    ]
    for line, text in enumerate(file.read_text().splitlines(), 1):
      dialect += [f'{where(line)} {p}' for p in PHRASES if re.search(p, text)]
  return [
    *out,
    Measure(f'functions of more than {LONG} lines', None, len(long), long),
    Measure(
      f'functions of more than {LONGEST} lines', 0, len(longest), longest
    ),
    Measure('public functions of tda_jax without types', 0, len(bare), bare),
    Measure('words of the old dialect', 0, len(dialect), dialect),
  ]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--list', action='store_true', help='say where')
  listed = parser.parse_args().list
  broken = False
  for measure in measures():
    limit = '' if measure.most is None else f'  (at most {measure.most})'
    print(f'{measure.value:5d}  {measure.name}{limit}')
    if listed:
      print(*(f'         {place}' for place in measure.places), sep='\n')
    broken |= measure.most is not None and measure.value > measure.most
  sys.exit(broken)


if __name__ == '__main__':
  main()
