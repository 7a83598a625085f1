"""The layers of a model: every parameter as the matrix of a product.

A layer is y[s] = a[s] @ W for positions s, W = `matrix(layer, params)`. It is
read off the jaxpr of the model's outputs at one example, whatever library the
model is written in: `dot_general` (dense, attention, einsum), convolution (a
are patches) and `gather` (embedding; a are row numbers). A parameter that is
added to y everywhere is its bias, the last row of W. A leaf used in any other
way (scales of norms, positional tables) is a layer of its own, y = W and a = 1,
as long as its gradient per example takes no more memory than an activation;
otherwise `find` raises, and `as_leaf=` allows it.
"""

import collections
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tda_jax import trees
from tda_jax.layers import equations
from tda_jax.layers import walk as walk_lib
from tda_jax.layers.equations import Step
from tda_jax.layers.walk import Escape, Path, Site, Uses, Value, View
from tda_jax.trees import PyTree


class Layer(NamedTuple):
  """y[s] = a[s] @ W, a parameter matrix W [*stack, I, O] and S positions."""

  name: str  # path of the leaf in params; `#2` for a second part of it
  kind: str  # 'dense'; 'embed': a are row numbers; 'leaf': a = 1, S diagonal
  stack: tuple[int, ...]  # scanned layers, then heads, groups or experts
  num_in: int  # I, with the row of the bias if there is one
  num_out: int  # O
  positions: int  # S
  leaf: int  # in tree.leaves(params)
  bias: int | None  # likewise
  shared: bool  # an entry is applied more than once to an example
  why: str  # for 'leaf': the uses that are no product
  steps: tuple  # leaf -> W without its last row; see `walk.apply_steps`
  bias_steps: tuple  # leaf -> the last row of W
  routed: bool = False  # an entry of the stack has only positions sent to it
  scans: int = 0  # leading axes of the stack, of which one entry is at work


class Plan(NamedTuple):
  """Where the layers are in a model's jaxpr."""

  layers: dict[str, Layer]
  sites: dict[Path, tuple[Site, str]]  # equation -> the layer it applies
  entered: frozenset[Path]  # the equations around these
  jaxpr: Any  # closed
  structure: Any  # of the outputs
  gathers: dict[Path, tuple]  # their numbers are for routed layers; see `walk`
  replaced: dict[Path, tuple]  # equations to evaluate differently; see `replay`


class Coverage(NamedTuple):
  """A row of the report on which parameters the layers cover."""

  name: str
  kind: str  # a layer's, or 'none': no gradient reaches these entries
  parameters: int
  fraction: float  # of all parameters


def find(
  outputs: Callable[[PyTree, PyTree], PyTree],
  params: PyTree,
  example: PyTree,
  as_leaf: str | Sequence[str] = (),
) -> dict[str, Layer]:
  """The layers of a model, by name; every entry with a gradient is in one.

  Args:
    outputs: (params, ONE example) -> tree of arrays.
    example: its leaves may be `jax.ShapeDtypeStruct`; no value is read.
    as_leaf: names of leaves, or patterns (`*/kernel`), to treat as 'leaf'.

  Raises:
    ValueError: a matrix is used in another way than in a product (the error names
      the use and its line); a while loop uses parameters; a pattern fits no leaf.
    RuntimeError: JAX changed an equation that the walk reads.
  """
  return plan(outputs, params, example, as_leaf).layers


def remedies(layer: Layer) -> str:
  """What to do about a layer that is applied more than once, for errors."""
  name = layer.name.partition('#')[0]
  return (
    f'give the problem leave_out=({name!r},), so that no row is scored by it, or'
    f' as_leaf=({name!r},), which holds its gradient of each row'
  )


def dense(layers: dict[str, Layer], name: str | None = None) -> str:
  """`name`, or the last dense layer that the model applies.

  Raises:
    ValueError: it is no dense layer, or is applied more than once.
  """
  usable = [n for n, x in layers.items() if x.kind == 'dense' and not x.shared]
  if name is None and usable:
    return usable[-1]
  if name not in usable:
    raise ValueError(
      f'{name!r} is no layer that is a product and applied once: choose among'
      f' {usable}'
    )
  return name


def matrix(layer: Layer, params: PyTree) -> jax.Array:
  """W [*stack, I, O], the bias as its last row. Linear in params."""
  leaves = jax.tree.leaves(params)
  w = walk_lib.apply_steps(layer.steps, leaves[layer.leaf])
  if layer.bias is None:
    return w
  bias = walk_lib.apply_steps(layer.bias_steps, leaves[layer.bias])
  return jnp.concatenate([w, bias], -2)


def unmatrix(layer: Layer, w: jax.Array, params: PyTree) -> PyTree:
  """A tree like params with W = w [*stack, I, O], zero elsewhere."""
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, w.dtype), params)
  return jax.linear_transpose(functools.partial(matrix, layer), like)(w)[0]


def coverage(layers: dict[str, Layer], params: PyTree) -> list[Coverage]:
  """One row per layer, and one per leaf that layers do not cover whole."""
  names, leaves = trees.names(params), jax.tree.leaves(params)
  total = sum(math.prod(leaf.shape) for leaf in leaves)
  table, uncovered = [], [math.prod(leaf.shape) for leaf in leaves]
  for name, layer in layers.items():
    columns = math.prod(layer.stack) * layer.num_out
    size = columns * layer.num_in
    table.append(Coverage(name, layer.kind, size, size / total))
    uncovered[layer.leaf] -= size if layer.bias is None else size - columns
    if layer.bias is not None:
      uncovered[layer.bias] -= columns
  for name, size in zip(names, uncovered, strict=True):
    if size > 0:
      table.append(Coverage(name, 'none', size, size / total))
  return table


def check_independent(
  apply: Callable, params: PyTree, x: PyTree, tolerance: float = 1e-2
) -> None:
  """Raises ValueError if a row's outputs depend on the other rows of its batch.

  Batch normalisation by statistics of the batch does that; in such a model one
  example has no loss and no gradient.

  Args:
    apply: (params, x [B, ...]) -> tree of [B, ...].
    x: at least two different rows.
    tolerance: largest difference, relative to the largest output.
  """
  alone = jax.lax.map(
    lambda row: jax.tree.map(
      lambda y: y[0], apply(params, jax.tree.map(lambda v: v[None], row))
    ),
    x,
  )
  pairs = zip(
    jax.tree.leaves(apply(params, x)), jax.tree.leaves(alone), strict=True
  )
  for together, one in pairs:
    together, one = (np.asarray(y, np.float64) for y in (together, one))
    apart = np.abs(together - one).max()
    if not apart <= tolerance * np.abs(one).max():
      raise ValueError(
        'the outputs of an example depend on the other examples of its batch'
        f' (they are up to {np.abs(one).max():.2g} alone, and differ by up to'
        f' {apart:.2g}), so that no example has a gradient of its own: apply'
        ' batch normalisation with its running averages, or use another norm'
      )


# --- from the walk to layers ------------------------------------------------


def plan(
  outputs: Callable[[PyTree, PyTree], PyTree],
  params: PyTree,
  example: PyTree,
  as_leaf: str | Sequence[str] = (),
) -> Plan:
  """The layers of a model, and where they are in its jaxpr.

  Arguments and errors are those of `find`.
  """
  empty = traced(outputs, params, example)
  names, leaves = trees.names(params), jax.tree.leaves(params)
  forced = trees.fitting(names, as_leaf, 'as_leaf')
  uses = _walked(empty.jaxpr.jaxpr, leaves, forced)
  sites = _covering_sites(uses, leaves)
  _refuse(uses.escapes, forced, names, leaves)
  layers, name_of = _products(sites, names, leaves)
  for leaf, escapes in sorted(uses.escapes.items()):
    layers[names[leaf]] = _leaf_layer(leaf, names[leaf], leaves[leaf], escapes)
  sites = {path: (site, name_of[_key(site)]) for path, site in sites.items()}
  routes = {site.route for site, _ in sites.values() if site.route}
  inside = (*sites, *routes)
  entered = {path[:i] for path in inside for i in range(1, len(path))}
  gathers = {path: uses.gathers[path] for path in routes}
  return empty._replace(
    layers=layers, sites=sites, entered=frozenset(entered), gathers=gathers
  )


def traced(
  outputs: Callable[[PyTree, PyTree], PyTree], params: PyTree, example: PyTree
) -> Plan:
  """A model's jaxpr as a plan without layers."""
  example = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), example
  )
  jaxpr, shapes = jax.make_jaxpr(outputs, return_shape=True)(params, example)
  structure = jax.tree.structure(shapes)
  return Plan({}, {}, frozenset(), jaxpr, structure, {}, {})


def replacing(plan: Plan, equations: dict[Path, tuple]) -> Plan:
  """The plan, with some equations to be evaluated differently (`replay`)."""
  around = {path[:i] for path in equations for i in range(1, len(path))}
  return plan._replace(replaced=equations, entered=plan.entered | around)


def readers(plan: Plan) -> list[set[str]]:
  """Names of the dense layers that multiply one array, position by position.

  Layers that are applied more than once, or routed, are in none.
  """
  groups = {}
  for path, (site, name) in plan.sites.items():
    layer = plan.layers[name]
    e = equations.at(plan.jaxpr.jaxpr, path)
    if layer.shared or layer.routed or equations.name(e) != 'dot_general':
      continue
    contracted, batched = e.params['dimension_numbers']
    axes = contracted[site.operand], batched[site.operand]
    where = path[:-1], e.invars[site.operand], axes
    groups.setdefault(where, set()).add(name)
  return [*groups.values()]


def _walked(jaxpr, leaves, forced):
  """The uses of all leaves in a jaxpr; those `forced` are used as no product."""
  uses = Uses({}, {}, {}, set())
  for leaf in forced:
    uses.escapes[leaf] = [Escape('as_leaf', True)]
  values = [
    Value(None if i in forced else View(i, leaf.shape), on_params=True)
    for i, leaf in enumerate(leaves)
  ]
  rest = len(jaxpr.invars) - len(leaves)
  values += [Value(on_example=True)] * rest
  for value in walk_lib.walk(jaxpr, values, (), uses):
    if value.parameter:
      note = Escape('an output', walk_lib.is_vector(value.parameter.shape))
      uses.escapes.setdefault(value.parameter.leaf, []).append(note)
  return uses


def _key(site):
  """Sites with the same key apply the same matrix."""
  return site.view.leaf, site.view.steps


def _covering_sites(uses, leaves):
  """The products that cover all uses of their leaf; notes new escapes.

  A leaf with one other use becomes a layer as a whole, so its products are
  dropped, and with them their biases. The same holds for a bias that belongs to
  several layers.
  """
  sites, escapes = uses.sites, uses.escapes
  while True:
    held, kept = set(escapes), {}
    for path, site in sites.items():
      bias = site.bias and site.bias.leaf
      if site.view.leaf not in held:
        kept[path] = site._replace(bias=None) if bias in held else site
      elif bias is not None:
        _note_escape(escapes, bias, 'added to what is no product', leaves)
    for bias in _shared_biases(kept, leaves):
      _note_escape(escapes, bias, 'the bias of several products', leaves)
    if set(escapes) == held:
      return kept
    sites = kept


def _note_escape(escapes, leaf, why, leaves):
  """Notes a use of a leaf that is no product."""
  note = Escape(why, walk_lib.is_vector(leaves[leaf].shape))
  escapes.setdefault(leaf, []).append(note)


def _shared_biases(sites, leaves):
  """The leaves of biases that do not belong to one product alone."""
  biases = collections.defaultdict(set)  # of each matrix
  for site in sites.values():
    biases[_key(site)].add(site.bias and (site.bias.leaf, site.bias.steps))
  several = [s for s in biases.values() if len(s) > 1]
  shared = {bias[0] for s in several for bias in s if bias}
  single = [next(iter(s)) for s in biases.values() if len(s) == 1]
  matrices = {leaf for leaf, _ in biases}
  for leaf in {bias[0] for bias in single if bias}:
    parts = [bias[1] for bias in single if bias and bias[0] == leaf]
    if leaf in matrices or _overlap(parts, leaves[leaf].shape):
      shared.add(leaf)
  return shared


def _overlap(parts, shape):
  """Whether some entry is in two of the parts of a leaf."""
  if len(parts) == 1:
    return False
  at = np.arange(math.prod(shape)).reshape(shape)
  entries = np.concatenate([walk_lib.apply_steps(p, at).ravel() for p in parts])
  return np.unique(entries).size < entries.size


def _refuse(escapes, forced, names, leaves):
  """Raises ValueError for leaves whose gradient per example would be large."""
  refused, lines = [], []
  for leaf, notes in sorted(escapes.items()):
    if leaf not in forced and not all(note.cheap for note in notes):
      why = '; '.join(dict.fromkeys(note.why for note in notes))
      shape = list(leaves[leaf].shape)
      lines.append(f'  {names[leaf]} {shape}: {why}')
      refused.append(names[leaf])
  if refused:
    raise ValueError(
      'these parameters are used otherwise than in a product with one whole'
      ' matrix (the use is named after each): give'
      f' as_leaf={tuple(refused)} to hold their gradients per example, with a'
      ' diagonal block, or write the model with plain products\n'
      + '\n'.join(lines)
    )


def _products(sites, names, leaves):
  """The layers of products, and the name of each (leaf, steps)."""
  layers, name_of = {}, {}
  counts, parts = collections.Counter(), collections.defaultdict(list)
  for site in sites.values():
    key, view = _key(site), site.view
    counts[key] += view.repeats
    if key in name_of:
      continue
    parts[view.leaf].append(view.steps)
    count = len(parts[view.leaf])
    name = names[view.leaf] + (f'#{count}' if count > 1 else '')
    name_of[key] = name
    layers[name] = _layer(site, name)
  for layer in layers.values():
    again = counts[layer.leaf, layer.steps] > 1
    again |= _overlap(parts[layer.leaf], leaves[layer.leaf].shape)
    layers[layer.name] = layer._replace(shared=again)
  return layers, name_of


def _layer(site, name):
  view, bias = site.view, site.bias
  return Layer(
    name=name,
    kind=site.product.kind,
    stack=(*(length for _, length in view.scans), *site.product.stack),
    num_in=view.shape[-2] + (bias is not None),
    num_out=view.shape[-1],
    positions=site.num_positions,
    leaf=view.leaf,
    bias=bias and bias.leaf,
    shared=False,
    why='',
    steps=view.steps,
    bias_steps=bias.steps if bias else (),
    routed=site.route is not None,
    scans=len(view.scans),
  )


def _leaf_layer(leaf, name, value, escapes):
  """The layer of kind 'leaf' of a whole leaf, y = W and a = 1.

  That of scanned blocks is a stack of the blocks' own.
  """
  blocks = {note.blocks for note in escapes}
  stack = () if len(blocks) > 1 or None in blocks else tuple(blocks)
  shape = (*stack, 1, math.prod(value.shape[len(stack) :]))
  return Layer(
    name=name,
    kind='leaf',
    stack=stack,
    num_in=1,
    num_out=shape[-1],
    positions=1,
    leaf=leaf,
    bias=None,
    shared=False,
    why='; '.join(dict.fromkeys(note.why for note in escapes)),
    steps=((0, Step('reshape', shape, shape)),),
    bias_steps=(),
  )
