"""The shape of the code: who may import whom."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A unit imports itself and units of lower lines only.
LINES = (
  ('trees', 'settings', 'version', 'memory', 'lazily', 'compiler', 'cost'),
  ('chosen', 'shapes', 'labels', 'parallel'),
  ('problem', 'run', 'given', 'sources'),
  ('language',),
  ('storage',),
  ('data',),
  ('layers',),
  ('models',),
  ('door',),
  ('training',),
  ('curvature', 'evaluation'),
  ('inverses', 'tracing'),
  ('methods',),
  ('pods',),
  ('scoring', 'planning'),
  ('report',),
)
LINE = {unit: i for i, line in enumerate(LINES) for unit in line}
# Packages that only these units may import.
CONFINED = {
  'flax': ('models',),
  'orbax': ('storage',),
  'tensorstore': ('storage',),
  'absl': (),
  'ml_collections': (),
  'experiments': (),
  'configs': (),
}
# Only parallel.py says how arrays are placed.
PLACEMENT = {'Mesh', 'make_mesh', 'NamedSharding', 'PartitionSpec', 'P'}
AXIS_ARGUMENTS = {'axis_name', 'spmd_axis_name', 'axis_names', 'in_specs'}
AXES = {'DATA', 'MODEL'}  # parallel's constants
BY_AXIS = {  # of jax.lax: what devices say to each other, by the axis's name
  *('psum', 'pmean', 'pmax', 'pmin', 'psum_scatter', 'ppermute', 'pshuffle'),
  *('all_gather', 'all_to_all', 'axis_index', 'axis_size'),
}

# Where programs are compiled: at the step or the whole pass, never in a method.
COMPILED = {
  *('compiler.py', 'curvature/gram.py', 'door.py', 'evaluation/predictions.py'),
  *('evaluation/retraining.py', 'given.py', 'methods/compiled.py'),
  *('models/encoder.py', 'models/generate.py', 'models/pretrained.py'),
  *('parallel.py', 'planning.py', 'scoring/programs.py'),
  *('tracing/judges/decoder.py', 'tracing/judges/entailment.py'),
  *('training/distill.py', 'training/fit.py', 'training/members.py'),
}
# Rows may be a source, which is no array: these do not take one of them all.
WHOLE = {'asarray', 'array', 'whole', 'device_put', 'replicate', 'stack'}
ROWS = {'train', 'rows'}
STAGES = {'fit', 'prepare'}  # of a method: passes over all rows

LIBRARY = sorted((ROOT / 'tda_jax').rglob('*.py'))
SOURCES = LIBRARY + [
  file
  for folder in ('experiments', 'configs', 'scripts', 'tests')
  for file in sorted((ROOT / folder).rglob('*.py'))
]
EXPERIMENTS = sorted((ROOT / 'experiments').rglob('*.py'))
# Floors of experiments/: a folder for each paper, which knows no other paper.
FLOORS = {'shared': 0, 'evaluate': 2}  # all others: 1
name_of = lambda file: str(file.relative_to(ROOT))


def unit_of(file):
  """tda_jax/inverses/cg.py -> inverses; tda_jax/__init__.py -> ''."""
  first = file.relative_to(ROOT / 'tda_jax').parts[0].removesuffix('.py')
  return '' if first == '__init__' else first


def room_of(file):
  """experiments/astra/page.py -> astra; experiments/train.py -> train."""
  first = file.relative_to(ROOT / 'experiments').parts[0]
  return first.removesuffix('.py')


def wrong_rooms(room, tree):
  """What a file of the room `room` imports of others and should not."""
  floor = lambda name: FLOORS.get(name, 1)
  for name in imports(tree):
    top, _, rest = name.partition('.')
    other = rest.partition('.')[0]
    if top == 'experiments' and other not in ('', room):
      if floor(other) >= floor(room):
        yield f'{name}: {room} stands below or beside {other}'


def imports(tree):
  """Dotted names of all imported modules, also those inside functions."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: a relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def wrong_imports(unit, tree):
  """What a file of `unit` imports and should not."""
  for name in imports(tree):
    top, _, rest = name.partition('.')
    if top == 'tda_jax' and unit:
      other = rest.partition('.')[0]
      if other not in LINE:
        yield f'{name}: tda_jax.{other} has no place in LINES'
      elif other != unit and LINE[other] >= LINE[unit]:
        yield f'{name}: {unit} stands below {other}'
    elif unit not in CONFINED.get(top, (unit,)):
      yield f'{name}: {top} is for {CONFINED[top] or "experiments"} only'


def named_axes(tree):
  """Uses of mesh axes and placements."""
  named = PLACEMENT | AXES | BY_AXIS
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and node.attr in named:
      yield f'line {node.lineno}: {node.attr}'
    elif isinstance(node, ast.ImportFrom):
      yield from (a.name for a in node.names if a.name in named)
    elif isinstance(node, ast.keyword) and node.arg in AXIS_ARGUMENTS:
      if isinstance(node.value, ast.Constant):
        yield f'line {node.value.lineno}: {node.arg}={node.value.value!r}'


def named_within(node):
  """Names and attributes in a piece of code."""
  for inner in ast.walk(node):
    if isinstance(inner, (ast.Name, ast.Attribute)):
      yield inner.id if isinstance(inner, ast.Name) else inner.attr


def jits_prepare(tree):
  """Where fit or prepare of a method becomes a program, but by `compiled`.

  That one makes dampings and step sizes arguments of the program, so that another
  one is not compiled again.
  """
  is_jit = lambda node: bool({'jit', 'pjit'} & {*named_within(node)})
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef) and node.name in STAGES:
      if any(map(is_jit, node.decorator_list)):
        yield f'line {node.lineno}: {node.name}'
    elif isinstance(node, ast.Call) and is_jit(node.func):
      given = [*node.args, *(word.value for word in node.keywords)]
      if any(STAGES & {*named_within(part)} for part in given):
        yield f'line {node.lineno}: jit of {ast.unparse(node.args[0])}'


def compiled(tree):
  """Whether a file compiles programs of its own."""
  return any(
    isinstance(node, ast.Attribute) and node.attr in ('jit', 'pjit')
    for node in ast.walk(tree)
  )


def whole_rows(tree):
  """Calls that make an array of all rows, and so would load a source."""
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    given = [*node.args, *(word.value for word in node.keywords)]
    called = {*named_within(node.func)}
    if 'map' in called and given:  # jax.tree.map(jnp.asarray, train)
      called = {*named_within(given[0])}
    if called & WHOLE and ROWS & {*map(_root, given)}:
      yield f'line {node.lineno}: {ast.unparse(node)}'


def _root(node):
  """What a piece of code takes columns of: rows['x'], entered.rows -> rows."""
  while isinstance(node, ast.Subscript):
    node = node.value
  return getattr(node, 'attr', getattr(node, 'id', ''))


@pytest.mark.parametrize('file', LIBRARY, ids=name_of)
def test_imports_go_one_way(file):
  unit = unit_of(file)
  assert not unit or unit in LINE, f'{unit} has no place in LINES'
  assert not list(wrong_imports(unit, ast.parse(file.read_text())))


@pytest.mark.parametrize('file', EXPERIMENTS, ids=name_of)
def test_a_paper_imports_what_is_shared_and_no_other_paper(file):
  room = room_of(file)
  assert not list(wrong_rooms(room, ast.parse(file.read_text())))


@pytest.mark.parametrize(
  'room, code, found',
  [
    ('astra', 'from experiments.quanda import claims', 1),
    ('astra', 'from experiments.shared import stages', 0),
    ('astra', 'from experiments.astra import claims', 0),
    ('shared', 'from experiments.astra import claims', 1),
    ('evaluate', 'from experiments.quanda import metrics', 0),
    ('quanda', 'from experiments import evaluate', 1),
  ],
)
def test_a_paper_within_another_would_be_seen(room, code, found):
  assert len(list(wrong_rooms(room, ast.parse(code)))) == found


def test_experiments_know_configs_by_name_only():
  for file in sorted((ROOT / 'experiments').rglob('*.py')):
    names = imports(ast.parse(file.read_text()))
    assert not [n for n in names if n.startswith('configs')], file


@pytest.mark.parametrize('file', LIBRARY, ids=name_of)
def test_only_parallel_names_mesh_axes(file):
  if unit_of(file) != 'parallel':
    assert not list(named_axes(ast.parse(file.read_text())))


def test_programs_are_compiled_in_few_places():
  inside = {str(f.relative_to(ROOT / 'tda_jax')): f for f in LIBRARY}
  parsed = {name: ast.parse(f.read_text()) for name, f in inside.items()}
  assert {name for name, tree in parsed.items() if compiled(tree)} == COMPILED


@pytest.mark.parametrize(
  'file',
  [
    file
    for file in LIBRARY
    if unit_of(file) in ('layers', 'curvature', 'inverses', 'methods')
  ],
  ids=name_of,
)
def test_no_method_loads_all_rows(file):
  assert not list(whole_rows(ast.parse(file.read_text())))


@pytest.mark.parametrize(
  'code, found',
  [
    ('jnp.asarray(train)', 1),
    ('rows_lib.whole(train)', 1),
    ("jnp.asarray(rows['x'], float)", 1),
    ('np.array(object=entered.train)', 1),
    ('jax.device_put(train)', 1),
    ('jax.tree.map(jnp.asarray, train)', 1),
    ('rows_lib.whole(queries)', 0),
    ('rows.total(f, train)', 0),
    ('jnp.asarray(batch)', 0),
  ],
)
def test_an_array_of_all_rows_would_be_seen(code, found):
  assert len(list(whole_rows(ast.parse(code)))) == found


def test_no_method_is_compiled_but_by_compiled():
  for file in LIBRARY:
    assert not list(jits_prepare(ast.parse(file.read_text()))), file


@pytest.mark.parametrize(
  'code, found',
  [
    ('jax.jit(method.prepare)', 1),
    ('jax.jit(prepare, static_argnums=0)', 1),
    ('jax.jit(lambda p: method_lib.prepare(m, problem, p))', 1),
    ('jit(functools.partial(method.fit, problem))(params)', 1),
    ('functools.partial(jax.jit, static_argnums=0)(prepare)', 1),
    ('@jax.jit\ndef prepare(run): pass', 1),
    ('@functools.partial(jax.jit, static_argnums=0)\ndef fit(run): pass', 1),
    ('compiled(method_lib.prepare)', 0),
    ('jax.jit(step)(prepared)', 0),
    ('@jax.jit\ndef step(state): pass', 0),
  ],
)
def test_a_jit_around_prepare_would_be_seen(code, found):
  assert len(list(jits_prepare(ast.parse(code)))) == found


@pytest.mark.parametrize(
  'unit, code, found',
  [
    ('inverses', 'from tda_jax.methods import influence', 1),
    ('inverses', 'import tda_jax.scoring', 1),
    ('inverses', 'from tda_jax import scoring', 1),
    ('inverses', 'def f():\n  from tda_jax.report import page', 1),
    ('storage', 'from tda_jax import data', 1),
    ('data', 'from tda_jax import storage', 0),
    ('inverses', 'from tda_jax.novelty import it', 1),
    ('inverses', 'from tda_jax.curvature import ekfac', 0),
    ('inverses', 'from tda_jax.inverses import cg', 0),
    ('methods', 'import flax.linen as nn', 1),
    ('models', 'import flax.linen as nn', 0),
    ('training', 'from orbax.checkpoint import v1', 1),
    ('storage', 'import tensorstore', 0),
    ('scoring', 'from absl import flags', 1),
    ('', 'from ml_collections import config_dict', 1),
    ('', 'from tda_jax.report import page', 0),
    ('report', 'from experiments import stages', 1),
    ('report', 'import numpy', 0),
  ],
)
def test_a_wrong_import_would_be_seen(unit, code, found):
  assert len(list(wrong_imports(unit, ast.parse(code)))) == found


@pytest.mark.parametrize(
  'code, found',
  [
    ('from jax.sharding import NamedSharding', 1),
    ('jax.make_mesh((2,), axes)', 1),
    ('jax.P(None)', 1),
    ("jax.vmap(f, spmd_axis_name='member')", 1),
    ('jax.vmap(f, spmd_axis_name=parallel.DATA)', 1),
    ('from tda_jax.parallel import MODEL', 1),
    ("jax.lax.psum(x, 'data')", 1),
    ('jax.lax.all_gather(x, name)', 1),
    ("jax.shard_map(f, in_specs='data')", 1),
    ('parallel.summed(f, x)', 0),
    ("{'data': 1}", 0),
  ],
)
def test_a_mesh_axis_would_be_seen(code, found):
  assert len(list(named_axes(ast.parse(code)))) == found
