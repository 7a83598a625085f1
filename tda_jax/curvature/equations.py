"""What is read of JAX's equations, and nowhere else.

A jaxpr is a list of equations: a primitive, its parameters, its inputs and
outputs. JAX may rename any of these between releases, so every name is in this
file, and a name that is gone raises "JAX x.y changed ...".
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jax.extend import source_info_util

REMAT = ('checkpoint', 'remat', 'remat2')
# Equations whose inner jaxpr has the equation's own inputs and outputs.
CALLS = {
  'jit': 'jaxpr',
  'pjit': 'jaxpr',
  'closed_call': 'call_jaxpr',
  'core_call': 'call_jaxpr',
  **dict.fromkeys(REMAT, 'jaxpr'),
}
# Functions that are not entered: what they do with a parameter is unknown.
OPAQUE = (
  'custom_jvp_call',
  'custom_vjp_call',
  'custom_vjp_call_jaxpr',
  'custom_vmap_call',
  'custom_linear_solve',
  'custom_root',
  'shard_map',
  'pallas_call',
  'scatter-add',
  'scatter_add',
  'scatter_mul',
  'scatter',
  'reduce',
)
CASTS = (
  'convert_element_type',
  'copy',
  'copy_p',
  'name',
  'pcast',
  'pvary',
  'reduce_precision',
  'sharding_constraint',
)
RESHAPES = (*CASTS, 'broadcast_in_dim', 'expand_dims', 'reshape', 'squeeze')


class Step(NamedTuple):
  """One way to rearrange an array, or to cut a piece out of it."""

  kind: str  # 'reshape', 'transpose', 'reverse' or 'slice'
  argument: tuple
  shape: tuple[int, ...]  # afterwards


class Product(NamedTuple):
  """One equation that is y[h, s] = a[h, s] @ W[h], as seen by one example."""

  kind: str  # 'dense'; 'embed': a is [1, S] row numbers of W
  steps: tuple[Step, ...]  # parameter -> W [*stack, I, O]
  stack: tuple[int, ...]  # (H,): heads, experts or groups; () for none
  rows: Callable  # input of the equation -> a [H, S, I]
  columns: Callable  # output of the equation -> y [H, S, O]
  axes: tuple  # of y: None for a position, else the rank among W's axes


# --- equations that call functions ------------------------------------------


@contextlib.contextmanager
def _reading(e):
  """Turns a failed read into a sentence."""
  try:
    yield
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise RuntimeError(
      f'JAX {jax.__version__} changed the equation {name(e)!r}, which has the'
      f' parameters {sorted(e.params)} ({error!r}): install the JAX version'
      ' that this package pins, or mend curvature/equations.py'
    ) from error


def name(e) -> str:
  return e.primitive.name


def where(e) -> str:
  """The source line of the equation in the user's model."""
  return source_info_util.summarize(e.source_info)


def inner(e):
  """(jaxpr, its constants) of an equation of CALLS or of a scan."""
  with _reading(e):
    return _opened(e.params[CALLS.get(name(e), 'jaxpr')])


def branches(e):
  """(jaxpr, its constants) of each branch of a `cond`."""
  with _reading(e):
    return [_opened(branch) for branch in e.params['branches']]


def _opened(jaxpr):
  closed = isinstance(jaxpr, jex.ClosedJaxpr)
  return (jaxpr.jaxpr, jaxpr.consts) if closed else (jaxpr, ())


def scan_split(e) -> tuple[int, int]:
  """How many of a scan's inputs are constants, and how many are carried.

  Read off the shapes: what is scanned over has one axis more outside.
  """
  with _reading(e):
    body, _ = _opened(e.params['jaxpr'])

    def same(outside, inside):
      pairs = zip(outside, inside, strict=True)
      return sum(o.aval.ndim == i.aval.ndim for o, i in pairs)

    carried = same(e.outvars, body.outvars)
    return same(e.invars, body.invars) - carried, carried


def scan_options(e) -> dict[str, Any]:
  with _reading(e):
    return {k: e.params[k] for k in ('length', 'reverse', 'unroll')}


def remat_options(e) -> dict[str, Any]:
  with _reading(e):
    return {k: e.params[k] for k in ('prevent_cse', 'policy')}


def is_unknown_call(e) -> bool:
  """Whether the equation holds a function and is in none of the lists above."""
  if name(e) in (*CALLS, *OPAQUE, 'scan', 'cond', 'while'):
    return False
  jaxprs = (jex.Jaxpr, jex.ClosedJaxpr)
  return any(isinstance(value, jaxprs) for value in e.params.values())


# --- equations that rearrange -----------------------------------------------


def rearrangement(e) -> list[Step] | None:
  """How each output is the first input rearranged; None if it is not."""
  kind, shape = name(e), e.outvars[0].aval.shape
  before = e.invars[0].aval.shape
  with _reading(e):
    if kind in RESHAPES and math.prod(before) == math.prod(shape):
      if e.params.get('dimensions') is not None and kind == 'reshape':
        return None
      return [Step('reshape', shape, shape)]
    if kind == 'transpose':
      return [Step('transpose', tuple(e.params['permutation']), shape)]
    if kind == 'rev':
      return [Step('reverse', tuple(e.params['dimensions']), shape)]
    if kind == 'slice':
      stride = e.params['strides'] or (1,) * len(shape)
      start, stop = e.params['start_indices'], e.params['limit_indices']
      cut = tuple(zip(start, stop, stride, strict=True))
      return [Step('slice', cut, shape)]
    if kind == 'split':
      return _split(e, before)
  return None


def _split(e, before):
  steps, start = [], 0
  for size, out in zip(e.params['sizes'], e.outvars, strict=True):
    cut = [(0, n, 1) for n in before]
    cut[e.params['axis']] = (start, start + size, 1)
    steps.append(Step('slice', tuple(cut), out.aval.shape))
    start += size
  return steps


def broadcast_sizes(e) -> tuple[int, ...] | None:
  """Size of the input along each output axis, 1 where it is repeated."""
  if name(e) != 'broadcast_in_dim':
    return None
  with _reading(e):
    before, at = e.invars[0].aval.shape, list(e.params['broadcast_dimensions'])
    return tuple(
      before[at.index(axis)] if axis in at else 1
      for axis in range(len(e.outvars[0].aval.shape))
    )


def moved_axes(e, axes: tuple) -> tuple | None:
  """`Product.axes` after a cast, a transpose or a change of unit axes."""
  before, after = e.invars[0].aval.shape, e.outvars[0].aval.shape
  if name(e) == 'transpose':
    with _reading(e):
      return tuple(axes[i] for i in e.params['permutation'])
  wide = [n for n in before if n != 1]
  if name(e) not in RESHAPES or wide != [n for n in after if n != 1]:
    return None
  rest = iter([axis for n, axis in zip(before, axes, strict=True) if n != 1])
  return tuple(next(rest) if n != 1 else None for n in after)


# --- equations that multiply ------------------------------------------------


def product(e, operand: int) -> Product | None:
  """The equation as a product with W = input number `operand`, if it is one."""
  read = PRODUCTS.get(name(e))
  if read is None:
    return None
  with _reading(e):
    return read(e, operand, e.invars[operand].aval.shape)


def _arrangement(shape, order, *shapes):
  """The steps that transpose and then reshape, through each of `shapes`."""
  steps = [Step('transpose', tuple(order), tuple(shape[i] for i in order))]
  return (*steps, *(Step('reshape', s, s) for s in shapes))


def _dot(e, operand, shape):
  contractions, batches = e.params['dimension_numbers']
  contracted, x_contracted = contractions[operand], contractions[1 - operand]
  batch, x_batch = batches[operand], batches[1 - operand]
  x_shape = e.invars[1 - operand].aval.shape
  free = [i for i in range(len(shape)) if i not in (*contracted, *batch)]
  x_free = [
    i for i in range(len(x_shape)) if i not in (*x_contracted, *x_batch)
  ]
  size = lambda axes: math.prod(shape[i] for i in axes)
  h, i, o = size(batch), size(contracted), size(free)
  s = math.prod(x_shape[j] for j in x_free)
  heads, positions = tuple(range(len(batch))), (None,) * len(x_free)
  outs = tuple(range(len(batch), len(batch) + len(free)))
  axes = heads + (outs + positions if operand == 0 else positions + outs)
  order = [
    *heads,
    *(j for j, axis in enumerate(axes) if axis is None),
    *(axes.index(axis) for axis in outs),
  ]
  stack = (h,) if batch else ()
  return Product(
    'dense',
    _arrangement(shape, (*batch, *contracted, *free), (*stack, i, o)),
    stack,
    lambda x: x.transpose(*x_batch, *x_free, *x_contracted).reshape(h, s, i),
    lambda y: y.transpose(order).reshape(h, s, o),
    axes,
  )


def _convolution(e, operand, shape):
  """Patches of the image times the kernel, one product per feature group."""
  p = e.params
  numbers, groups = p['dimension_numbers'], p['feature_group_count']
  if operand != 1 or p['batch_group_count'] != 1:
    return None
  o, i, *space = numbers.rhs_spec
  window = [shape[j] for j in space]
  num_in, num_out = shape[i] * math.prod(window), shape[o] // groups
  feature = numbers.out_spec[1]
  options = (p['window_strides'], p['padding'], p['lhs_dilation'])
  options = (*options, p['rhs_dilation'], numbers)

  def grouped(y, size):
    y = jnp.moveaxis(y, feature, -1).reshape(-1, groups, size)
    return y.swapaxes(0, 1)

  def rows(x):
    patches = jax.lax.conv_general_dilated_patches(
      x, window, *options, precision=jax.lax.Precision.HIGHEST
    )
    return grouped(patches, num_in)

  stack = (groups,) if groups > 1 else ()
  steps = _arrangement(shape, (i, *space, o), (num_in, groups, num_out))
  last = (groups, num_in, num_out)
  steps = (*steps, Step('transpose', (1, 0, 2), last))
  if not stack:
    steps = (*steps, Step('reshape', last[1:], last[1:]))
  axes = tuple(0 if j == feature else None for j in range(len(shape)))
  return Product(
    'dense', steps, stack, rows, lambda y: grouped(y, num_out), axes
  )


def _gather(e, operand, shape):
  """Whole rows of a table, chosen by one index: an embedding."""
  d, sizes = e.params['dimension_numbers'], e.params['slice_sizes']
  starts = d.start_index_map
  # An index into an axis that is taken whole can only be 0.
  chosen = [
    r for r in starts if sizes[r] == 1 and (shape[r] > 1 or len(starts) == 1)
  ]
  if operand != 0 or len(chosen) != 1 or d.operand_batching_dims:
    return None
  (row,) = chosen
  free = [i for i in range(len(shape)) if i != row]
  whole = all(sizes[i] == shape[i] for i in free)
  if d.collapsed_slice_dims not in ((row,), ()) or not whole:
    return None
  column = starts.index(row)
  v, o = shape[row], math.prod(shape[i] for i in free)
  y_shape, offset = e.outvars[0].aval.shape, d.offset_dims
  positions = [j for j in range(len(y_shape)) if j not in offset]
  return Product(
    'embed',
    _arrangement(shape, (row, *free), (v, o)),
    (),
    lambda ids: jnp.clip(ids[..., column].reshape(1, -1), 0, v - 1),
    lambda y: y.transpose(*positions, *offset).reshape(1, -1, o),
    tuple(
      offset.index(j) if j in offset and n != 1 else None
      for j, n in enumerate(y_shape)
    ),
  )


PRODUCTS = {
  'dot_general': _dot,
  'conv_general_dilated': _convolution,
  'gather': _gather,
}
