"""The equations that multiply by a parameter, each written as y[s] = a[s] @ W."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from tda_jax.layers import equations
from tda_jax.layers.equations import Product, Step, reading, shape_of


def product(e: jex.JaxprEqn, operand: int) -> Product | None:
  """The equation as a product with W = input number `operand`, if it is one."""
  read = PRODUCTS.get(equations.name(e))
  if read is None:
    return None
  with reading(e):
    return read(e, operand, shape_of(e.invars[operand]))


def _arrangement(shape, order, *shapes):
  """The steps that transpose and then reshape, through each of `shapes`."""
  steps = [Step('transpose', tuple(order), tuple(shape[i] for i in order))]
  return (*steps, *(Step('reshape', s, s) for s in shapes))


def _dot(e, operand, shape):
  contractions, batches = e.params['dimension_numbers']
  contracted, x_contracted = contractions[operand], contractions[1 - operand]
  batch, x_batch = batches[operand], batches[1 - operand]
  x_shape = shape_of(e.invars[1 - operand])
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
  mode = e.params['mode']
  clipped = mode is not None and mode.name == 'CLIP'
  v, o = shape[row], math.prod(shape[i] for i in free)
  limits = [shape[r] - sizes[r] for r in starts]
  y_shape, offset = shape_of(e.outvars[0]), d.offset_dims
  positions = [j for j in range(len(y_shape)) if j not in offset]
  return Product(
    'embed',
    _arrangement(shape, (row, *free), (v, o)),
    (),
    lambda ids: _chosen_rows(
      ids.reshape(-1, len(starts)), starts.index(row), limits, clipped
    )[None],
    lambda y: y.transpose(*positions, *offset).reshape(1, -1, o),
    tuple(
      offset.index(j) if j in offset and n != 1 else None
      for j, n in enumerate(y_shape)
    ),
  )


def is_promised(e: jex.JaxprEqn) -> bool:
  """Whether the equation is a gather whose indices are not checked."""
  if equations.name(e) != 'gather':
    return False
  with reading(e):
    mode = e.params['mode']
    return mode is None or mode.name == 'PROMISE_IN_BOUNDS'


def dropping(e: jex.JaxprEqn, operands: Sequence[jax.Array]) -> jax.Array:
  """The output of a promised gather, without a derivative at indices outside."""
  with reading(e):
    given = {
      k: e.params[k]
      for k in ('dimension_numbers', 'slice_sizes', 'indices_are_sorted')
    }
  table, at = operands
  value = jax.lax.gather(table, at, mode='promise_in_bounds', **given)
  moved = jax.lax.gather(table, at, mode='fill', fill_value=0, **given)
  fixed = jax.lax.stop_gradient
  return fixed(value) + (moved - fixed(moved))


def _chosen_rows(ids, column, limits, clipped):
  """Rows [S] that the gradient of a gather reaches, from indices [S, columns].

  This follows `jax.grad`: mode 'clip' moves an index into the table; in all other
  modes the gradient of an index outside is dropped, whatever value was read for
  it (fill, or by XLA a row of the table). A dropped index becomes limit + 1, the
  first row number beyond the table.
  """
  limit, inside, rows = limits[column], True, ids[:, column]
  for index, last in zip(ids.T, limits, strict=True):
    last = min(last, jnp.iinfo(ids.dtype).max)
    inside &= clipped | ((index >= 0) & (index <= last))
  # Clipped in the indices' own type, which may be too small for the limit.
  rows = jnp.clip(rows, 0, min(limit, jnp.iinfo(ids.dtype).max))
  return jnp.where(inside, rows.astype(jnp.int32), limit + 1)


def _dynamic_slice(e, operand, shape):
  """One row of a table, by an index of no axes; JAX clips it."""
  chosen = chosen_axis(e)
  if operand != 0 or chosen is None:
    return None
  free = [i for i in range(len(shape)) if i != chosen]
  v, o = shape[chosen], math.prod(shape[i] for i in free)
  return Product(
    'embed',
    _arrangement(shape, (chosen, *free), (v, o)),
    (),
    lambda i: _chosen_rows(i.reshape(1, 1), 0, [v - 1], True)[None],
    lambda y: y.reshape(1, 1, o),
    tuple(
      None if j == chosen or n == 1 else free.index(j)
      for j, n in enumerate(shape)
    ),
  )


def chosen_axis(e: jex.JaxprEqn) -> int | None:
  """The one axis of which a `dynamic_slice` takes one row, all else whole."""
  shape, sizes = shape_of(e.invars[0]), e.params['slice_sizes']
  cut = [i for i, n in enumerate(shape) if sizes[i] != n]
  return cut[0] if len(cut) == 1 and sizes[cut[0]] == 1 else None


def pairs(e: jex.JaxprEqn) -> list[tuple[int, int]]:
  """(number of the input that may be W, that of the input for `a`), all pairs."""
  if equations.name(e) == 'dynamic_slice':
    with reading(e):
      axis = chosen_axis(e)
    return [] if axis is None else [(0, 1 + axis)]
  return [(0, 1), (1, 0)] if len(e.invars) == 2 else []


class _Roles(NamedTuple):
  """The roles of the axes of gathered matrices w and of x in their product."""

  batch: list  # of w, as are the next three
  contracted: list
  beside: list  # positions of the gather that x does not have
  outs: list
  x_batch: list
  x_contracted: list
  x_free: list


def _roles(e, operand, axes, shape, x_shape):
  """The roles; None if the sum is not over axes of the matrix alone."""
  contractions, batches = e.params['dimension_numbers']
  batch, contracted = batches[operand], contractions[operand]
  position = [axis is not None and axis < 0 for axis in axes]
  side = [axis is not None and axis >= 0 for axis in axes]
  if any(position[j] for j in contracted) or any(side[j] for j in batch):
    return None
  free = [j for j in range(len(shape)) if j not in (*contracted, *batch)]
  x_batch, x_contracted = batches[1 - operand], contractions[1 - operand]
  return _Roles(
    batch,
    contracted,
    [j for j in free if not side[j]],
    [j for j in free if side[j]],
    x_batch,
    x_contracted,
    [j for j in range(len(x_shape)) if j not in (*x_contracted, *x_batch)],
  )


def of_gathered(
  e: jex.JaxprEqn, operand: int, axes: tuple, count: int
) -> Product | None:
  """A `dot_general` with matrices that a gather chose: y[s] = a[s] @ W[n[s]].

  Args:
    axes: for each axis of input number `operand`: its rank among the axes of one
      matrix; −1, −2, ... for the gather's positions; None for an axis of one
      entry.
    count: number of matrices W.

  Returns:
    A product whose stack is all the matrices, but with H = 1 in a and y:
    `entries` gives the matrix of each position. Its steps start from [count, *the
    matrix's axes]. None if the sum is over other axes than the matrix's.
  """
  shape, x_shape = (shape_of(e.invars[i]) for i in (operand, 1 - operand))
  with reading(e):
    roles = _roles(e, operand, axes, shape, x_shape)
  if roles is None:
    return None
  size = lambda dims, of=shape: math.prod(of[j] for j in dims)
  h, r = size(roles.batch), size(roles.beside)
  i, o, n = (
    size(roles.contracted),
    size(roles.outs),
    size(roles.x_free, x_shape),
  )
  # The sides of the matrix as the gather had them, without those of one entry.
  ranks = sorted(axis for axis in axes if axis is not None and axis >= 0)
  sides = tuple(shape[axes.index(rank)] for rank in ranks)
  at = lambda dims: [
    1 + ranks.index(axes[j]) for j in dims if axes[j] is not None
  ]
  order = (0, *at(roles.contracted), *at(roles.outs))
  whole = (count, *sides)

  def rows(x):
    x = x.transpose(*roles.x_batch, *roles.x_free, *roles.x_contracted)
    x = x.reshape(h, n, 1, i)
    return jnp.broadcast_to(x, (h, n, r, i)).reshape(1, -1, i)

  return Product(
    'dense',
    (
      Step('reshape', whole, whole),
      *_arrangement(whole, order, (count, i, o)),
    ),
    (count,),
    rows,
    _gathered_columns(roles, operand, o),
    (),
    _gathered_entries(roles, axes, shape, n),
  )


def _gathered_columns(roles, operand, num_out):
  """y -> [1, S, O]; the axes of y are batch, then those of x and w in input order."""
  w = sorted((*roles.beside, *roles.outs))
  free = [('x', j) for j in roles.x_free], [('w', j) for j in w]
  first, second = free[::-1] if operand == 0 else free
  batch = [('batch', j) for j in roles.batch]
  names = [*batch, *first, *second]
  wanted = [*batch, *free[0], *(('w', j) for j in (*roles.beside, *roles.outs))]
  order = [names.index(v) for v in wanted]
  return lambda y: y.transpose(order).reshape(1, -1, num_out)


def _gathered_entries(roles, axes, shape, repeats):
  """The matrices' numbers at the gather's positions -> at those of the product."""
  h, r = (
    math.prod(shape[j] for j in dims) for dims in (roles.batch, roles.beside)
  )
  wide = [j for j, axis in enumerate(axes) if axis is not None and axis < 0]
  wide = sorted(wide, key=lambda j: -axes[j])  # as the gather had them
  order = [wide.index(j) for j in (*roles.batch, *roles.beside) if j in wide]

  def entries(numbers):
    numbers = numbers.reshape([shape[j] for j in wide]).transpose(order)
    return jnp.broadcast_to(numbers.reshape(h, 1, r), (h, repeats, r)).ravel()

  return entries


PRODUCTS = {
  'dot_general': _dot,
  'conv_general_dilated': _convolution,
  'gather': _gather,
  'dynamic_slice': _dynamic_slice,
}
