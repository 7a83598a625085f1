"""The measures of scripts/house.py, and the limits that the code keeps."""

import ast
import functools

import pytest

from scripts import house


@pytest.mark.parametrize('kind', house.LIMITED)
def test_the_code_keeps_its_limits(kind):
  measure = measured()[kind]
  assert measure.value <= measure.most, '\n'.join([kind, *measure.places])


@functools.cache  # half of a minute over all kinds
def measured():
  return {measure.name: measure for measure in house.measures()}


def test_floors_and_arrows_upward():
  graph = {'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}
  assert house.floors(graph) == {'a': 2, 'b': 1, 'c': 0}
  assert house.upward(graph) == []
  graph['c'] = {'a'}
  assert house.upward(graph) == ['a -> b', 'a -> c', 'b -> c', 'c -> a']
  assert house.reachable(graph, 'c') == {'a', 'b', 'c'}


@pytest.mark.parametrize(
  'code, lines',
  [
    ('def f():\n  """Doc.\n\n  More.\n  """\n  a = 1\n  return a', 2),
    ('def f():\n  return 1', 1),
    ('def f():\n  """Doc."""', 0),
    ('def f():\n  x = [\n    1,\n    2,\n  ]\n  return x', 5),
  ],
)
def test_lines_of_a_body_are_those_below_its_docstring(code, lines):
  (function,) = ast.parse(code).body
  assert house.body_lines(function) == lines


@pytest.mark.parametrize(
  'code, untyped',
  [
    ('def f(a: int, *, b: str) -> int: ...', False),
    ('def f(a, b: str) -> int: ...', True),
    ('def f(a: int): ...', True),
    ('def f(*a) -> int: ...', True),
    ('def f() -> None: ...', False),
    ('class C:\n  def f(self) -> None: ...', False),
  ],
)
def test_an_argument_without_a_type_is_seen(code, untyped):
  (function,) = [function for function, _ in house.functions(ast.parse(code))]
  assert house.untyped(function) is untyped


def test_names_of_functions_arguments_and_fields_are_read():
  code = 'class C:\n  own: int\ndef told(x, *, own): ...\nfound = 1'
  assert {name for _, name in house.names(ast.parse(code))} == {
    'own',
    'told',
    'x',
  }
